/** Devices behind a real hypervisor, and drivers on anybody's back-end: the vhost-user protocol from both ends. */
export { openDescriptors } from "./native/descriptor.ts";
