/** A file from the page's server; `onProgress` hears a fraction from 0 to 1. Throws an Error that says what is missing. */
export async function fetchFile(url: string, onProgress: (done: number) => void): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok || response.body === null)
    throw new Error(
      `${url}: ${response.status} ${response.statusText}; run "npm start" once to fetch the guest kernel`,
    );
  const total = Number(response.headers.get("content-length") ?? 0);
  const pieces: Uint8Array[] = [];
  let done = 0;
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    done += piece.value.length;
    if (total > 0) onProgress(Math.min(1, done / total));
  }
  onProgress(1);
  const bytes = new Uint8Array(done);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
