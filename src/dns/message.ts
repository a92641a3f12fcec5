// DNS messages as the guest sends them: header, the one question, EDNS OPT (RFC 1035 4, RFC 6891), as a view over bytes,
// and the copy of a query that goes upstream. Responses are `response`, answers of our own are `answer`.

import { copyBytes, getU16, setU16 } from '../base/bytes.ts';
import { skipName } from './name.ts';

export const HEADER_BYTES = 12;
/** The largest DNS message: what the 2-byte length of TCP can say (RFC 1035 4.2.2). */
export const MESSAGE_MAX_BYTES = 65_535;
/** UDP payload without EDNS (RFC 1035 4.2.1). */
export const UDP_PLAIN_BYTES = 512;
/** UDP payload that crosses the Internet unfragmented (DNS flag day 2020). */
export const UDP_SAFE_BYTES = 1232;

export const FLAG_QR = 0x8000;
export const FLAG_AA = 0x0400;
export const FLAG_TC = 0x0200;
export const FLAG_RD = 0x0100;
export const FLAG_RA = 0x0080;
export const FLAG_AD = 0x0020;
export const FLAG_CD = 0x0010;
export const OPCODE_MASK = 0x7800;
export const RCODE_MASK = 0x000f;
/** The DO bit in the flags half of an OPT's TTL (RFC 3225). */
export const OPT_FLAG_DO = 0x8000;

export const TYPE_A = 1;
export const TYPE_SOA = 6;
export const TYPE_PTR = 12;
export const TYPE_AAAA = 28;
export const TYPE_OPT = 41;
export const TYPE_IXFR = 251;
export const TYPE_AXFR = 252;
export const TYPE_ANY = 255;
export const CLASS_IN = 1;
export const CLASS_ANY = 255;

export const RCODE_NOERROR = 0;
export const RCODE_FORMERR = 1;
export const RCODE_SERVFAIL = 2;
export const RCODE_NXDOMAIN = 3;
export const RCODE_NOTIMP = 4;
export const RCODE_REFUSED = 5;
/** Extended: its low four bits are 0, the rest lies in the OPT (RFC 6891 9). */
export const RCODE_BADVERS = 16;

/** What `QueryView.wrap` made of a message. */
export const QueryVerdict = {
  Ok: 0,
  /** Too short for a header: no answer is possible. */
  Short: 1,
  /** QR=1: answering an answer could loop. */
  NotQuery: 2,
  FormErr: 3,
  NotImp: 4,
  BadVers: 5,
} as const;
export type QueryVerdict = (typeof QueryVerdict)[keyof typeof QueryVerdict];

/** Bits of a cache key: everything besides the question that changes the answer. */
export const KEY_RD = 1;
export const KEY_AD = 2;
export const KEY_CD = 4;
export const KEY_EDNS = 8;
export const KEY_DO = 16;

/**
 * EDNS options that ask the resolver for something and so travel on: NSID, DAU, DHU, N3U, client subnet, EXPIRE, CHAIN, key tag.
 * Cookies (RFC 7873), keepalive and padding belong to one hop, and unknown ones are not ours to pass (RFC 6891 6.1.1).
 */
const FORWARDED_OPTIONS: ReadonlySet<number> = new Set([3, 5, 6, 7, 8, 9, 13, 14]);

