// The SNTP server of the gateway: tells guests the host's time (RFC 4330 6, RFC 5905 7.3 and 14). Mode 3 is answered with
// mode 4, nothing else is answered at all: no loops, no control or private mode, no broadcast. Extension fields and MACs are
// not read. It owns no clock: the wall clock is injected, and is the only one in the pure folders.

import { copyBytes, getU8, setU32 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { Drop, type DropCounters } from '../base/drop.ts';
import { type IpAddress, isMulticastV4 } from '../ip/address.ts';

/** Seconds from 1900-01-01 to 1970-01-01, RFC 5905 figure 4. */
const UNIX_EPOCH_SECONDS = 2_208_988_800;
const NTP_BYTES = 48;
const MODE_CLIENT = 3;
const MODE_SERVER = 4;
const LI_UNSYNCHRONISED = 3;
/** "INIT": the kiss code of a server that has no time yet, RFC 5905 7.4. */
const REFID_INIT = 0x494e4954;

/** Who asked: the part of the stack's DatagramMeta that NTP needs. */
export interface NtpMeta {
  readonly src: IpAddress;
  readonly srcPort: number;
  readonly dst: IpAddress;
  readonly dstPort: number;
}

/** Sends a reply to a guest: the stack's DatagramSender, or a part of it. */
export interface NtpOutput {
  sendDatagram(
    src: IpAddress,
    srcPort: number,
    dst: IpAddress,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): boolean;
}

export interface NtpOptions {
  /** Wall clock: milliseconds since 1970-01-01 UTC without leap seconds, fractional, of any era. */
  readonly wallClock: () => number;
  /** False while the host itself does not know the time. */
  readonly synchronised: () => boolean;
  /** 1 to 15; 3 suits a host that is itself a client of the net's servers. */
  readonly stratum: number;
  /** Reference id, int32: an IPv4 address, by convention 127.127.1.0 for a local clock. */
  readonly refId: number;
  /** The network's broadcast address, int32. */
  readonly broadcast: number;
  /** Round trip to, and greatest error against, the clock that the host follows. */
  readonly rootDelayMs: number;
  readonly rootDispersionMs: number;
  /** log2 of the wall clock's resolution in seconds: -10 for a millisecond. */
  readonly precision: number;
}

export class NtpStats {
  answered = 0;
  malformed = 0;
  /** Other modes and versions, and what came by broadcast. */
  ignored = 0;
}

/** NTP short format (16.16 seconds) of milliseconds. */
function shortFormat(ms: number): number {
  return Math.round((ms * 65_536) / 1000) | 0;
}

/** The NTP service. Fits the stack's `DatagramService` by structure. */
export class NtpService {
  readonly stats: NtpStats = new NtpStats();
  readonly #options: NtpOptions;
  readonly #output: NtpOutput;
  readonly #drops: DropCounters;
  readonly #buf = new Uint8Array(NTP_BYTES);

  constructor(options: NtpOptions, output: NtpOutput, drops: DropCounters) {
    this.#options = options;
    this.#output = output;
    this.#drops = drops;
  }

  /** One datagram to port 123. */
  onDatagram(meta: NtpMeta, buf: Uint8Array, off: number, len: number, now: Millis): void {
    if (len < NTP_BYTES) {
      this.stats.malformed++;
      this.#drops.add(Drop.NtpMalformed);
      return;
    }
    const first = getU8(buf, off);
    const version = (first >>> 3) & 7;
    if ((first & 7) !== MODE_CLIENT || version < 1 || version > 4 || this.#isGroup(meta.dst)) {
      this.stats.ignored++;
      return;
    }
    const o = this.#options;
    const receivedAt = o.wallClock();
    const out = this.#buf;
    const synchronised = o.synchronised();
    out[0] = ((synchronised ? 0 : LI_UNSYNCHRONISED) << 6) | (version << 3) | MODE_SERVER;
    out[1] = synchronised ? o.stratum : 0;
    out[2] = getU8(buf, off + 2);
    out[3] = o.precision;
    setU32(out, 4, shortFormat(o.rootDelayMs));
    setU32(out, 8, shortFormat(o.rootDispersionMs));
    setU32(out, 12, synchronised ? o.refId : REFID_INIT);
    // Reference: when the clock was last known to be right. Within the last minute and never 0, which means "never".
    const seconds = Math.floor(receivedAt / 1000);
    setU32(out, 16, synchronised ? ntpSeconds(seconds - (seconds & 31) - 1) : 0);
    setU32(out, 20, 0);
    copyBytes(buf, off + 40, out, 24, 8);
    this.#stamp(32, receivedAt);
    // The wall clock may be set back between the two readings.
    this.#stamp(40, Math.max(receivedAt, o.wallClock()));
    this.stats.answered++;
    this.#output.sendDatagram(meta.dst, meta.dstPort, meta.src, meta.srcPort, out, 0, NTP_BYTES, now);
  }

  #isGroup(dst: IpAddress): boolean {
    if (!dst.isV4) return dst.w0 >>> 24 === 0xff;
    return isMulticastV4(dst.v4) || dst.v4 === -1 || dst.v4 === this.#options.broadcast;
  }

  /** NTP timestamp format: 32.32 seconds since the start of the era that the time lies in. */
  #stamp(at: number, unixMs: number): void {
    const seconds = Math.floor(unixMs / 1000);
    setU32(this.#buf, at, ntpSeconds(seconds));
    const fraction = Math.floor(((unixMs - seconds * 1000) / 1000) * 0x1_0000_0000);
    setU32(this.#buf, at + 4, Math.min(fraction, 0xffff_ffff) | 0);
  }
}

/** Era seconds: counted from 1900 modulo 2^32, so that 2036-02-07T06:28:16Z is 0 (RFC 5905 6). */
function ntpSeconds(unixSeconds: number): number {
  const s = (unixSeconds + UNIX_EPOCH_SECONDS) % 0x1_0000_0000;
  return s | 0;
}
