// Who a DHCP client is: its client identifier (option 61), else its hardware address (RFC 2131 4.2, RFC 2132 9.14), as text
// that keys the lease table and the lease file. Also MAC text, both ways.

import { getU8 } from '../base/bytes.ts';

const HEX = '0123456789abcdef';

/** Lower-case hexadecimal digits of a byte range. */
export function hexText(buf: Uint8Array, off: number, len: number): string {
  let s = '';
  for (let i = 0; i < len; i++) {
    const b = getU8(buf, off + i);
    s += HEX.charAt(b >>> 4) + HEX.charAt(b & 15);
  }
  return s;
}

/** `02:50:00:00:00:01` of six bytes. */
export function formatMac(buf: Uint8Array, off: number): string {
  let s = hexText(buf, off, 1);
  for (let i = 1; i < 6; i++) s += `:${hexText(buf, off + i, 1)}`;
  return s;
}

/** Six bytes of `aa:bb:cc:dd:ee:ff` (or with dashes), or undefined. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!/^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$/.test(text)) return undefined;
  return Uint8Array.from(text.split(/[:-]/), (b) => Number.parseInt(b, 16));
}

/** False for the zero address and for group addresses: neither can be a client. */
export function isUnicastMac(buf: Uint8Array, off: number): boolean {
  if ((getU8(buf, off) & 1) !== 0) return false;
  for (let i = 0; i < 6; i++) if (buf[off + i] !== 0) return true;
  return false;
}

/**
 * Key of a client identifier of 1 to 255 bytes. An identifier that is just an Ethernet address (type 1) gives the key of that
 * address, so that an initramfs without option 61 and the system behind it are one client.
 */
export function clientIdKey(buf: Uint8Array, off: number, len: number): string {
  return len === 7 && buf[off] === 1 ? formatMac(buf, off + 1) : `id:${hexText(buf, off, len)}`;
}

/** True for text that a key can be: for what comes from a lease file. */
export function isClientKey(text: string): boolean {
  return /^(id:([0-9a-f]{2}){1,255}|([0-9a-f]{2}:){5}[0-9a-f]{2})(@([0-9a-f]{2}:){5}[0-9a-f]{2})?$/.test(text);
}
