import { wholeOption } from "../../check-option.ts";
import type { StandardPciFunction } from "../../bus/pci/function.ts";
import { PCI_CAP_ID_VENDOR } from "../../bus/pci/registers.ts";
import type { AccessSize } from "../../bus/types.ts";
import {
  VIRTIO_PCI_CAP,
  VIRTIO_PCI_CAP64,
  VIRTIO_PCI_CAP64_SIZE,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SIZE,
  VIRTIO_PCI_CAP_VENDOR_CFG,
  VIRTIO_PCI_CFG_CAP,
  VIRTIO_PCI_CFG_CAP_SIZE,
  VIRTIO_PCI_NOTIFY_CAP,
  VIRTIO_PCI_NOTIFY_CAP_SIZE,
  VIRTIO_PCI_VENDOR_ID,
  VIRTIO_PCI_VNDR_DATA,
  VIRTIO_PCI_VNDR_DATA_SIZE,
} from "../../spec/pci.ts";
import { MODERN_BAR, SHARED_MEMORY_BAR, type ModernLayout } from "./layout.ts";
import type { PciVendorData } from "./options.ts";

/** `cap_vndr` and `cap_next` belong to the function; a body starts after them. */
const BODY = 2;

/** A virtio structure capability of `size` bytes, as the body that `addCapability` takes. */
function structure(
  type: number,
  bar: number,
  id: number,
  offset: number,
  length: number,
  size: number,
): DataView {
  const body = new DataView(new ArrayBuffer(size - BODY));
  body.setUint8(VIRTIO_PCI_CAP.cap_len - BODY, size);
  body.setUint8(VIRTIO_PCI_CAP.cfg_type - BODY, type);
  body.setUint8(VIRTIO_PCI_CAP.bar - BODY, bar);
  body.setUint8(VIRTIO_PCI_CAP.id - BODY, id);
  body.setUint32(VIRTIO_PCI_CAP.offset - BODY, offset % 2 ** 32, true);
  body.setUint32(VIRTIO_PCI_CAP.length - BODY, length % 2 ** 32, true);
  return body;
}

function add(fn: StandardPciFunction, body: DataView, writable?: Uint8Array): number {
  return fn.addCapability(PCI_CAP_ID_VENDOR, new Uint8Array(body.buffer), writable);
}

/** Common configuration, ISR status, device-specific configuration and notification, all in the modern BAR. */
export function addStructures(fn: StandardPciFunction, layout: ModernLayout): void {
  const plain = (type: number, offset: number, length: number): DataView =>
    structure(type, MODERN_BAR, 0, offset, length, VIRTIO_PCI_CAP_SIZE);
  add(fn, plain(VIRTIO_PCI_CAP_COMMON_CFG, layout.common, layout.commonLength));
  add(fn, plain(VIRTIO_PCI_CAP_ISR_CFG, layout.isr, layout.isrLength));
  if (layout.deviceLength > 0) add(fn, plain(VIRTIO_PCI_CAP_DEVICE_CFG, layout.device, layout.deviceLength));
  const notify = structure(
    VIRTIO_PCI_CAP_NOTIFY_CFG,
    MODERN_BAR,
    0,
    layout.notify,
    layout.notifyLength,
    VIRTIO_PCI_NOTIFY_CAP_SIZE,
  );
  notify.setUint32(VIRTIO_PCI_NOTIFY_CAP.notify_off_multiplier - BODY, layout.notifyMultiplier, true);
  add(fn, notify);
}

/** "Shared memory capability": the 64-bit form. */
export function addSharedMemory(fn: StandardPciFunction, id: number, offset: number, length: number): void {
  const type = VIRTIO_PCI_CAP_SHARED_MEMORY_CFG;
  const body = structure(type, SHARED_MEMORY_BAR, id, offset, length, VIRTIO_PCI_CAP64_SIZE);
  body.setUint32(VIRTIO_PCI_CAP64.offset_hi - BODY, Math.floor(offset / 2 ** 32), true);
  body.setUint32(VIRTIO_PCI_CAP64.length_hi - BODY, Math.floor(length / 2 ** 32), true);
  add(fn, body);
}

/** "Vendor data capability". Throws a RangeError on the vendor id that is not allowed. */
export function addVendorData(fn: StandardPciFunction, vendor: PciVendorData): void {
  wholeOption("PCI: vendorId of vendor data", vendor.vendorId, 0, 0xffff);
  if (vendor.vendorId === VIRTIO_PCI_VENDOR_ID)
    throw new RangeError("PCI: vendorId of vendor data must not be 0x1af4");
  const size = Math.ceil((VIRTIO_PCI_VNDR_DATA_SIZE + vendor.data.length) / 4) * 4;
  const body = new DataView(new ArrayBuffer(size - BODY));
  body.setUint8(VIRTIO_PCI_VNDR_DATA.cap_len - BODY, size);
  body.setUint8(VIRTIO_PCI_VNDR_DATA.cfg_type - BODY, VIRTIO_PCI_CAP_VENDOR_CFG);
  body.setUint16(VIRTIO_PCI_VNDR_DATA.vendor_id - BODY, vendor.vendorId, true);
  new Uint8Array(body.buffer).set(vendor.data, VIRTIO_PCI_VNDR_DATA_SIZE - BODY);
  add(fn, body);
}

/** "PCI configuration access capability": a window from the configuration space into every BAR. */
export function addConfigAccess(fn: StandardPciFunction): void {
  const body = structure(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 0, VIRTIO_PCI_CFG_CAP_SIZE);
  const writable = new Uint8Array(body.byteLength);
  writable[VIRTIO_PCI_CAP.bar - BODY] = 0xff;
  writable.fill(0xff, VIRTIO_PCI_CAP.offset - BODY);
  const at = add(fn, body, writable);
  const data = at + VIRTIO_PCI_CFG_CAP.pci_cfg_data;
  /** The access that the registers describe, or undefined when it is none that a driver may ask for. */
  const access = (): { bar: number; offset: number; size: AccessSize } | undefined => {
    const offset = fn.config.read(at + VIRTIO_PCI_CAP.offset, 4);
    const size = fn.config.read(at + VIRTIO_PCI_CAP.length, 4);
    if ((size !== 1 && size !== 2 && size !== 4) || offset % size !== 0) return undefined;
    return { bar: fn.config.read(at + VIRTIO_PCI_CAP.bar, 1), offset, size };
  };
  fn.addWindow({
    offset: data,
    length: 4,
    beforeRead: () => {
      const wanted = access();
      if (wanted === undefined) return;
      const value = fn.readBar(wanted.bar, wanted.offset, wanted.size);
      if (value !== undefined) fn.config.set(data, wanted.size, value);
    },
    afterWrite: () => {
      const wanted = access();
      if (wanted === undefined) return;
      fn.writeBar(wanted.bar, wanted.offset, wanted.size, fn.config.read(data, wanted.size));
    },
  });
}
