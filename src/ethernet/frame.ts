// The Ethernet II header as a view, and its emitter. Frames come without FCS. No 802.1Q: a tagged frame has an EtherType
// that nobody here handles. Which ports a frame goes to is the switch's business (mac-table, stack).

import { getU16, setU16 } from '../base/bytes.ts';
import { Drop } from '../base/drop.ts';
import { copyMac, equalMac, isBroadcastMac, isMulticastMac, isZeroMac, macHi, macLo } from './mac.ts';

/** Bytes of the header: destination, source, EtherType. */
export const ETHERNET_HEADER = 14;

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const ETHERTYPE_IPV6 = 0x86dd;

/** One frame in [off, end). Reused: re-aim it with `wrap`, keep nothing of it. */
export class FrameView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  end = 0;

  /** Aims the view. @returns LinkRunt under 14 bytes, EthBadSource for a group or zero source address. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    this.buf = buf;
    this.off = off;
    this.end = end;
    if (end - off < ETHERNET_HEADER) return Drop.LinkRunt;
    if (isMulticastMac(buf, off + 6) || isZeroMac(buf, off + 6)) return Drop.EthBadSource;
    return Drop.None;
  }

  /** Offset of the destination MAC. */
  get dstOff(): number {
    return this.off;
  }

  /** Offset of the source MAC. */
  get srcOff(): number {
    return this.off + 6;
  }

  get dstHi(): number {
    return macHi(this.buf, this.off);
  }

  get dstLo(): number {
    return macLo(this.buf, this.off);
  }

  get srcHi(): number {
    return macHi(this.buf, this.off + 6);
  }

  get srcLo(): number {
    return macLo(this.buf, this.off + 6);
  }

  get etherType(): number {
    return getU16(this.buf, this.off + 12);
  }

  /** Offset of the first byte after the header. */
  get payloadOff(): number {
    return this.off + ETHERNET_HEADER;
  }

  /** To every station, or to a group of them. */
  get toGroup(): boolean {
    return isMulticastMac(this.buf, this.off);
  }

  get toBroadcast(): boolean {
    return isBroadcastMac(this.buf, this.off);
  }

  /** Destination is the MAC at `macOff` of `mac`. */
  isTo(mac: Uint8Array, macOff: number): boolean {
    return equalMac(this.buf, this.off, mac, macOff);
  }

  /** Source is the MAC at `macOff` of `mac`. */
  isFrom(mac: Uint8Array, macOff: number): boolean {
    return equalMac(this.buf, this.off + 6, mac, macOff);
  }
}

/** Writes a header at `off`. @returns its length, 14. */
export function emitEthernet(
  buf: Uint8Array,
  off: number,
  dstMac: Uint8Array,
  dstOff: number,
  srcMac: Uint8Array,
  srcOff: number,
  etherType: number,
): number {
  copyMac(dstMac, dstOff, buf, off);
  copyMac(srcMac, srcOff, buf, off + 6);
  setU16(buf, off + 12, etherType);
  return ETHERNET_HEADER;
}
