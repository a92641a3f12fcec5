// The bytes of scripted streams: each byte is a function of its place, so that a byte out of place, lost or doubled shows.

/** The guest's byte at relative sequence number `seq` (its first byte is at 1). */
export function guestByte(seq: number): number {
  return Math.imul(seq ^ (seq >>> 9), 0x9e3779b1) >>> 24;
}

/** The host's byte at relative sequence number `seq`. */
export function hostByte(seq: number): number {
  return Math.imul(seq ^ (seq >>> 9), 0x85ebca6b) >>> 24;
}

/** `length` bytes of a stream from relative sequence number `seq` on. */
export function streamBytes(byte: (seq: number) => number, seq: number, length: number): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) out[i] = byte(seq + i);
  return out;
}
