import { VirtioFault } from "../../fault.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import type { DeviceContext } from "../../device/device.ts";

const CLAUSE = "drv.console.operation";

/** "The driver MUST NOT put a device-readable buffer in a receiveq." False: the device has failed. */
export function checkReceiveBuffer(chain: DescriptorChain, queue: number, context: DeviceContext): boolean {
  if (chain.readable.length === 0 && chain.writableLength > 0) return true;
  const found = chain.readable.length > 0 ? "a device-readable buffer" : "no device-writable buffer";
  context.fail(new VirtioFault(CLAUSE, `${found} in a receiveq`, { queue, descriptor: chain.token }));
  return false;
}

/** "The driver MUST NOT put a device-writable buffer in a transmitq." False: the device has failed. */
export function checkTransmitBuffer(chain: DescriptorChain, queue: number, context: DeviceContext): boolean {
  if (chain.writable.length === 0) return true;
  context.fail(
    new VirtioFault(CLAUSE, "a device-writable buffer in a transmitq", { queue, descriptor: chain.token }),
  );
  return false;
}
