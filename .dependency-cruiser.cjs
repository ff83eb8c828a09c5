/** The boundaries of ARCHITECTURE.md: a package imports only from the packages left of it, a room only from the rooms below. */
const pkg = (name) => `^packages/${name}/`;
/** A room, or one file of it: `memory/utf8`. */
const core = (room) => `^packages/virtio/src/${room}[/.]`;
const forbid = (name, from, to) => ({ name, severity: "error", from: { path: from }, to: { path: to } });
const only = (room, allowed) => ({
  name: `virtio-${room}`,
  severity: "error",
  from: { path: core(room) },
  to: {
    path: "^packages/virtio/src/",
    pathNot: [core(room), "^packages/virtio/src/(fault|all-done|check-option)\\.ts$", ...allowed.map(core)],
  },
});
/** Node's own modules stay out of what also runs in a browser. */
const noNode = (name, from) => ({ name, severity: "error", from, to: { dependencyTypes: ["core"] } });
/** A device type (or its driver) imports no other device type. */
const apart = (room) => ({
  name: `virtio-${room}-apart`,
  severity: "error",
  from: { path: `^packages/virtio/src/${room}/([^/]+)/` },
  to: { path: `^packages/virtio/src/${room}/`, pathNot: `^packages/virtio/src/${room}/$1/` },
});

module.exports = {
  forbidden: [
    {
      name: "no-cycles",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    { name: "resolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
    forbid("virtio-imports-nothing", pkg("virtio"), "^(packages/(?!virtio/)|node_modules)"),
    noNode("virtio-no-node", { path: pkg("virtio") }),
    noNode("v86-no-node", { path: pkg("v86"), pathNot: "^packages/v86/src/node\\.ts$" }),
    noNode("playground-no-node", { path: "^packages/playground/src/" }),
    forbid("testkit-below", pkg("testkit"), "^packages/(node|v86|qemu|cli|playground)/"),
    forbid("playground-below", pkg("playground"), "^packages/(node|vhost-user|qemu|cli|testkit)/"),
    apart("devices"),
    apart("drivers"),
    forbid("bus-knows-no-fault", core("bus"), "^packages/virtio/src/fault\\.ts$"),
    forbid("node-below", pkg("node"), "^packages/(vhost-user|v86|qemu|testkit|cli|playground)/"),
    forbid("vhost-user-below", pkg("vhost-user"), "^packages/(v86|qemu|testkit|cli|playground)/"),
    forbid("v86-below", pkg("v86"), "^packages/(node|vhost-user|qemu|testkit|cli|playground)/"),
    forbid("qemu-below", pkg("qemu"), "^packages/(v86|testkit|cli|playground)/"),
    forbid("cli-below", pkg("cli"), "^packages/(testkit|playground)/"),
    only("spec", []),
    only("memory", ["spec"]),
    only("virtqueue", ["spec", "memory"]),
    only("device", ["spec", "memory", "virtqueue"]),
    only("bus", []),
    only("transport", ["spec", "memory", "virtqueue", "device", "bus"]),
    only("protocols", ["memory"]),
    only("backends", ["device", "memory/utf8"]),
    only("devices", ["spec", "memory", "device", "backends", "virtqueue", "protocols"]),
    only("driver", ["spec", "memory", "virtqueue", "bus"]),
    only("drivers", ["spec", "memory", "virtqueue", "driver", "protocols"]),
  ],
  options: {
    doNotFollow: { path: "node_modules|dist" },
    exclude: { path: "(^|/)(dist|test)/" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.base.json" },
    enhancedResolveOptions: { conditionNames: ["source", "import", "types"], exportsFields: ["exports"] },
  },
};