/** A guest's query. Offsets are absolute in `buf`; everything is valid until the next `wrap`. */
export class QueryView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  /** After the last record; bytes behind it are ignored. */
  end = 0;
  id = 0;
  flags = 0;
  /** The question name: `nameLen` bytes at `nameOff`, uncompressed. 0 long if the message has no readable question. */
  nameOff = 0;
  nameLen = 0;
  type = 0;
  klass = 0;
  /** Offset of the OPT record's fixed part (after its root name), -1 without EDNS. */
  optOff = -1;
  optEnd = -1;
  /** Requestor's UDP payload size (RFC 6891 6.2.3). */
  optSize = 0;
  optVersion = 0;
  optFlags = 0;
  /** Records besides the question and OPT (TSIG, an IXFR's SOA): forwarded untouched, never shared or cached. */
  hasExtra = false;
  /** Options that travel upstream: the answer is this guest's alone. */
  hasOptions = false;

  /** Aims the view at one message. Never throws, never reads outside [off, off+len). */
  wrap(buf: Uint8Array, off: number, len: number): QueryVerdict {
    this.buf = buf;
    this.off = off;
    this.nameOff = off + HEADER_BYTES;
    this.nameLen = 0;
    this.type = 0;
    this.klass = 0;
    this.optOff = -1;
    this.optEnd = -1;
    this.optSize = 0;
    this.optVersion = 0;
    this.optFlags = 0;
    this.hasExtra = false;
    this.hasOptions = false;
    if (len < HEADER_BYTES) return QueryVerdict.Short;
    this.end = off + HEADER_BYTES;
    this.id = getU16(buf, off);
    this.flags = getU16(buf, off + 2);
    if (this.flags & FLAG_QR) return QueryVerdict.NotQuery;
    if (this.flags & OPCODE_MASK) return QueryVerdict.NotImp;
    if (getU16(buf, off + 4) !== 1) return QueryVerdict.FormErr;
    const limit = off + len;
    const nameEnd = skipName(buf, off, this.nameOff, limit);
    // Nothing lies before the first name that it could point to.
    if (nameEnd < 0 || buf[nameEnd - 1] !== 0 || nameEnd + 4 > limit) return QueryVerdict.FormErr;
    this.nameLen = nameEnd - this.nameOff;
    this.type = getU16(buf, nameEnd);
    this.klass = getU16(buf, nameEnd + 2);
    this.end = nameEnd + 4;
    return this.#records(limit);
  }

  #records(limit: number): QueryVerdict {
    const buf = this.buf;
    const before = getU16(buf, this.off + 6) + getU16(buf, this.off + 8);
    const total = before + getU16(buf, this.off + 10);
    let at = this.end;
    for (let i = 0; i < total; i++) {
      const fixed = skipName(buf, this.off, at, limit);
      if (fixed < 0 || fixed + 10 > limit) return QueryVerdict.FormErr;
      const next = fixed + 10 + getU16(buf, fixed + 8);
      if (next > limit) return QueryVerdict.FormErr;
      if (getU16(buf, fixed) === TYPE_OPT) {
        // RFC 6891 6.1.1: one, in the additional section, at the root.
        if (i < before || this.optOff >= 0 || fixed !== at + 1) return QueryVerdict.FormErr;
        this.optOff = fixed;
        this.optEnd = next;
        this.optSize = getU16(buf, fixed + 2);
        this.optVersion = buf[fixed + 5]!;
        this.optFlags = getU16(buf, fixed + 6);
        if (this.optVersion === 0 && !this.#options()) return QueryVerdict.FormErr;
      } else {
        this.hasExtra = true;
      }
      at = next;
    }
    this.end = at;
    return this.optVersion > 0 ? QueryVerdict.BadVers : QueryVerdict.Ok;
  }

  #options(): boolean {
    for (let at = this.optOff + 10; at < this.optEnd; ) {
      if (at + 4 > this.optEnd) return false;
      if (FORWARDED_OPTIONS.has(getU16(this.buf, at))) this.hasOptions = true;
      at += 4 + getU16(this.buf, at + 2);
      if (at > this.optEnd) return false;
    }
    return true;
  }

  get hasOpt(): boolean {
    return this.optOff >= 0;
  }

  /** True if another guest's answer to the same key is as good as one of its own. */
  get shareable(): boolean {
    return !this.hasExtra && !this.hasOptions && (this.optFlags & ~OPT_FLAG_DO) === 0;
  }

  /** The KEY_ bits of this query. */
  get keyFlags(): number {
    const f = this.flags;
    return (
      (f & FLAG_RD ? KEY_RD : 0) |
      (f & FLAG_AD ? KEY_AD : 0) |
      (f & FLAG_CD ? KEY_CD : 0) |
      (this.hasOpt ? KEY_EDNS : 0) |
      (this.optFlags & OPT_FLAG_DO ? KEY_DO : 0)
    );
  }
}

/** A query as it goes upstream; the id is set for each attempt. */
export interface UpstreamQuery {
  /** Our own copy. */
  readonly wire: Uint8Array;
  /** Offset of the UDP payload size that we may set (it is about our hop), or -1. */
  readonly sizeOff: number;
}

/**
 * Copy: the query outlives the guest's frame. It goes upstream whole; only OPT is written anew, because it is about one hop:
 * version, flags and the options of `FORWARDED_OPTIONS` are kept. Queries with further records (TSIG signs bytes) stay as they are.
 */
export function upstreamQuery(q: QueryView): UpstreamQuery {
  const whole = q.end - q.off;
  const wire = new Uint8Array(whole);
  if (q.hasExtra || !q.hasOpt) {
    copyBytes(q.buf, q.off, wire, 0, whole);
    return { wire, sizeOff: -1 };
  }
  let at = q.optOff + 10 - q.off;
  copyBytes(q.buf, q.off, wire, 0, at);
  const rdata = at;
  for (let p = q.optOff + 10; p < q.optEnd; ) {
    const len = 4 + getU16(q.buf, p + 2);
    if (FORWARDED_OPTIONS.has(getU16(q.buf, p))) {
      copyBytes(q.buf, p, wire, at, len);
      at += len;
    }
    p += len;
  }
  setU16(wire, rdata - 2, at - rdata);
  return { wire: at === whole ? wire : wire.slice(0, at), sizeOff: rdata - 8 };
}

/** Bytes that an answer to this query may have over UDP. @param linkLimitBytes the largest payload that the guest's link carries. */
export function udpLimit(q: QueryView, linkLimitBytes: number): number {
  if (!q.hasOpt) return UDP_PLAIN_BYTES;
  return Math.max(UDP_PLAIN_BYTES, Math.min(q.optSize, Math.max(UDP_SAFE_BYTES, linkLimitBytes)));
}
