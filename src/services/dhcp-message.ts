// Reads DHCP messages: the fixed BOOTP fields in place, and the options of all areas (main, file, sname) gathered into one
// scratch buffer, so that an option that was split over repeats is one piece (RFC 2131 2 and 4.1, RFC 2132, RFC 3396).
// It refuses to judge: what a message means is the server's business. `wrap` is the gate; nothing throws.

import { getI32, getU8, getU16 } from '../base/bytes.ts';

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

export const BOOTREQUEST = 1;
export const BOOTREPLY = 2;
export const HTYPE_ETHERNET = 1;
/** 99.130.83.99, RFC 2132 2. */
export const DHCP_COOKIE = 0x63825363;
/** The broadcast bit of `flags`, RFC 2131 2. */
export const FLAG_BROADCAST = 0x8000;

/** Offsets of the fixed fields, RFC 2131 figure 1. */
export const OFF_CHADDR = 28;
export const OFF_SNAME = 44;
export const SNAME_BYTES = 64;
export const OFF_FILE = 108;
export const FILE_BYTES = 128;
export const OFF_COOKIE = 236;
export const OFF_OPTIONS = 240;

/** Longer messages are rubbish: no client has that much to say. */
export const DHCP_MAX_BYTES = 4096;

/** Option 53, RFC 2132 9.6. */
export const DhcpType = {
  Discover: 1,
  Offer: 2,
  Request: 3,
  Decline: 4,
  Ack: 5,
  Nak: 6,
  Release: 7,
  Inform: 8,
} as const;

/** Option codes, RFC 2132 unless noted. */
export const DhcpOption = {
  Pad: 0,
  SubnetMask: 1,
  Router: 3,
  DnsServers: 6,
  HostName: 12,
  DomainName: 15,
  InterfaceMtu: 26,
  BroadcastAddress: 28,
  NtpServers: 42,
  RequestedAddress: 50,
  LeaseTime: 51,
  Overload: 52,
  MessageType: 53,
  ServerId: 54,
  ParameterList: 55,
  Message: 56,
  MaxMessageSize: 57,
  RenewalTime: 58,
  RebindingTime: 59,
  ClientId: 61,
  /** RFC 4039. */
  RapidCommit: 80,
  /** RFC 3046. */
  RelayAgent: 82,
  /** RFC 3397. */
  DomainSearch: 119,
  /** RFC 3442. */
  ClasslessRoutes: 121,
  End: 255,
} as const;

/** A reusable view of one message. Valid until the datagram's bytes change or `wrap` is called again. */
export class DhcpMessage {
  #buf: Uint8Array = new Uint8Array(0);
  #off = 0;
  /** Values of all options, one after the other; `optionOff` points into it. */
  readonly options: Uint8Array = new Uint8Array(DHCP_MAX_BYTES);
  readonly #offs: Int32Array = new Int32Array(256);
  readonly #lens: Int32Array = new Int32Array(256);

