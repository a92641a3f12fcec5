// Writes a cpio archive in the "newc" format, which Linux unpacks as its initramfs.
// Owns the format only (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel); reads no files.

/** One entry of the archive. */
export interface CpioEntry {
  /** Path without leading slash. */
  readonly name: string;
  /** File type and permission bits as in st_mode. */
  readonly mode: number;
  readonly data?: Buffer;
  /** Major and minor number of a device node. */
  readonly device?: readonly [number, number];
}

const FILE = 0o100000;
const FOLDER = 0o040000;
const SYMLINK = 0o120000;
const CHAR_DEVICE = 0o020000;

/** A regular file. */
export function cpioFile(name: string, data: Buffer, permissions = 0o644): CpioEntry {
  return { name, mode: FILE | permissions, data };
}

/** A folder; parents come first in the archive. */
export function cpioFolder(name: string): CpioEntry {
  return { name, mode: FOLDER | 0o755 };
}

/** A symbolic link. */
export function cpioLink(name: string, target: string): CpioEntry {
  return { name, mode: SYMLINK | 0o777, data: Buffer.from(target) };
}

/** A character device node. */
export function cpioDevice(name: string, major: number, minor: number): CpioEntry {
  return { name, mode: CHAR_DEVICE | 0o600, device: [major, minor] };
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}

function record(entry: CpioEntry, inode: number): Buffer {
  const data = entry.data ?? Buffer.alloc(0);
  const name = Buffer.from(`${entry.name}\0`);
  const [major, minor] = entry.device ?? [0, 0];
  // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
  const fields = [inode, entry.mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
  const head = Buffer.concat([Buffer.from(`070701${fields.map(hex).join('')}`), name]);
  return Buffer.concat([head, padding(head.length), data, padding(data.length)]);
}

/** The whole archive, trailer included. Times and owners are zero, so equal entries give equal bytes. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.map((entry, index) => record(entry, index + 1));
  parts.push(record({ name: 'TRAILER!!!', mode: 0 }, 0));
  return Buffer.concat(parts);
}
