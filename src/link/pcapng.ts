// Blocks of a pcapng file (draft-ietf-opsawg-pcapng): section header, interface description, enhanced packet, interface statistics.
// Bytes only: each function writes one whole block at an offset and returns its length. Little endian, microseconds.

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const LINKTYPE_ETHERNET = 1;

const OPT_END = 0;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_TSRESOL = 9;
const EPB_FLAGS = 2;
const ISB_IFRECV = 4;
const ISB_IFDROP = 5;

const TWO_32 = 0x1_0000_0000;

/** Seen from the daemon: inbound comes from the guest. The values are those of `epb_flags`. */
export const Direction = { Inbound: 1, Outbound: 2 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

/** Bytes of an enhanced packet block beside the (padded) packet. */
const PACKET_BLOCK_OVERHEAD = 28 + 8 + 4 + 4;
/** Longest interface name kept, in bytes. */
export const MAX_INTERFACE_NAME_BYTES = 255;
/** Room that any block without a packet needs. */
export const MAX_CONTROL_BLOCK_BYTES = 512;

/** Bytes of the block of a packet of which `captured` bytes are kept. */
export function packetBlockBytes(captured: number): number {
  return PACKET_BLOCK_OVERHEAD + pad4(captured);
}

/** Section header: the file's first block. */
export function writeSectionHeader(buf: Buffer, off: number, application: string): number {
  let at = head(buf, off, SECTION_HEADER);
  at = buf.writeUInt32LE(BYTE_ORDER_MAGIC, at);
  at = buf.writeUInt16LE(1, at);
  at = buf.writeUInt16LE(0, at);
  // Section length: not told, the section ends with the file.
  at = buf.writeBigInt64LE(-1n, at);
  at = textOption(buf, at, SHB_USERAPPL, application);
  return tail(buf, off, endOptions(buf, at));
}

/** Interface description; interfaces are numbered by the order of these blocks, from 0. `snapLen` 0 = no limit. */
export function writeInterface(buf: Buffer, off: number, name: string, snapLen: number): number {
  let at = head(buf, off, INTERFACE_DESCRIPTION);
  at = buf.writeUInt16LE(LINKTYPE_ETHERNET, at);
  at = buf.writeUInt16LE(0, at);
  at = buf.writeUInt32LE(snapLen, at);
  at = textOption(buf, at, IF_NAME, name);
  at = option(buf, at, IF_TSRESOL, 1);
  buf.writeUInt32LE(6, at);
  return tail(buf, off, endOptions(buf, at + 4));
}

/** One frame: `captured` of its `len` bytes from `src` at `srcOff`. @param micros since 1970. */
export function writePacket(
  buf: Buffer,
  off: number,
  iface: number,
  micros: number,
  direction: Direction,
  src: Uint8Array,
  srcOff: number,
  captured: number,
  len: number,
): number {
  let at = head(buf, off, ENHANCED_PACKET);
  at = buf.writeUInt32LE(iface, at);
  at = timestamp(buf, at, micros);
  at = buf.writeUInt32LE(captured, at);
  at = buf.writeUInt32LE(len, at);
  // Copy: the file is written later, the frame's memory is the link's.
  buf.set(src.subarray(srcOff, srcOff + captured), at);
  at = zeroPad(buf, at + captured, captured);
  at = option(buf, at, EPB_FLAGS, 4);
  at = buf.writeUInt32LE(direction, at);
  return tail(buf, off, endOptions(buf, at));
}

/** Statistics of one interface: frames seen, and those of them that are missing in the file. */
export function writeStatistics(
  buf: Buffer,
  off: number,
  iface: number,
  micros: number,
  received: number,
  dropped: number,
): number {
  let at = head(buf, off, INTERFACE_STATISTICS);
  at = buf.writeUInt32LE(iface, at);
  at = timestamp(buf, at, micros);
  at = option(buf, at, ISB_IFRECV, 8);
  at = buf.writeBigUInt64LE(BigInt(received), at);
  at = option(buf, at, ISB_IFDROP, 8);
  at = buf.writeBigUInt64LE(BigInt(dropped), at);
  return tail(buf, off, endOptions(buf, at));
}

function pad4(n: number): number {
  return (n + 3) & ~3;
}

function head(buf: Buffer, off: number, type: number): number {
  buf.writeUInt32LE(type, off);
  return off + 8;
}

/** Total length at both ends. */
function tail(buf: Buffer, off: number, at: number): number {
  const len = at + 4 - off;
  buf.writeUInt32LE(len, off + 4);
  buf.writeUInt32LE(len, at);
  return len;
}

function timestamp(buf: Buffer, at: number, micros: number): number {
  const whole = Math.max(0, Math.floor(micros));
  at = buf.writeUInt32LE(Math.floor(whole / TWO_32), at);
  return buf.writeUInt32LE(whole % TWO_32, at);
}

function option(buf: Buffer, at: number, code: number, len: number): number {
  at = buf.writeUInt16LE(code, at);
  return buf.writeUInt16LE(len, at);
}

function endOptions(buf: Buffer, at: number): number {
  return option(buf, at, OPT_END, 0);
}

function textOption(buf: Buffer, at: number, code: number, text: string): number {
  const bytes = Buffer.from(text).subarray(0, MAX_INTERFACE_NAME_BYTES);
  at = option(buf, at, code, bytes.length);
  buf.set(bytes, at);
  return zeroPad(buf, at + bytes.length, bytes.length);
}

function zeroPad(buf: Buffer, at: number, len: number): number {
  const end = at + (pad4(len) - len);
  buf.fill(0, at, end);
  return end;
}
