// Responses as a server sends them: the walk over their sections, TTL operations and the cut to a size.
// Record data is opaque (RFC 3597): only owner names, OPT and the SOA's minimum are read. RFC 1035, 2181, 2308, 6891.

import { copyBytes, getU16, getU32, setU16, setU32 } from '../base/bytes.ts';
import {
  CLASS_IN,
  FLAG_QR,
  FLAG_TC,
  HEADER_BYTES,
  MESSAGE_MAX_BYTES,
  RCODE_MASK,
  TYPE_OPT,
  TYPE_SOA,
} from './message.ts';
import { equalNames, NAME_MAX_BYTES, readName, skipName } from './name.ts';

/** More records than this cannot lie in one message: each takes at least 11 bytes. */
const RECORDS_MAX = Math.ceil(MESSAGE_MAX_BYTES / 11);
/** Root name and fixed part of an OPT record. */
const OPT_BARE_BYTES = 11;
const TTL_SIGN = 0x8000_0000;

/** One response; all offsets are relative to its first byte, so they hold in a copy too. Valid until the next `wrap`. */
export class ResponseView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  /** Bytes up to the end of the last record; what follows is ignored. */
  length = 0;
  id = 0;
  flags = 0;
  questions = 0;
  nameLen = 0;
  type = 0;
  klass = 0;
  questionEnd = 0;
  answerEnd = 0;
  authorityEnd = 0;
  /** Where the OPT record (its root name) starts and ends, -1 without. */
  optOff = -1;
  optEnd = -1;
  /** Smallest TTL in seconds over all records but OPT; Infinity without any. */
  minTtlSec: number = Number.POSITIVE_INFINITY;
  /** RFC 2308 5: min(SOA TTL, SOA minimum) of the authority section, -1 without SOA. */
  negativeTtlSec = -1;
  /** The type of the answer section's last record, 0 if it is empty. */
  lastAnswerType = 0;
  /** Offsets of the TTL fields, `ttlCount` of them. */
  readonly ttlAt: Uint16Array = new Uint16Array(RECORDS_MAX);
  ttlCount = 0;

  /**
   * @returns false if it is not a response whose sections lie inside it. Then header and question may be used if
   *   `questionEnd` is set (a server may cut a TC answer anywhere), and nothing else.
   */
  wrap(buf: Uint8Array, off: number, len: number): boolean {
    this.buf = buf;
    this.off = off;
    this.length = 0;
    this.questions = 0;
    this.questionEnd = 0;
    this.nameLen = 0;
    this.type = 0;
    this.klass = 0;
    this.optOff = -1;
    this.optEnd = -1;
    this.minTtlSec = Number.POSITIVE_INFINITY;
    this.negativeTtlSec = -1;
    this.lastAnswerType = 0;
    this.ttlCount = 0;
    if (len < HEADER_BYTES || len > MESSAGE_MAX_BYTES) return false;
    this.id = getU16(buf, off);
    this.flags = getU16(buf, off + 2);
    this.questions = getU16(buf, off + 4);
    if ((this.flags & FLAG_QR) === 0 || this.questions > 1) return false;
    const limit = off + len;
    let at = off + HEADER_BYTES;
    if (this.questions === 1) {
      const end = skipName(buf, off, at, limit);
      if (end < 0 || buf[end - 1] !== 0 || end + 4 > limit) return false;
      this.nameLen = end - at;
      this.type = getU16(buf, end);
      this.klass = getU16(buf, end + 2);
      at = end + 4;
    }
    this.questionEnd = at - off;
    at = this.#section(at, limit, getU16(buf, off + 6), 0);
    this.answerEnd = at - off;
    if (at >= 0) at = this.#section(at, limit, getU16(buf, off + 8), 1);
    this.authorityEnd = at - off;
    if (at >= 0) at = this.#section(at, limit, getU16(buf, off + 10), 2);
    if (at < 0) return false;
    this.length = at - off;
    return true;
  }

  #section(at: number, limit: number, count: number, section: number): number {
    const buf = this.buf;
    for (let i = 0; i < count; i++) {
      const fixed = skipName(buf, this.off, at, limit);
      if (fixed < 0 || fixed + 10 > limit) return -1;
      const rdLength = getU16(buf, fixed + 8);
      const next = fixed + 10 + rdLength;
      if (next > limit) return -1;
      const type = getU16(buf, fixed);
      if (type === TYPE_OPT) {
        if (section !== 2 || this.optOff >= 0 || fixed !== at + 1) return -1;
        this.optOff = at - this.off;
        this.optEnd = next - this.off;
      } else {
        const ttl = ttlSec(buf, fixed + 4);
        if (ttl < this.minTtlSec) this.minTtlSec = ttl;
        if (section === 0) this.lastAnswerType = type;
        if (section === 1 && type === TYPE_SOA && rdLength >= 22) {
          this.negativeTtlSec = Math.min(ttl, ttlSec(buf, next - 4));
        }
        this.ttlAt[this.ttlCount++] = fixed + 4 - this.off;
      }
      at = next;
    }
    return at;
  }

  get rcode(): number {
    return this.flags & RCODE_MASK;
  }

  get truncated(): boolean {
    return (this.flags & FLAG_TC) !== 0;
  }

  get answers(): number {
    return getU16(this.buf, this.off + 6);
  }

  /** Whether it answers this question (RFC 5452 9.1); the name is compared without case. */
  asks(name: Uint8Array, nameOff: number, nameLen: number, type: number, klass: number): boolean {
    return (
      this.questions === 1 &&
      this.nameLen === nameLen &&
      this.type === type &&
      this.klass === klass &&
      equalNames(this.buf, this.off + HEADER_BYTES, name, nameOff, nameLen)
    );
  }

  /**
   * Cuts the message, in place, to at most `limit` bytes and to a guest that may not know EDNS. Whole RRsets go, from the end
   * (RFC 2181 9): additional data silently, answers or authority with TC. OPT stays if there is room for it.
   * @returns the new length. The view must be wrapped again to be used further.
   */
  fit(limit: number, keepOpt: boolean): number {
    const { buf, off } = this;
    let optLen = keepOpt && this.optOff >= 0 ? this.optEnd - this.optOff : 0;
    // Options that alone fill the limit are cut off; size, version and flags stay.
    if (optLen > limit - this.questionEnd) optLen = OPT_BARE_BYTES;
    const dropOpt = this.optOff >= 0 && !keepOpt;
    if (this.length <= limit && !dropOpt) return this.length;
    const room = limit - optLen;
    if (dropOpt && this.optEnd === this.length && this.optOff <= limit) {
      setU16(buf, off + 10, getU16(buf, off + 10) - 1);
      return this.optOff;
    }
    // OPT is moved behind what stays. It holds no names, so it may be copied; it is kept aside because the cut may overlap it.
    const opt = new Uint8Array(optLen);
    copyBytes(buf, off + this.optOff, opt, 0, optLen);
    if (optLen === OPT_BARE_BYTES) setU16(opt, OPT_BARE_BYTES - 2, 0);
    let end = this.authorityEnd;
    let flags = this.flags;
    if (end > room) {
      flags |= FLAG_TC;
      end = this.answerEnd;
      setU16(buf, off + 8, 0);
      if (end > room) end = this.#wholeSets(room);
    }
    setU16(buf, off + 2, flags);
    setU16(buf, off + 10, optLen > 0 ? 1 : 0);
    copyBytes(opt, 0, buf, off + end, optLen);
    return end + optLen;
  }

  /** End of the last RRset of the answer section that fits; sets the section's count. */
  #wholeSets(room: number): number {
    const { buf, off } = this;
    const limit = off + this.answerEnd;
    const count = this.answers;
    const owner = new Uint8Array(NAME_MAX_BYTES);
    const previous = new Uint8Array(NAME_MAX_BYTES);
    let previousLen = -1;
    let previousType = -1;
    let at = off + this.questionEnd;
    let kept = 0;
    let end = this.questionEnd;
    for (let i = 0; i <= count; i++) {
      const fixed = i < count ? skipName(buf, off, at, limit) : -1;
      const ownerLen = i < count ? readName(buf, off, at, limit, owner, 0) : -1;
      const type = i < count ? getU16(buf, fixed) : -1;
      const same = ownerLen === previousLen && type === previousType && equalNames(owner, 0, previous, 0, ownerLen);
      if (i === count || !same) {
        // A new set begins, so all before it is whole.
        if (at - off > room) break;
        kept = i;
        end = at - off;
        previousLen = ownerLen;
        previousType = type;
        if (ownerLen > 0) copyBytes(owner, 0, previous, 0, ownerLen);
      }
      if (i < count) at = fixed + 10 + getU16(buf, fixed + 8);
    }
    setU16(buf, off + 6, kept);
    return Math.max(end, this.questionEnd);
  }
}

