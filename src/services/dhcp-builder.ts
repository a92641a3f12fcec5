// Writes DHCP messages: fixed fields, options in the order they are added, END, zero padding to the BOOTP floor of 300 bytes.
// What does not fit the options area goes to the file and sname fields (option 52), what fits nowhere is left out and
// counted (RFC 2131 4.1, RFC 2132 9.3, RFC 3396). It owns its buffer, which every `begin` clears.

import { copyBytes, setU16, setU32 } from '../base/bytes.ts';
import {
  DHCP_COOKIE,
  DhcpOption,
  FILE_BYTES,
  HTYPE_ETHERNET,
  OFF_CHADDR,
  OFF_COOKIE,
  OFF_FILE,
  OFF_OPTIONS,
  OFF_SNAME,
  SNAME_BYTES,
} from './dhcp-message.ts';

/** Smallest message sent: clients of BOOTP age drop shorter ones. */
export const DHCP_MIN_SENT_BYTES = 300;
/** Largest message written: a 1,500-byte packet without its IP and UDP headers. */
export const DHCP_MAX_SENT_BYTES = 1472;
/** What every client takes without saying so: 576 bytes less IP and UDP headers, RFC 2131 2. */
export const DHCP_DEFAULT_SENT_BYTES = 548;
const OVERLOAD_BYTES = 3;

/** One message at a time, in a buffer that is reused. */
export class DhcpBuilder {
  /** The message: `finish()` bytes from offset 0, until the next `begin`. */
  readonly buf: Uint8Array = new Uint8Array(DHCP_MAX_SENT_BYTES);
  /** Options of this message that found no room. */
  cut = 0;
  #max = DHCP_DEFAULT_SENT_BYTES;
  #main = OFF_OPTIONS;
  #file = 0;
  #sname = 0;
  readonly #scratch = new Uint8Array(4);

  /** @param maxBytes largest message the receiver takes, 300 to 1,472 (clamped). */
  begin(op: number, xid: number, flags: number, maxBytes: number): void {
    this.buf.fill(0);
    this.buf[0] = op;
    this.buf[1] = HTYPE_ETHERNET;
    this.buf[2] = 6;
    setU32(this.buf, 4, xid);
    setU16(this.buf, 10, flags);
    setU32(this.buf, OFF_COOKIE, DHCP_COOKIE);
    this.#max = Math.max(DHCP_MIN_SENT_BYTES, Math.min(maxBytes, DHCP_MAX_SENT_BYTES));
    this.#main = OFF_OPTIONS;
    this.#file = OFF_FILE;
    this.#sname = OFF_SNAME;
    this.cut = 0;
  }

  /** ciaddr, yiaddr, siaddr, giaddr as int32. */
  addresses(ciaddr: number, yiaddr: number, siaddr: number, giaddr: number): void {
    setU32(this.buf, 12, ciaddr);
    setU32(this.buf, 16, yiaddr);
    setU32(this.buf, 20, siaddr);
    setU32(this.buf, 24, giaddr);
  }

  /** The client's 6-byte MAC. */
  chaddr(mac: Uint8Array, off: number): void {
    copyBytes(mac, off, this.buf, OFF_CHADDR, 6);
  }

  addU8(code: number, v: number): boolean {
    this.#scratch[0] = v;
    return this.addBytes(code, this.#scratch, 0, 1);
  }

  addU16(code: number, v: number): boolean {
    setU16(this.#scratch, 0, v);
    return this.addBytes(code, this.#scratch, 0, 2);
  }

  addU32(code: number, v: number): boolean {
    setU32(this.#scratch, 0, v);
    return this.addBytes(code, this.#scratch, 0, 4);
  }

  /** ASCII text (names); other characters lose their high bits, so callers check first. */
  addText(code: number, text: string): boolean {
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return this.addBytes(code, bytes, 0, bytes.length);
  }

  /**
   * Adds an option, in pieces of 255 bytes where it is longer (RFC 3396).
   * @returns false if no area has room for all of it; nothing is written and `cut` grows.
   */
  addBytes(code: number, src: Uint8Array, off: number, len: number): boolean {
    const need = len + 2 * Math.max(1, Math.ceil(len / 255));
    // The main area keeps room for END and for the overload option; the others for their own END.
    if (this.#main + need + OVERLOAD_BYTES + 1 <= this.#max) this.#main = this.#put(this.#main, code, src, off, len);
    else if (this.#file + need + 1 <= OFF_FILE + FILE_BYTES) this.#file = this.#put(this.#file, code, src, off, len);
    else if (this.#sname + need + 1 <= OFF_SNAME + SNAME_BYTES)
      this.#sname = this.#put(this.#sname, code, src, off, len);
    else {
      this.cut++;
      return false;
    }
    return true;
  }

  /** True if an option of `len` bytes has room somewhere. */
  fits(len: number): boolean {
    const need = len + 2 * Math.max(1, Math.ceil(len / 255));
    return (
      this.#main + need + OVERLOAD_BYTES + 1 <= this.#max ||
      this.#file + need + 1 <= OFF_FILE + FILE_BYTES ||
      this.#sname + need + 1 <= OFF_SNAME + SNAME_BYTES
    );
  }

  #put(at: number, code: number, src: Uint8Array, off: number, len: number): number {
    do {
      const piece = Math.min(255, len);
      this.buf[at++] = code;
      this.buf[at++] = piece;
      copyBytes(src, off, this.buf, at, piece);
      at += piece;
      off += piece;
      len -= piece;
    } while (len > 0);
    return at;
  }

  /** Ends every area in use. @returns the message's length in bytes. */
  finish(): number {
    let overload = 0;
    if (this.#file > OFF_FILE) {
      overload |= 1;
      this.buf[this.#file] = DhcpOption.End;
    }
    if (this.#sname > OFF_SNAME) {
      overload |= 2;
      this.buf[this.#sname] = DhcpOption.End;
    }
    if (overload !== 0) {
      this.buf[this.#main++] = DhcpOption.Overload;
      this.buf[this.#main++] = 1;
      this.buf[this.#main++] = overload;
    }
    this.buf[this.#main++] = DhcpOption.End;
    return Math.max(this.#main, DHCP_MIN_SENT_BYTES);
  }
}
