/** Numbers of the PCI Local Bus Specification 3.0: the type 0 configuration header and two capabilities. */

/** Offsets in configuration space. */
export const PCI_VENDOR_ID = 0x00;
export const PCI_DEVICE_ID = 0x02;
export const PCI_COMMAND = 0x04;
export const PCI_STATUS = 0x06;
export const PCI_REVISION_ID = 0x08;
/** Three bytes: programming interface, subclass, base class. */
export const PCI_CLASS = 0x09;
export const PCI_HEADER_TYPE = 0x0e;
export const PCI_BAR0 = 0x10;
export const PCI_SUBSYSTEM_VENDOR_ID = 0x2c;
export const PCI_SUBSYSTEM_ID = 0x2e;
export const PCI_CAPABILITIES = 0x34;
export const PCI_INTERRUPT_LINE = 0x3c;
export const PCI_INTERRUPT_PIN = 0x3d;
/** Where the device-dependent region starts. */
export const PCI_HEADER_SIZE = 0x40;
/** Bytes of a conventional function's configuration space. */
export const PCI_CONFIG_SIZE = 256;
export const PCI_BAR_COUNT = 6;

export const PCI_COMMAND_IO = 0x0001;
export const PCI_COMMAND_MEMORY = 0x0002;
export const PCI_COMMAND_MASTER = 0x0004;
export const PCI_COMMAND_PARITY = 0x0040;
export const PCI_COMMAND_SERR = 0x0100;
export const PCI_COMMAND_INTX_DISABLE = 0x0400;

export const PCI_STATUS_INTERRUPT = 0x0008;
export const PCI_STATUS_CAPABILITIES = 0x0010;

/** Low bits of a base address register. */
export const PCI_BAR_IO = 1;
export const PCI_BAR_MEMORY64 = 4;
export const PCI_BAR_PREFETCHABLE = 8;

export const PCI_CAP_ID_VENDOR = 0x09;
export const PCI_CAP_ID_MSIX = 0x11;

/** The MSI-X capability: offsets from its start. */
export const PCI_MSIX_CONTROL = 2;
export const PCI_MSIX_TABLE = 4;
export const PCI_MSIX_PBA = 8;
export const PCI_MSIX_CAP_SIZE = 12;
export const PCI_MSIX_CONTROL_SIZE_MASK = 0x07ff;
export const PCI_MSIX_CONTROL_MASK_ALL = 0x4000;
export const PCI_MSIX_CONTROL_ENABLE = 0x8000;
export const PCI_MSIX_MAX_VECTORS = 2048;

/** An entry of the MSI-X table. */
export const PCI_MSIX_ENTRY_SIZE = 16;
export const PCI_MSIX_ENTRY_ADDRESS = 0;
export const PCI_MSIX_ENTRY_ADDRESS_HIGH = 4;
export const PCI_MSIX_ENTRY_DATA = 8;
export const PCI_MSIX_ENTRY_CONTROL = 12;
export const PCI_MSIX_ENTRY_MASKED = 1;
