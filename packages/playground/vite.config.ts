import { createReadStream, existsSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig, type Connect, type Plugin } from "vite";

const repository = fileURLToPath(new URL("../../", import.meta.url));
const guest = process.env["VIRTIO_GUEST"] ?? `${repository}.virtio/guest`;

/** Serves the guest kernel and initrd that `npm start` fetched, below /guest/. */
const guestFiles = (): Plugin => {
  const serve: Connect.NextHandleFunction = (request, response, next) => {
    const name = /^\/guest\/(vmlinux|initrd)$/.exec(request.url ?? "")?.[1];
    if (name === undefined) return next();
    const file = `${guest}/${name}`;
    if (!existsSync(file)) {
      response.statusCode = 404;
      return response.end();
    }
    response.setHeader("content-type", "application/octet-stream");
    response.setHeader("content-length", statSync(file).size);
    createReadStream(file).pipe(response);
  };
  return {
    name: "guest-files",
    configureServer: (server) => void server.middlewares.use(serve),
    configurePreviewServer: (server) => void server.middlewares.use(serve),
  };
};

export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  resolve: { conditions: ["source", "module", "browser", "development|production"] },
  plugins: [guestFiles()],
  server: { fs: { allow: [repository] } },
  // v86 comes as one finished module; scanning it takes longer than serving it.
  optimizeDeps: { exclude: ["v86"] },
});
