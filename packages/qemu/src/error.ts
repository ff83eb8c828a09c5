/** QEMU is not there, or does not answer as it should. The message ends with what QEMU said on its standard error. */
export class QemuError extends Error {
  override readonly name = "QemuError";
}
