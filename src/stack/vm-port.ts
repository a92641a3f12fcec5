// One connected VM as the stack sees it: its egress, what it is known to take, who waits for its link to drain.

import type { Millis } from '../base/clock.ts';
import { copyMac, equalMac, MAC_LENGTH, macLo } from '../ethernet/mac.ts';
import { IcmpRateLimiter } from '../ip/icmp.ts';
import type { Connection } from '../tcp/connection.ts';
import { LinkBudget } from './link-budget.ts';
import { type FrameListener, PortTap } from './port-tap.ts';
import type { Egress, LinkInfo, LinkPort } from './ports.ts';

/** What every guest is believed to take. */
const COMMON_MTU = 1500;
/** What may be on its way to a VM beside small messages: about a millisecond of what VMs take at this size of packet. */
const IN_FLIGHT_SMALL_MTU = 600_000;
const IN_FLIGHT_LARGE_MTU = 1_000_000;
const LARGE_MTU = 16_384;
/** How long a noted neighbour is believed: well below the hold of the neighbour table, which hears of a talking VM only so often. */
const NOTED_MS = 20;

/** Where a flow's frames go: a port and a MAC there. */
export class Path {
  readonly port: VmPort;
  readonly mac: Uint8Array;

  constructor(port: VmPort, mac: Uint8Array) {
    this.port = port;
    this.mac = mac;
  }
}

/** What a port passes on; the stack. */
export interface PortOwner {
  onFrame(port: VmPort, buf: Uint8Array, off: number, len: number, now: Millis): void;
  onRun(port: VmPort, model: number, at: number, end: number, prefix: number, now: Millis): number;
  onEndTurn(now: Millis): void;
  onWritable(port: VmPort, now: Millis): void;
  onClose(port: VmPort, now: Millis): void;
}

export class VmPort implements LinkPort {
  readonly id: number;
  /** The link's; a tap before it while somebody listens. */
  egress: Egress;
  readonly info: LinkInfo;
  readonly connectedAt: Millis;
  /** Largest IP packet that this VM is known to take: told by a handshake, shown by its MSS or by a packet of that size. */
  takes: number;
  /** Frames wait in the egress for the turn's flush. */
  dirty = false;
  closed = false;
  /** It reaches no other VM, and none reaches it. */
  isolated = false;
  /** Connections that the link refused; those that end leave it, so a link that never drains holds no more than there are. */
  readonly blocked: Set<Connection> = new Set();
  /** TCP payload on its way to this VM. */
  readonly budget: LinkBudget;
  readonly icmpLimiter: IcmpRateLimiter = new IcmpRateLimiter();
  framesFromGuest = 0;
  bytesFromGuest = 0;
  framesToGuest = 0;
  bytesToGuest = 0;
  /** Frames not sent because the link did not drain. */
  refused = 0;
  runFrames = 0;
  flows = 0;
  /** Its opens whose dial or handshake is not finished. */
  opening = 0;
  /** The last (address, MAC) noted as neighbour, so that the table is not asked per packet. */
  notedIp = 0;
  notedMacLo = 0;
  notedAt: Millis = Number.NEGATIVE_INFINITY;
  #path: Path | undefined = undefined;
  #owner: PortOwner;
  #tap: PortTap | undefined = undefined;

  constructor(id: number, egress: Egress, info: LinkInfo, owner: PortOwner, now: Millis) {
    this.id = id;
    this.egress = egress;
    this.info = info;
    this.#owner = owner;
    this.connectedAt = now;
    this.budget = new LinkBudget(info.mtu > LARGE_MTU ? IN_FLIGHT_LARGE_MTU : IN_FLIGHT_SMALL_MTU);
    this.takes = info.mtuTold ? info.mtu : Math.min(COMMON_MTU, info.mtu);
  }

  input(buf: Uint8Array, off: number, len: number, now: Millis): void {
    if (this.closed) return;
    this.framesFromGuest++;
    this.bytesFromGuest += len;
    this.#owner.onFrame(this, buf, off, len, now);
  }

  inputRun(model: number, at: number, end: number, prefix: number, now: Millis): number {
    if (this.closed) return 0;
    const used = this.#owner.onRun(this, model, at, end, prefix, now);
    if (used === 0) return 0;
    this.framesFromGuest += this.runFrames;
    this.bytesFromGuest += used - this.runFrames * prefix;
    return used;
  }

  endTurn(now: Millis): void {
    this.#owner.onEndTurn(now);
  }

  writable(now: Millis): void {
    if (!this.closed) this.#owner.onWritable(this, now);
  }

  close(now: Millis): void {
    if (this.closed) return;
    this.closed = true;
    this.#owner.onClose(this, now);
  }

  /** Tells of every frame from now on. @param mem the packet memory. @returns a function that ends it; idempotent. */
  listen(listener: FrameListener, mem: Uint8Array): () => void {
    const tap = this.#tap ?? new PortTap(this, this.egress, this.#owner, mem);
    this.#tap = tap;
    this.egress = tap;
    this.#owner = tap;
    tap.listeners.add(listener);
    return () => {
      tap.listeners.delete(listener);
      if (tap.listeners.size > 0 || this.#tap !== tap) return;
      this.#tap = undefined;
      this.egress = tap.egress;
      this.#owner = tap.owner;
    };
  }

  /** The guest has shown that it takes IP packets of `len` bytes. */
  shown(len: number): void {
    if (len > this.takes) this.takes = Math.min(len, this.info.mtu);
  }

  /** The path to a MAC of this port; the last one is kept, for most VMs have one. */
  pathTo(mac: Uint8Array, macOff: number): Path {
    const p = this.#path;
    if (p !== undefined && equalMac(p.mac, 0, mac, macOff)) return p;
    // Copy: a flow outlives the frame that named the MAC. (`slice` of packet memory that is a Buffer would be a view of it.)
    const copy = new Uint8Array(MAC_LENGTH);
    copyMac(mac, macOff, copy, 0);
    const path = new Path(this, copy);
    this.#path = path;
    return path;
  }

  /** Whether (ip, MAC) was noted a moment ago. */
  isNoted(ip: number, mac: Uint8Array, macOff: number, now: Millis): boolean {
    return ip === this.notedIp && now - this.notedAt < NOTED_MS && macLo(mac, macOff) === this.notedMacLo;
  }

  note(ip: number, mac: Uint8Array, macOff: number, now: Millis): void {
    this.notedIp = ip;
    this.notedMacLo = macLo(mac, macOff);
    this.notedAt = now;
  }
}
