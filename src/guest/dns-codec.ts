// DNS from a stub resolver's side: a query's bytes, and a reply as records with text (RFC 1035, 6891). No sockets, no time, no
// trust: whether a reply is the one that was asked for is checked here too (RFC 5452).

import { getI32, getU16, setU16 } from '../base/bytes.ts';
import { CLASS_IN, FLAG_RD, HEADER_BYTES, TYPE_OPT } from '../dns/message.ts';
import { NAME_MAX_BYTES, nameFromText, nameToText, readName, skipName } from '../dns/name.ts';
import { ResponseView, ttlSec } from '../dns/response.ts';
import { formatV4, IpAddress } from '../ip/address.ts';

/** Types that can be asked for by name. */
export const DNS_TYPES = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  HTTPS: 65,
  ANY: 255,
} as const;
export type DnsTypeName = keyof typeof DNS_TYPES;

export interface DnsRecord {
  readonly name: string;
  readonly type: number;
  readonly ttlSec: number;
  /** Address, name, or the joined strings of TXT; hexadecimal for every other type. */
  readonly data: string;
}

export interface DnsReply {
  readonly rcode: number;
  /** All 16 flag bits. */
  readonly flags: number;
  readonly truncated: boolean;
  readonly answers: readonly DnsRecord[];
  readonly authority: readonly DnsRecord[];
  /** Without OPT. */
  readonly additional: readonly DnsRecord[];
  /** The server's UDP payload size, 0 without EDNS. */
  readonly ednsBytes: number;
  /** Bytes of the message. */
  readonly bytes: number;
}

/** One query. @param ednsBytes UDP payload size to offer, 0 for no EDNS. @returns undefined for a text that is no name. */
export function encodeDnsQuery(id: number, name: string, type: number, ednsBytes: number): Uint8Array | undefined {
  const wire = nameFromText(name);
  if (wire === undefined) return undefined;
  const out = new Uint8Array(HEADER_BYTES + wire.length + 4 + (ednsBytes > 0 ? 11 : 0));
  setU16(out, 0, id);
  setU16(out, 2, FLAG_RD);
  setU16(out, 4, 1);
  out.set(wire, HEADER_BYTES);
  let at = HEADER_BYTES + wire.length;
  setU16(out, at, type);
  setU16(out, at + 2, CLASS_IN);
  at += 4;
  if (ednsBytes > 0) {
    setU16(out, 10, 1);
    setU16(out, at + 1, TYPE_OPT);
    setU16(out, at + 3, ednsBytes);
  }
  return out;
}

/** The reply to `query`, or undefined for anything else. */
export function decodeDnsReply(query: Uint8Array, buf: Uint8Array, off: number, len: number): DnsReply | undefined {
  const view = new ResponseView();
  if (!view.wrap(buf, off, len) || view.id !== getU16(query, 0)) return undefined;
  const nameEnd = skipName(query, 0, HEADER_BYTES, query.length);
  const type = getU16(query, nameEnd);
  if (!view.asks(query, HEADER_BYTES, nameEnd - HEADER_BYTES, type, CLASS_IN)) return undefined;
  const records = (from: number, to: number): DnsRecord[] => readRecords(buf, off, off + from, off + to);
  return {
    rcode: view.rcode,
    flags: view.flags,
    truncated: view.truncated,
    answers: records(view.questionEnd, view.answerEnd),
    authority: records(view.answerEnd, view.authorityEnd),
    additional: records(view.authorityEnd, view.length),
    ednsBytes: view.optOff < 0 ? 0 : getU16(buf, off + view.optOff + 3),
    bytes: view.length,
  };
}

/** The records of a section that `ResponseView.wrap` has walked. */
function readRecords(buf: Uint8Array, base: number, from: number, end: number): DnsRecord[] {
  const out: DnsRecord[] = [];
  for (let at = from; at < end; ) {
    const fixed = skipName(buf, base, at, end);
    if (fixed < 0) return out;
    const type = getU16(buf, fixed);
    const rdata = fixed + 10;
    const next = rdata + getU16(buf, fixed + 8);
    if (type !== TYPE_OPT) {
      const name = nameAt(buf, base, at, end) ?? '?';
      out.push({ name, type, ttlSec: ttlSec(buf, fixed + 4), data: dataText(buf, base, type, rdata, next) });
    }
    at = next;
  }
  return out;
}

function nameAt(buf: Uint8Array, base: number, at: number, end: number): string | undefined {
  const name = new Uint8Array(NAME_MAX_BYTES);
  const len = readName(buf, base, at, end, name, 0);
  return len < 0 ? undefined : nameToText(name, 0, len);
}

function dataText(buf: Uint8Array, base: number, type: number, at: number, end: number): string {
  if (type === DNS_TYPES.A && end - at === 4) return formatV4(getI32(buf, at));
  if (type === DNS_TYPES.AAAA && end - at === 16) {
    return new IpAddress(getI32(buf, at), getI32(buf, at + 4), getI32(buf, at + 8), getI32(buf, at + 12)).toString();
  }
  if (type === DNS_TYPES.PTR || type === DNS_TYPES.CNAME || type === DNS_TYPES.NS) {
    const name = nameAt(buf, base, at, end);
    if (name !== undefined) return name;
  }
  if (type === DNS_TYPES.TXT) {
    let text = '';
    for (let p = at; p < end; p += 1 + buf[p]!) {
      for (let i = p + 1; i <= p + buf[p]! && i < end; i++) text += String.fromCharCode(buf[i]!);
    }
    return text;
  }
  let hex = '';
  for (let i = at; i < end; i++) hex += buf[i]!.toString(16).padStart(2, '0');
  return hex;
}
