// What an upstream's answer is worth: whether it ends the search, and which of two that do not is the better. No state, no decisions
// about whom to ask; those are `resolver`'s.

import {
  RCODE_FORMERR,
  RCODE_NOERROR,
  RCODE_NOTIMP,
  RCODE_NXDOMAIN,
  RCODE_REFUSED,
  RCODE_SERVFAIL,
  TYPE_AXFR,
  TYPE_IXFR,
  TYPE_SOA,
} from './message.ts';
import type { ResponseView } from './response.ts';

/** Rcodes after which another server may know more. NXDOMAIN is an answer. */
export function isUseless(rcode: number): boolean {
  return rcode === RCODE_SERVFAIL || rcode === RCODE_REFUSED || rcode === RCODE_NOTIMP || rcode === RCODE_FORMERR;
}

/** No such name, or nothing of this type. */
export function isNegative(view: ResponseView): boolean {
  return view.rcode === RCODE_NXDOMAIN || (view.rcode === RCODE_NOERROR && view.answers === 0);
}

/** A zone transfer that goes on in further messages (RFC 5936 2.2), which one answer cannot carry. */
export function isPartialTransfer(view: ResponseView): boolean {
  const transfer = view.type === TYPE_AXFR || view.type === TYPE_IXFR;
  return transfer && view.rcode === RCODE_NOERROR && view.answers > 0 && view.lastAnswerType !== TYPE_SOA;
}

/** The larger, the better to fall back on: a truncated answer or one without records, then "no such name", then errors. */
export function worth(rcode: number): number {
  return rcode === RCODE_NOERROR ? 2 : rcode === RCODE_NXDOMAIN ? 1 : 0;
}
