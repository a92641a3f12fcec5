// Option values that take more than a number: the compressed search list (RFC 3397, RFC 1035 4.1.4), classless routes
// (RFC 3442), address lists. Encoded once when the configuration is read, never per message.

import { setU32 } from '../base/bytes.ts';
import type { Cidr4 } from '../ip/address.ts';

/** A search list ready to send. A prefix that ends at one of `ends` is itself a valid list: pointers only look back. */
export interface SearchList {
  readonly bytes: Uint8Array;
  /** Length after each domain. */
  readonly ends: readonly number[];
}

/** A route of option 121: `network` by way of `router` (int32). */
export interface ClasslessRoute {
  readonly network: Cidr4;
  readonly router: number;
}

/** True for a domain name that options 15 and 119 can carry: LDH or underscore labels of 1 to 63, at most 253 characters. */
export function isDomainName(text: string): boolean {
  const name = text.endsWith('.') ? text.slice(0, -1) : text;
  return name.length > 0 && name.length <= 253 && name.split('.').every((l) => /^[A-Za-z0-9_-]{1,63}$/.test(l));
}

/** Encodes option 119; domains that are not `isDomainName` are left out (the configuration has refused them before). */
export function encodeSearchList(domains: readonly string[]): SearchList {
  const out: number[] = [];
  const ends: number[] = [];
  const seen = new Map<string, number>();
  for (const domain of domains) {
    if (!isDomainName(domain)) continue;
    const labels = domain.replace(/\.$/, '').split('.');
    let pointed = false;
    for (let i = 0; i < labels.length; i++) {
      const tail = labels.slice(i).join('.').toLowerCase();
      const at = seen.get(tail);
      if (at !== undefined) {
        out.push(0xc0 | (at >>> 8), at & 0xff);
        pointed = true;
        break;
      }
      if (out.length < 0x4000) seen.set(tail, out.length);
      const label = labels[i] ?? '';
      out.push(label.length);
      for (let c = 0; c < label.length; c++) out.push(label.charCodeAt(c));
    }
    if (!pointed) out.push(0);
    ends.push(out.length);
  }
  return { bytes: Uint8Array.from(out), ends };
}

/** Encodes option 121. A client that gets it ignores option 3 (RFC 3442), so a default route by `gateway` is put in if none is given. */
export function encodeRoutes(routes: readonly ClasslessRoute[], gateway: number): Uint8Array {
  const out: number[] = [];
  const put = (prefix: number, network: number, router: number) => {
    out.push(prefix);
    for (let i = 0; i < Math.ceil(prefix / 8); i++) out.push((network >>> (24 - 8 * i)) & 255);
    out.push(router >>> 24, (router >>> 16) & 255, (router >>> 8) & 255, router & 255);
  };
  for (const r of routes) put(r.network.prefix, r.network.network, r.router);
  if (!routes.some((r) => r.network.prefix === 0)) put(0, 0, gateway);
  return Uint8Array.from(out);
}

/** Four bytes an address (options 3, 6, 42). */
export function encodeAddresses(addresses: readonly number[]): Uint8Array {
  const out = new Uint8Array(addresses.length * 4);
  addresses.forEach((a, i) => {
    setU32(out, i * 4, a);
  });
  return out;
}
