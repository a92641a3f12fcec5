// Answers that are made here, not relayed: local names, errors, addresses from the host's own resolver.
// Written into the caller's buffer, unbounded by the guest's size: `ResponseView.fit` cuts afterwards. RFC 1035, 2308, 6891.

import { copyBytes, setU16, setU32 } from '../base/bytes.ts';
import type { IpAddress } from '../ip/address.ts';
import type { LocalAnswer } from './local-names.ts';
import {
  CLASS_IN,
  FLAG_AA,
  FLAG_CD,
  FLAG_QR,
  FLAG_RA,
  FLAG_RD,
  HEADER_BYTES,
  MESSAGE_MAX_BYTES,
  OPCODE_MASK,
  OPT_FLAG_DO,
  type QueryView,
  RCODE_NOERROR,
  RCODE_NXDOMAIN,
  TYPE_A,
  TYPE_AAAA,
  TYPE_ANY,
  TYPE_OPT,
  TYPE_PTR,
  TYPE_SOA,
  UDP_SAFE_BYTES,
} from './message.ts';
import { emitName, nameFromText } from './name.ts';

const SOA_MNAME = nameFromText('ns.isthmus.internal')!;
const SOA_RNAME = nameFromText('hostmaster.isthmus.internal')!;

/** Builds one answer to a query; used again for each. */
export class AnswerWriter {
  readonly out: Uint8Array;
  /** Bytes written. */
  length = 0;
  #answers = 0;
  #authority = 0;
  #question = false;

  /** @param out at least MESSAGE_MAX_BYTES. */
  constructor(out: Uint8Array) {
    this.out = out;
  }

  /** Header and question (as the guest wrote it, where it could be read). @param rcode may be extended (BADVERS). */
  begin(q: QueryView, rcode: number, authoritative: boolean): void {
    const out = this.out;
    const kept = q.flags & (OPCODE_MASK | FLAG_RD | FLAG_CD);
    setU16(out, 0, q.id);
    setU16(out, 2, FLAG_QR | kept | FLAG_RA | (authoritative ? FLAG_AA : 0) | (rcode & 15));
    this.#question = q.nameLen > 0;
    setU16(out, 4, this.#question ? 1 : 0);
    setU32(out, 6, 0);
    setU16(out, 10, 0);
    this.length = HEADER_BYTES;
    if (this.#question) {
      copyBytes(q.buf, q.nameOff, out, HEADER_BYTES, q.nameLen + 4);
      this.length += q.nameLen + 4;
    }
    this.#answers = 0;
    this.#authority = 0;
  }

  /** An A or AAAA record of the question's name. Beyond the size of a message nothing is written. */
  addAddress(address: IpAddress, ttlSec: number): void {
    const len = address.isV4 ? 4 : 16;
    const at = this.#record(address.isV4 ? TYPE_A : TYPE_AAAA, ttlSec, len);
    if (at < 0) return;
    if (address.isV4) setU32(this.out, at, address.v4);
    else {
      setU32(this.out, at, address.w0);
      setU32(this.out, at + 4, address.w1);
      setU32(this.out, at + 8, address.w2);
      setU32(this.out, at + 12, address.w3);
    }
    this.length = at + len;
    this.#answers++;
  }

  /** A PTR record of the question's name. */
  addPointer(target: Uint8Array, ttlSec: number): void {
    const at = this.#record(TYPE_PTR, ttlSec, target.length);
    if (at < 0) return;
    const end = emitName(this.out, 0, at, MESSAGE_MAX_BYTES, target, HEADER_BYTES);
    if (end < 0) return;
    setU16(this.out, at - 2, end - at);
    this.length = end;
    this.#answers++;
  }

  /** The SOA that lets resolvers in the guest remember that there is nothing (RFC 2308 3). */
  addSoa(ttlSec: number): void {
    const at = this.#record(TYPE_SOA, ttlSec, SOA_MNAME.length + SOA_RNAME.length + 20);
    if (at < 0) return;
    let p = emitName(this.out, 0, at, MESSAGE_MAX_BYTES, SOA_MNAME, HEADER_BYTES);
    p = emitName(this.out, 0, p, MESSAGE_MAX_BYTES, SOA_RNAME, HEADER_BYTES);
    for (const v of [1, 3600, 600, 86_400, ttlSec]) {
      setU32(this.out, p, v);
      p += 4;
    }
    setU16(this.out, at - 2, p - at);
    this.length = p;
    this.#authority++;
  }

  /** Counts, and OPT where the guest sent one (RFC 6891 7). @returns the length. */
  finish(q: QueryView, rcode: number): number {
    const out = this.out;
    setU16(out, 6, this.#answers);
    setU16(out, 8, this.#authority);
    if (q.hasOpt && this.length + 11 <= MESSAGE_MAX_BYTES) {
      out[this.length] = 0;
      setU16(out, this.length + 1, TYPE_OPT);
      setU16(out, this.length + 3, UDP_SAFE_BYTES);
      out[this.length + 5] = rcode >>> 4;
      out[this.length + 6] = 0;
      setU16(out, this.length + 7, q.optFlags & OPT_FLAG_DO);
      setU16(out, this.length + 9, 0);
      setU16(out, 10, 1);
      this.length += 11;
    }
    return this.length;
  }

  /** An answer without records. @returns its length. */
  error(q: QueryView, rcode: number): number {
    this.begin(q, rcode, false);
    return this.finish(q, rcode);
  }

  /** The answer to a local name: its records of the type asked for, else NODATA; NXDOMAIN only where `exists` is false. */
  local(q: QueryView, data: LocalAnswer): number {
    const rcode = data.exists ? RCODE_NOERROR : RCODE_NXDOMAIN;
    this.begin(q, rcode, true);
    for (const a of data.addresses) {
      const type = a.isV4 ? TYPE_A : TYPE_AAAA;
      if (q.type === type || q.type === TYPE_ANY) this.addAddress(a, data.ttlSec);
    }
    if (q.type === TYPE_PTR || q.type === TYPE_ANY) {
      for (const n of data.names) {
        const target = nameFromText(n);
        if (target !== undefined) this.addPointer(target, data.ttlSec);
      }
    }
    if (this.#answers === 0) this.addSoa(data.ttlSec);
    return this.finish(q, rcode);
  }

  /** Owner (a pointer to the question), type, class, TTL and length of a record. @returns where its data goes, -1 if full. */
  #record(type: number, ttlSec: number, rdLength: number): number {
    const out = this.out;
    const at = this.length;
    if (!this.#question || at + 12 + rdLength > MESSAGE_MAX_BYTES) return -1;
    setU16(out, at, 0xc000 | HEADER_BYTES);
    setU16(out, at + 2, type);
    setU16(out, at + 4, CLASS_IN);
    setU32(out, at + 6, ttlSec);
    setU16(out, at + 10, rdLength);
    return at + 12;
  }
}
