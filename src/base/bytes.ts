// Big-endian reads and writes at an offset. The caller has checked the bounds: a view's `wrap` is the gate.
// The `!` is confined to this file: an index inside checked bounds is never undefined.

export function getU8(buf: Uint8Array, off: number): number {
  return buf[off]!;
}

export function getU16(buf: Uint8Array, off: number): number {
  return (buf[off]! << 8) | buf[off + 1]!;
}

/** Signed 32-bit: addresses and sequence numbers live as int32 (compare by wrapping subtraction). */
export function getI32(buf: Uint8Array, off: number): number {
  return (buf[off]! << 24) | (buf[off + 1]! << 16) | (buf[off + 2]! << 8) | buf[off + 3]!;
}

export function getU32(buf: Uint8Array, off: number): number {
  return getI32(buf, off) >>> 0;
}

export function setU8(buf: Uint8Array, off: number, v: number): void {
  buf[off] = v;
}

export function setU16(buf: Uint8Array, off: number, v: number): void {
  buf[off] = v >>> 8;
  buf[off + 1] = v;
}

/** Writes the low 32 bits; takes int32 and uint32 alike. */
export function setU32(buf: Uint8Array, off: number, v: number): void {
  buf[off] = v >>> 24;
  buf[off + 1] = v >>> 16;
  buf[off + 2] = v >>> 8;
  buf[off + 3] = v;
}

/** Copies `len` bytes between two arrays or inside one (overlap allowed). */
export function copyBytes(src: Uint8Array, srcOff: number, dst: Uint8Array, dstOff: number, len: number): void {
  if (src === dst) dst.copyWithin(dstOff, srcOff, srcOff + len);
  else if (len < 64) for (let i = 0; i < len; i++) dst[dstOff + i] = src[srcOff + i]!;
  else dst.set(srcOff === 0 && len === src.length ? src : src.subarray(srcOff, srcOff + len), dstOff);
}

export function equalBytes(a: Uint8Array, aOff: number, b: Uint8Array, bOff: number, len: number): boolean {
  for (let i = 0; i < len; i++) if (a[aOff + i] !== b[bOff + i]) return false;
  return true;
}

/** Latin-1 text of a byte range, for names and reports; never used on the packet path. */
export function asciiText(buf: Uint8Array, off: number, len: number): string {
  let s = '';
  for (let i = 0; i < len; i++) s += String.fromCharCode(buf[off + i]!);
  return s;
}
