// Domain names: the wire form (RFC 1035 3.1 and 4.1.4), its text form (RFC 1035 5.1, RFC 4343) and nothing about records.
// A "wire name" is uncompressed: length-prefixed labels up to and including the root byte, at most 255 bytes.
// Compression pointers are accepted only strictly backwards, so no chain of them can loop.

/** RFC 1035 2.3.4, root byte included. */
export const NAME_MAX_BYTES = 255;
/** RFC 1035 2.3.4. */
export const LABEL_MAX_BYTES = 63;
const HEADER_BYTES = 12;

/** Folds one ASCII byte to lower case (RFC 4343 3); every other byte is left alone. */
function fold(c: number): number {
  return c >= 0x41 && c <= 0x5a ? c | 0x20 : c;
}

/**
 * Steps over a name, compressed or not, without following pointers.
 * @param base offset of the message's first byte, which pointers count from.
 * @returns the offset after it, or -1 if it is malformed, leaves [off, end), or points anywhere but backwards into the body.
 */
export function skipName(buf: Uint8Array, base: number, off: number, end: number): number {
  const start = off;
  while (off < end) {
    const n = buf[off]!;
    if (n === 0) return off + 1 - start > NAME_MAX_BYTES ? -1 : off + 1;
    if (n > LABEL_MAX_BYTES) {
      // 0x40 and 0x80 are extended label types nobody may use any more (RFC 6891 5).
      if (n < 0xc0 || off + 2 > end) return -1;
      const target = ((n & 0x3f) << 8) | buf[off + 1]!;
      return target < HEADER_BYTES || target >= start - base || off - start > NAME_MAX_BYTES ? -1 : off + 2;
    }
    off += 1 + n;
  }
  return -1;
}

/**
 * Decompresses a name into `out` as a wire name, case kept.
 * @param out has room for 255 bytes at `outOff`.
 * @returns its length, or -1 if it is malformed.
 */
export function readName(
  buf: Uint8Array,
  base: number,
  off: number,
  end: number,
  out: Uint8Array,
  outOff: number,
): number {
  let used = 0;
  let segment = off;
  while (off < end) {
    const n = buf[off]!;
    if (n > LABEL_MAX_BYTES) {
      if (n < 0xc0 || off + 2 > end) return -1;
      const target = base + (((n & 0x3f) << 8) | buf[off + 1]!);
      if (target < base + HEADER_BYTES || target >= segment) return -1;
      segment = target;
      off = target;
      continue;
    }
    if (off + 1 + n > end || used + 1 + n > NAME_MAX_BYTES) return -1;
    for (let i = 0; i <= n; i++) out[outOff + used + i] = buf[off + i]!;
    used += 1 + n;
    off += 1 + n;
    if (n === 0) return used;
  }
  return -1;
}

/** Copies a wire name folded to lower case. Length bytes are below 0x41, so they need no care. */
export function foldName(src: Uint8Array, srcOff: number, dst: Uint8Array, dstOff: number, len: number): void {
  for (let i = 0; i < len; i++) dst[dstOff + i] = fold(src[srcOff + i]!);
}

/** Whether two wire names of the same length are the same name (RFC 4343). */
export function equalNames(a: Uint8Array, aOff: number, b: Uint8Array, bOff: number, len: number): boolean {
  for (let i = 0; i < len; i++) {
    const x = a[aOff + i]!;
    const y = b[bOff + i]!;
    if (x !== y && fold(x) !== fold(y)) return false;
  }
  return true;
}

/**
 * Writes a wire name, compressed against one earlier wire name of the same message where they share a suffix.
 * @param ref offset of that earlier, uncompressed name in `out`; -1 to write the name whole.
 * @returns the offset after it, or -1 if it does not fit in front of `end`.
 */
export function emitName(
  out: Uint8Array,
  base: number,
  off: number,
  end: number,
  name: Uint8Array,
  ref: number,
): number {
  for (let at = 0; ; ) {
    const n = name[at]!;
    const target = n === 0 || ref < 0 ? -1 : sharedSuffix(out, ref, name, at);
    if (target >= 0 && target - base < 0x4000) {
      if (off + 2 > end) return -1;
      out[off] = 0xc0 | ((target - base) >>> 8);
      out[off + 1] = target - base;
      return off + 2;
    }
    if (off + 1 + n > end) return -1;
    for (let i = 0; i <= n; i++) out[off + i] = name[at + i]!;
    off += 1 + n;
    at += 1 + n;
    if (n === 0) return off;
  }
}

/** Offset in `out` of a label of the name at `ref` from which it equals the rest of `name` from `at`; -1 if none. */
function sharedSuffix(out: Uint8Array, ref: number, name: Uint8Array, at: number): number {
  const len = name.length - at;
  let end = ref;
  while (out[end] !== 0) end += 1 + out[end]!;
  for (let p = ref; out[p] !== 0; p += 1 + out[p]!) {
    if (end + 1 - p === len) return equalNames(out, p, name, at, len) ? p : -1;
  }
  return -1;
}

/**
 * Text of a wire name as zone files have it: no trailing dot (the root is "."), dots and backslashes in labels escaped,
 * bytes outside printable ASCII as \DDD (RFC 1035 5.1). Case is kept.
 */
export function nameToText(name: Uint8Array, off: number, len: number): string {
  if (len <= 1) return '.';
  let text = '';
  const end = off + len - 1;
  for (let at = off; at < end; ) {
    const n = name[at++]!;
    if (text !== '') text += '.';
    for (const stop = at + n; at < stop; at++) {
      const c = name[at]!;
      if (c === 0x2e || c === 0x5c) text += `\\${String.fromCharCode(c)}`;
      else if (c <= 0x20 || c >= 0x7f) text += `\\${String(c).padStart(3, '0')}`;
      else text += String.fromCharCode(c);
    }
  }
  return text;
}

/** Wire name of a text name, with or without trailing dot; undefined if a label or the whole is empty or too long. */
export function nameFromText(text: string): Uint8Array | undefined {
  if (text === '.') return new Uint8Array(1);
  const bytes: number[] = [];
  let lengthAt = 0;
  bytes.push(0);
  for (let i = 0; i < text.length; i++) {
    let c = text.charCodeAt(i);
    if (c === 0x2e) {
      if (bytes.length - lengthAt === 1) return undefined;
      lengthAt = bytes.length;
      bytes.push(0);
      continue;
    }
    if (c === 0x5c) {
      const digits = /^\d{3}/.exec(text.slice(i + 1, i + 4));
      if (digits) {
        c = Number(digits[0]);
        i += 3;
      } else {
        i++;
        c = i < text.length ? text.charCodeAt(i) : 256;
      }
    }
    if (c > 255) return undefined;
    bytes.push(c);
    if (++bytes[lengthAt]! > LABEL_MAX_BYTES) return undefined;
  }
  // Without a trailing dot the root byte is still to come; an empty text has neither label nor root.
  if (bytes.length - lengthAt > 1) bytes.push(0);
  else if (lengthAt === 0) return undefined;
  return bytes.length > NAME_MAX_BYTES ? undefined : Uint8Array.from(bytes);
}
