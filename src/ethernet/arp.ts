// ARP for IPv4 over Ethernet: the message as a view, its emitter, and the decision what a message means to us.
// The neighbour table and resolution live in neighbours.ts. RFC 826; probes and defence of addresses RFC 5227.

import { getI32, getU16, setU16, setU32 } from '../base/bytes.ts';
import { Drop } from '../base/drop.ts';
import { copyMac, equalMac, isMulticastMac, isZeroMac } from './mac.ts';

/** Bytes of a message for Ethernet and IPv4. */
export const ARP_LENGTH = 28;

export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;

/** Bits of `judgeArp`'s answer: send a unicast reply; note sender IP -> sender MAC. 0: neither, drop it. */
export const ARP_DO_REPLY = 1;
export const ARP_DO_LEARN = 2;

/** One message in [off, off+28). Reused: re-aim it with `wrap`, keep nothing of it. */
export class ArpView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  end = 0;

  /** Aims the view. @returns ArpMalformed for anything but a request or reply for IPv4 over Ethernet from a real station. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    this.buf = buf;
    this.off = off;
    this.end = off + ARP_LENGTH;
    if (end - off < ARP_LENGTH) return Drop.ArpMalformed;
    // htype 1, ptype 0x0800; hlen 6, plen 4.
    if (getI32(buf, off) !== 0x0001_0800 || getU16(buf, off + 4) !== 0x0604) return Drop.ArpMalformed;
    const op = getU16(buf, off + 6);
    if (op !== ARP_REQUEST && op !== ARP_REPLY) return Drop.ArpMalformed;
    if (isMulticastMac(buf, off + 8) || isZeroMac(buf, off + 8)) return Drop.ArpMalformed;
    return Drop.None;
  }

  /** ARP_REQUEST or ARP_REPLY. */
  get op(): number {
    return getU16(this.buf, this.off + 6);
  }

  /** Offset of the sender's MAC. */
  get senderMacOff(): number {
    return this.off + 8;
  }

  /** Sender's IPv4 address, int32; 0 in a probe. */
  get senderIp(): number {
    return getI32(this.buf, this.off + 14);
  }

  /** Offset of the target's MAC. */
  get targetMacOff(): number {
    return this.off + 18;
  }

  get targetIp(): number {
    return getI32(this.buf, this.off + 24);
  }
}

/**
 * What to do about a message: a set of ARP_DO_ bits.
 * @param srcMacOff offset of the frame's source MAC in the view's buffer; a sender field that differs is not believed.
 * @param isOurs whether an address is one that the stack answers for (gateway, host alias, virtual ones).
 * @param lease the sending VM's own address, 0 if it has none: never answered for, whatever `isOurs` says.
 */
export function judgeArp(arp: ArpView, srcMacOff: number, isOurs: (ip: number) => boolean, lease: number): number {
  const sender = arp.senderIp;
  const target = arp.targetIp;
  const first = sender >>> 24;
  // Who claims one of our addresses poisons nobody; 127/8, groups and 0.x (but the probe's 0.0.0.0) are no station's.
  if (sender !== 0 && (isOurs(sender) || first === 0 || first === 127 || first >= 224)) return 0;
  let act = 0;
  if (arp.op === ARP_REQUEST && target !== lease && target !== 0 && isOurs(target)) act |= ARP_DO_REPLY;
  // RFC 5227 1.1: a probe says nothing about who has an address.
  if (sender !== 0 && equalMac(arp.buf, arp.senderMacOff, arp.buf, srcMacOff)) act |= ARP_DO_LEARN;
  return act;
}

/** Writes a message at `off`. The target MAC of a request is zero: pass six zero bytes. @returns its length, 28. */
export function emitArp(
  buf: Uint8Array,
  off: number,
  op: number,
  senderMac: Uint8Array,
  senderMacOff: number,
  senderIp: number,
  targetMac: Uint8Array,
  targetMacOff: number,
  targetIp: number,
): number {
  setU32(buf, off, 0x0001_0800);
  setU16(buf, off + 4, 0x0604);
  setU16(buf, off + 6, op);
  copyMac(senderMac, senderMacOff, buf, off + 8);
  setU32(buf, off + 14, senderIp);
  copyMac(targetMac, targetMacOff, buf, off + 18);
  setU32(buf, off + 24, targetIp);
  return ARP_LENGTH;
}