/** A TTL field in seconds; with its top bit set it counts as 0 (RFC 2181 8). */
export function ttlSec(buf: Uint8Array, off: number): number {
  const v = getU32(buf, off);
  return v >= TTL_SIGN ? 0 : v;
}

/** Counts the TTL fields of a message copy down by `ageSec`, to 0 at least and `capSec` at most. */
export function ageTtls(
  buf: Uint8Array,
  off: number,
  ttlAt: Uint16Array,
  count: number,
  ageSec: number,
  capSec: number,
): void {
  for (let i = 0; i < count; i++) {
    const at = off + ttlAt[i]!;
    setU32(buf, at, Math.max(0, Math.min(ttlSec(buf, at), capSec) - ageSec));
  }
}

/** Whether a whole response may be cached, and how long (RFC 2181 8, RFC 2308 5). @returns seconds, 0 for not at all. */
export function cacheTtlSec(view: ResponseView): number {
  // Meta types (RFC 6895 3.1) are transactions, not data; other classes are not worth a thought.
  if (view.truncated || view.klass !== CLASS_IN || (view.type >= 128 && view.type <= 255)) return 0;
  const rcode = view.rcode;
  if (view.optOff >= 0 && view.buf[view.off + view.optOff + 5] !== 0) return 0;
  const negative = Math.min(view.negativeTtlSec, view.minTtlSec);
  if (rcode === 3) return Math.max(0, negative);
  if (rcode !== 0) return 0;
  // A CNAME chain that ends without the type is NODATA too; with a SOA the smaller of both rules holds.
  const found = view.answers > 0 && view.negativeTtlSec < 0;
  return Math.max(0, found ? view.minTtlSec : negative);
}
