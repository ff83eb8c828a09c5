import type { QmpClient } from "../qmp/client.ts";

/** An object of the machine. */
export interface QomObject {
  readonly path: string;
  readonly type: string;
}

/** Where boards put interrupt controllers and hosts: below the machine itself, and below these. */
const DEEPEST = 3;

/**
 * Objects of these types, in order of their paths. QEMU has no command that finds objects, so the tree is walked, as
 * deep as boards put controllers.
 */
export async function findObjects(qmp: QmpClient, types: ReadonlySet<string>): Promise<readonly QomObject[]> {
  const found: QomObject[] = [];
  const visit = async (path: string, depth: number): Promise<void> => {
    const properties = await qmp.execute("qom-list", { path });
    if (!Array.isArray(properties)) return;
    const children = properties.flatMap(childOf);
    // Pipelined: an answer of QEMU costs more than the question.
    await Promise.all(
      children.map(async ({ name, type }) => {
        const object = { path: `${path}/${name}`, type };
        if (types.has(type)) found.push(object);
        else if (depth < DEEPEST && isBranch(type)) await visit(object.path, depth + 1);
      }),
    );
  };
  await visit("/machine", 1);
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function childOf(property: unknown): { name: string; type: string }[] {
  if (typeof property !== "object" || property === null) return [];
  if (!("name" in property) || !("type" in property)) return [];
  const { name, type } = property;
  if (typeof name !== "string" || typeof type !== "string") return [];
  const child = /^child<(.+)>$/.exec(type)?.[1];
  return child === undefined ? [] : [{ name, type: child }];
}

/** Most objects are memory regions and interrupt pins, which hold nothing. */
function isBranch(type: string): boolean {
  return type === "container" || type.endsWith("pcihost") || type.endsWith("-cpu-cluster");
}
