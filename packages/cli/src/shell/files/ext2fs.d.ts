/** The part of ext2fs that is used; the package has no types of its own. */
declare module "ext2fs" {
  export interface Disk {
    read(
      buffer: Uint8Array,
      bufferOffset: number,
      length: number,
      offset: number,
    ): Promise<{ bytesRead: number; buffer: Uint8Array }>;
    write(
      buffer: Uint8Array,
      bufferOffset: number,
      length: number,
      offset: number,
    ): Promise<{ bytesWritten: number; buffer: Uint8Array }>;
    discard(offset: number, length: number): Promise<void>;
    flush(): Promise<void>;
  }
  export interface Stats {
    readonly mode: number;
    readonly size: number;
  }
  export interface FileHandle {
    readonly fd: number;
    read(
      buffer: Uint8Array,
      offset: number,
      length: number,
      position: number,
    ): Promise<{ bytesRead: number }>;
    write(
      buffer: Uint8Array,
      offset: number,
      length: number,
      position: number,
    ): Promise<{ bytesWritten: number }>;
  }
  export interface Mounted {
    readonly promises: {
      readdir(path: string): Promise<string[]>;
      lstat(path: string): Promise<Stats>;
      stat(path: string): Promise<Stats>;
      open(path: string, flags: string, mode?: number): Promise<FileHandle>;
      close(fd: number): Promise<void>;
    };
  }
  const ext2fs: {
    mount(disk: Disk, offset?: number): Promise<Mounted>;
    umount(mounted: Mounted): Promise<void>;
  };
  export default ext2fs;
}
