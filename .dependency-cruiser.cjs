/** The boundaries of ARCHITECTURE.md: a package imports only from the packages left of it, a room only from the rooms below. */
const pkg = (name) => `^packages/${name}/`;
const core = (room) => `^packages/virtio/src/${room}/`;
const forbid = (name, from, to) => ({ name, severity: "error", from: { path: from }, to: { path: to } });
const only = (room, allowed) => ({
  name: `virtio-${room}`,
  severity: "error",
  from: { path: core(room) },
  to: { path: "^packages/virtio/src/", pathNot: [core(room), "^packages/virtio/src/fault\\.ts$", ...allowed.map(core)] },
});

module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } } },
    forbid("virtio-imports-nothing", pkg("virtio"), "^(packages/(?!virtio/)|node_modules|node:)"),
    forbid("node-below", pkg("node"), "^packages/(v86|testkit|cli|playground)/"),
    forbid("v86-below", pkg("v86"), "^packages/(node|testkit|cli|playground)/"),
    forbid("cli-below", pkg("cli"), "^packages/(testkit|playground)/"),
    only("spec", []),
    only("memory", ["spec"]),
    only("virtqueue", ["spec", "memory"]),
    only("device", ["spec", "memory", "virtqueue"]),
    only("bus", []),
    only("transport", ["spec", "memory", "virtqueue", "device", "bus"]),
    only("backends", ["device"]),
    only("devices", ["spec", "memory", "device", "backends", "virtqueue"]),
    only("driver", ["spec", "memory", "virtqueue", "bus"]),
    only("drivers", ["spec", "memory", "virtqueue", "driver"]),
  ],
  options: {
    doNotFollow: { path: "node_modules|dist" },
    exclude: { path: "(^|/)(dist|test)/" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.base.json" },
    enhancedResolveOptions: { conditionNames: ["source", "import", "types"], exportsFields: ["exports"] },
  },
};