  /**
   * Aims the view at `len` bytes.
   * @returns false for what is not a DHCP message: too short or long, wrong cookie, hlen above 16, an option that runs
   *   past its area. A missing END is forgiven.
   */
  wrap(buf: Uint8Array, off: number, len: number): boolean {
    if (len < OFF_OPTIONS || len > DHCP_MAX_BYTES) return false;
    if (getI32(buf, off + OFF_COOKIE) !== DHCP_COOKIE) return false;
    if (getU8(buf, off + 2) > 16) return false;
    this.#buf = buf;
    this.#off = off;
    this.#lens.fill(-1);
    const start = off + OFF_OPTIONS;
    const end = off + len;
    // First pass: lengths and the overload option, which counts in the main area only.
    if (!this.#measure(start, end)) return false;
    const o = this.#lens[DhcpOption.Overload] === 1 ? this.#findOverload(start, end) : 0;
    const file = off + OFF_FILE;
    const sname = off + OFF_SNAME;
    if ((o & 1) !== 0 && !this.#measure(file, file + FILE_BYTES)) return false;
    if ((o & 2) !== 0 && !this.#measure(sname, sname + SNAME_BYTES)) return false;
    let at = 0;
    for (let code = 0; code < 256; code++) {
      this.#offs[code] = at;
      if (this.#lens[code]! > 0) at += this.#lens[code]!;
    }
    // Second pass: values, in the order of RFC 3396 5: options, file, sname.
    // Copy: an option may lie in pieces; at most 4 KiB on a path of a few messages an hour.
    this.#gather(start, end);
    if ((o & 1) !== 0) this.#gather(file, file + FILE_BYTES);
    if ((o & 2) !== 0) this.#gather(sname, sname + SNAME_BYTES);
    for (let code = 0; code < 256; code++) if (this.#lens[code]! > 0) this.#offs[code]! -= this.#lens[code]!;
    return true;
  }

  #measure(at: number, end: number): boolean {
    const buf = this.#buf;
    while (at < end) {
      const code = buf[at++]!;
      if (code === DhcpOption.Pad) continue;
      if (code === DhcpOption.End) return true;
      if (at >= end) return false;
      const len = buf[at++]!;
      if (at + len > end) return false;
      this.#lens[code] = Math.max(0, this.#lens[code]!) + len;
      at += len;
    }
    return true;
  }

  #findOverload(at: number, end: number): number {
    const buf = this.#buf;
    while (at < end && buf[at] !== DhcpOption.End) {
      const code = buf[at++]!;
      if (code === DhcpOption.Pad) continue;
      const len = buf[at++]!;
      if (code === DhcpOption.Overload && len === 1) return buf[at]! <= 3 ? buf[at]! : 0;
      at += len;
    }
    return 0;
  }

  #gather(at: number, end: number): void {
    const buf = this.#buf;
    while (at < end && buf[at] !== DhcpOption.End) {
      const code = buf[at++]!;
      if (code === DhcpOption.Pad) continue;
      const len = buf[at++]!;
      let to = this.#offs[code]!;
      for (let i = 0; i < len; i++) this.options[to++] = buf[at + i]!;
      this.#offs[code] = to;
      at += len;
    }
  }

  get op(): number {
    return getU8(this.#buf, this.#off);
  }
  get htype(): number {
    return getU8(this.#buf, this.#off + 1);
  }
  get hlen(): number {
    return getU8(this.#buf, this.#off + 2);
  }
  get xid(): number {
    return getI32(this.#buf, this.#off + 4);
  }
  get flags(): number {
    return getU16(this.#buf, this.#off + 10);
  }
  get ciaddr(): number {
    return getI32(this.#buf, this.#off + 12);
  }
  get yiaddr(): number {
    return getI32(this.#buf, this.#off + 16);
  }
  get siaddr(): number {
    return getI32(this.#buf, this.#off + 20);
  }
  get giaddr(): number {
    return getI32(this.#buf, this.#off + 24);
  }
  /** The array that `chaddrOff` points into. */
  get buf(): Uint8Array {
    return this.#buf;
  }
  get chaddrOff(): number {
    return this.#off + OFF_CHADDR;
  }

  has(code: number): boolean {
    return this.#lens[code]! >= 0;
  }

  /** Bytes of an option's value, all its pieces together; -1 if it is absent. */
  optionLen(code: number): number {
    return this.#lens[code]!;
  }

  /** Where the value starts in `options`. */
  optionOff(code: number): number {
    return this.#offs[code]!;
  }

  /** Value of a one-byte option; -1 if absent or of another length. */
  u8(code: number): number {
    return this.#lens[code] === 1 ? this.options[this.#offs[code]!]! : -1;
  }

  /** Value of a two-byte option; -1 if absent or of another length. */
  u16(code: number): number {
    return this.#lens[code] === 2 ? getU16(this.options, this.#offs[code]!) : -1;
  }

  /** Value of a four-byte option as int32; undefined if absent or of another length. */
  i32(code: number): number | undefined {
    return this.#lens[code] === 4 ? getI32(this.options, this.#offs[code]!) : undefined;
  }

  /** Option 53, or -1. */
  get messageType(): number {
    return this.u8(DhcpOption.MessageType);
  }
}
