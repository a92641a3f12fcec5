// MAC addresses: text, tests and the pair of ints that tables key on. Bytes stay where they are; nothing here keeps a frame.
// Group and broadcast bits: IEEE 802.3 3.2.3.

import { equalBytes, getI32, getU8, getU16, setU16, setU32 } from '../base/bytes.ts';

/** Bytes of a MAC address. */
export const MAC_LENGTH = 6;

/** ff:ff:ff:ff:ff:ff. Do not write to it. */
export const BROADCAST_MAC: Uint8Array = new Uint8Array(6).fill(0xff);

/** Six hex pairs joined by `:` or `-`, or undefined. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!/^[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}$/.test(text)) return undefined;
  return Uint8Array.from(text.split(/[:-]/), (pair) => Number.parseInt(pair, 16));
}

/** Lower-case text with colons. */
export function formatMac(buf: Uint8Array, off = 0): string {
  let s = '';
  for (let i = 0; i < MAC_LENGTH; i++) {
    if (i > 0) s += ':';
    s += getU8(buf, off + i)
      .toString(16)
      .padStart(2, '0');
  }
  return s;
}

/** Group address (multicast or broadcast): never valid as a source. */
export function isMulticastMac(buf: Uint8Array, off: number): boolean {
  return (getU8(buf, off) & 1) === 1;
}

export function isBroadcastMac(buf: Uint8Array, off: number): boolean {
  return macHi(buf, off) === 0xffff && macLo(buf, off) === -1;
}

/** 00:00:00:00:00:00, which nobody owns. */
export function isZeroMac(buf: Uint8Array, off: number): boolean {
  return macHi(buf, off) === 0 && macLo(buf, off) === 0;
}

export function equalMac(a: Uint8Array, aOff: number, b: Uint8Array, bOff: number): boolean {
  return equalBytes(a, aOff, b, bOff, MAC_LENGTH);
}

/** The upper 16 bits. */
export function macHi(buf: Uint8Array, off: number): number {
  return getU16(buf, off);
}

/** The lower 32 bits, as int32. */
export function macLo(buf: Uint8Array, off: number): number {
  return getI32(buf, off + 2);
}

/** Writes a MAC given as its pair of ints. */
export function setMac(buf: Uint8Array, off: number, hi: number, lo: number): void {
  setU16(buf, off, hi);
  setU32(buf, off + 2, lo);
}

/** Copies six bytes. */
export function copyMac(src: Uint8Array, srcOff: number, dst: Uint8Array, dstOff: number): void {
  for (let i = 0; i < MAC_LENGTH; i++) dst[dstOff + i] = getU8(src, srcOff + i);
}
