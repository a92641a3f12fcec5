// Reverse names: in-addr.arpa (RFC 1035 3.5) and ip6.arpa (RFC 3596 2.5), as lower-case text without trailing dot.

import { IpAddress } from '../ip/address.ts';

const V4_SUFFIX = '.in-addr.arpa';
const V6_SUFFIX = '.ip6.arpa';

/** The name whose PTR belongs to an address. */
export function reverseName(address: IpAddress): string {
  if (address.isV4) {
    const v = address.v4;
    return `${v & 255}.${(v >>> 8) & 255}.${(v >>> 16) & 255}.${v >>> 24}${V4_SUFFIX}`;
  }
  const nibbles: string[] = [];
  for (const w of [address.w3, address.w2, address.w1, address.w0]) {
    for (let shift = 0; shift < 32; shift += 4) nibbles.push(((w >>> shift) & 15).toString(16));
  }
  return nibbles.join('.') + V6_SUFFIX;
}

/** The address of a complete reverse name, undefined for every other name. */
export function reverseAddress(name: string): IpAddress | undefined {
  if (name.endsWith(V4_SUFFIX)) {
    const parts = name.slice(0, -V4_SUFFIX.length).split('.');
    if (parts.length !== 4) return undefined;
    let v = 0;
    for (let i = 3; i >= 0; i--) {
      const part = parts[i]!;
      if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
      v = (v << 8) | Number(part);
    }
    return IpAddress.v4(v);
  }
  if (!name.endsWith(V6_SUFFIX)) return undefined;
  const nibbles = name.slice(0, -V6_SUFFIX.length);
  if (!/^[0-9a-f](\.[0-9a-f]){31}$/.test(nibbles)) return undefined;
  const words = [0, 0, 0, 0];
  for (let i = 0; i < 32; i++) {
    // The first nibble is the last of the address.
    words[3 - (i >>> 3)]! |= Number.parseInt(nibbles[i * 2]!, 16) << ((i & 7) * 4);
  }
  return new IpAddress(words[0]!, words[1]!, words[2]!, words[3]!);
}
