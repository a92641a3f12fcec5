// SNTP from a client's side: the request, and what a reply says of the clock (RFC 4330 5, RFC 5905 8). Times are milliseconds
// since 1970; the era is the one nearest to the client's own clock.

import { equalBytes, getI32, getU8, getU32, setU32 } from '../base/bytes.ts';

export const NTP_BYTES = 48;
const UNIX_EPOCH_SECONDS = 2_208_988_800;
const ERA_MS = 0x1_0000_0000 * 1000;

export interface NtpReply {
  /** The server's clock when it answered. */
  readonly serverMs: number;
  readonly stratum: number;
  readonly leap: number;
  readonly refId: number;
  /** What is to be added to the client's clock. */
  readonly offsetMs: number;
  readonly roundTripMs: number;
}

/** A client's request, version 4. @param cookie two random words in the transmit field: only the real answer repeats them. */
export function encodeNtpRequest(cookieHi: number, cookieLo: number): Uint8Array {
  const out = new Uint8Array(NTP_BYTES);
  out[0] = (4 << 3) | 3;
  setU32(out, 40, cookieHi);
  setU32(out, 44, cookieLo);
  return out;
}

/** @param sentMs when `request` was sent. @param receivedMs now. @returns undefined for what does not answer it. */
export function decodeNtpReply(
  request: Uint8Array,
  buf: Uint8Array,
  off: number,
  len: number,
  sentMs: number,
  receivedMs: number,
): NtpReply | undefined {
  if (len < NTP_BYTES || (getU8(buf, off) & 7) !== 4 || !equalBytes(buf, off + 24, request, 40, 8)) return undefined;
  const received = timestamp(buf, off + 32, receivedMs);
  const transmitted = timestamp(buf, off + 40, receivedMs);
  return {
    serverMs: transmitted,
    stratum: getU8(buf, off + 1),
    leap: getU8(buf, off) >>> 6,
    refId: getI32(buf, off + 12),
    offsetMs: (received - sentMs + transmitted - receivedMs) / 2,
    roundTripMs: receivedMs - sentMs - (transmitted - received),
  };
}

function timestamp(buf: Uint8Array, at: number, nearMs: number): number {
  const ms = (getU32(buf, at) - UNIX_EPOCH_SECONDS) * 1000 + (getU32(buf, at + 4) / 0x1_0000_0000) * 1000;
  return ms + Math.round((nearMs - ms) / ERA_MS) * ERA_MS;
}
