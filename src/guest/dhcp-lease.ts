// What a DHCP server told the guest, read out of an OFFER or ACK (RFC 2131 table 3, RFC 2132, 3397, 3442). It judges nothing but
// form: values of a wrong length are as if absent.

import { getI32, getU8 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { type DhcpMessage, DhcpOption } from '../services/dhcp-message.ts';

/** A lease with its parameters; addresses are int32, times those of the client's `now`. */
export interface DhcpLease {
  readonly address: number;
  /** Option 54. */
  readonly server: number;
  /** From option 1; 24 where the server said nothing. */
  readonly prefix: number;
  /** Option 3, the first; 0 without one. */
  readonly router: number;
  readonly dns: readonly number[];
  readonly ntp: readonly number[];
  /** Option 15, or ''. */
  readonly domain: string;
  /** Option 119. */
  readonly search: readonly string[];
  /** Option 12, or ''. */
  readonly hostName: string;
  /** Option 26; undefined if absent. */
  readonly mtu: number | undefined;
  /** Option 28; undefined if absent. */
  readonly broadcast: number | undefined;
  /** Option 51; Infinity for a lease without end. */
  readonly leaseMs: number;
  /** T1, T2 and the end. */
  readonly renewAt: Millis;
  readonly rebindAt: Millis;
  readonly expiresAt: Millis;
}

/** The bootstrap of an ACK. @param sentAt when the request it answers was sent: the lease counts from there (RFC 2131 4.4.1). */
export function readLease(msg: DhcpMessage, sentAt: Millis): DhcpLease | undefined {
  const server = msg.i32(DhcpOption.ServerId);
  const seconds = msg.i32(DhcpOption.LeaseTime);
  const mask = msg.i32(DhcpOption.SubnetMask);
  if (server === undefined || seconds === undefined || msg.yiaddr === 0) return undefined;
  const leaseMs = seconds === -1 ? Number.POSITIVE_INFINITY : (seconds >>> 0) * 1000;
  const t1 = msg.i32(DhcpOption.RenewalTime);
  const t2 = msg.i32(DhcpOption.RebindingTime);
  const mtu = msg.u16(DhcpOption.InterfaceMtu);
  const at = (option: number | undefined, share: number): Millis =>
    sentAt + (option === undefined || option === -1 ? leaseMs * share : (option >>> 0) * 1000);
  return {
    address: msg.yiaddr,
    server,
    prefix: mask === undefined ? 24 : Math.clz32(~mask),
    router: addresses(msg, DhcpOption.Router)[0] ?? 0,
    dns: addresses(msg, DhcpOption.DnsServers),
    ntp: addresses(msg, DhcpOption.NtpServers),
    domain: text(msg, DhcpOption.DomainName),
    search: searchList(msg),
    hostName: text(msg, DhcpOption.HostName),
    mtu: mtu >= 68 ? mtu : undefined,
    broadcast: msg.i32(DhcpOption.BroadcastAddress),
    leaseMs,
    renewAt: at(t1, 0.5),
    rebindAt: at(t2, 0.875),
    expiresAt: sentAt + leaseMs,
  };
}

function addresses(msg: DhcpMessage, code: number): number[] {
  const len = msg.optionLen(code);
  const off = msg.optionOff(code);
  const out: number[] = [];
  if (len > 0 && len % 4 === 0) for (let i = 0; i < len; i += 4) out.push(getI32(msg.options, off + i));
  return out;
}

function text(msg: DhcpMessage, code: number): string {
  const off = msg.optionOff(code);
  let s = '';
  for (let i = 0; i < msg.optionLen(code); i++) s += String.fromCharCode(getU8(msg.options, off + i));
  return s.replace(/\0+$/, '');
}

/** RFC 3397: names one after the other, compressed; pointers count from the option's first byte and only look back. */
function searchList(msg: DhcpMessage): string[] {
  const len = Math.max(0, msg.optionLen(DhcpOption.DomainSearch));
  const base = msg.optionOff(DhcpOption.DomainSearch);
  const out: string[] = [];
  for (let at = 0; at < len; ) {
    const labels: string[] = [];
    let after = -1;
    let limit = len;
    for (let p = at; ; ) {
      if (p >= limit) return out;
      const n = getU8(msg.options, base + p);
      if (n === 0) {
        if (after < 0) after = p + 1;
        break;
      }
      if (n >= 0xc0) {
        if (p + 1 >= len) return out;
        const target = ((n & 0x3f) << 8) | getU8(msg.options, base + p + 1);
        if (after < 0) after = p + 2;
        if (target >= p) return out;
        limit = p;
        p = target;
        continue;
      }
      if (n > 63 || p + 1 + n > len) return out;
      let label = '';
      for (let i = 1; i <= n; i++) label += String.fromCharCode(getU8(msg.options, base + p + i));
      labels.push(label);
      p += 1 + n;
    }
    out.push(labels.join('.'));
    at = after;
  }
  return out;
}
