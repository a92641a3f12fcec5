// IPv4 address -> MAC and port of each station, and the resolution of those not known: packets wait here, bounded, while
// requests go out. It sends nothing itself: requests, released packets and failures go to its sink. RFC 826, RFC 1122 2.3.2.
//
//   (none) --hold--> Incomplete --learn--> Reachable --60 s unheard and used--> Probing --learn--> Reachable
//                        '------------- 3 requests, 1 s apart, unanswered --------'--> (none), the sink is told

import { copyBytes } from '../base/bytes.ts';
import { type Millis, NEVER } from '../base/clock.ts';
import { copyMac, equalMac, MAC_LENGTH } from './mac.ts';

/** Printed in status. */
export const NeighbourState = { Incomplete: 'incomplete', Reachable: 'reachable', Probing: 'probing' } as const;
export type NeighbourState = (typeof NeighbourState)[keyof typeof NeighbourState];

/** One station. Owned by the table; read it, do not write it, and do not keep it. */
export class Neighbour {
  /** IPv4 address, int32. */
  readonly ip: number;
  readonly mac: Uint8Array = new Uint8Array(MAC_LENGTH);
  /** Port it was heard on; 0 while Incomplete. */
  portId = 0;
  state: NeighbourState = NeighbourState.Incomplete;
  /** Last time it was heard. */
  heardAt: Millis = 0;
  /** Requests sent in this round. */
  tries = 0;
  nextTryAt: Millis = NEVER;
  /** Packets that wait. */
  held: Uint8Array[] | undefined = undefined;

  constructor(ip: number) {
    this.ip = ip;
  }

  /** True if `mac` can be sent to. */
  get usable(): boolean {
    return this.state !== NeighbourState.Incomplete;
  }
}

/** What the table asks of the stack. */
export interface NeighbourSink {
  /** Broadcast a request for `ip` (to `n`'s own port and MAC if it is usable: a unicast check). */
  sendArpRequest(n: Neighbour, now: Millis): void;
  /** A packet that waited can go; `packet` is the sink's to keep. */
  sendHeld(n: Neighbour, packet: Uint8Array, now: Millis): void;
  /** Nobody answered for `ip`; `packets` waiting ones were dropped. */
  onUnresolved(ip: number, packets: number, now: Millis): void;
}

export interface NeighbourOptions {
  /** Default 60,000 ms (RFC 1122 2.3.2.1: on the order of a minute). */
  readonly reachableMs?: number;
  /** Default 1,000 ms (RFC 1122 2.3.2.1: at most one a second). */
  readonly retryMs?: number;
  /** Default 3. */
  readonly maxTries?: number;
  /** Addresses one port may hold. Default 64. */
  readonly maxPerPort?: number;
  /** Addresses in all. Default 1,024. */
  readonly maxTotal?: number;
  /** Unanswered resolutions at once. Default 64. */
  readonly maxIncomplete?: number;
  /** Packets that wait for one address. Default 16. */
  readonly maxHeldPackets?: number;
  /** Bytes that wait in all. Default 1 MiB. */
  readonly maxHeldBytes?: number;
  /** An address heard on its port within this time does not move to another port. Default 1,000 ms. */
  readonly moveHoldMs?: number;
}

/** The neighbour table of one network. */
export class Neighbours {
  /** Entries refused because a cap was reached. */
  capped = 0;
  /** Claims to an address that is in use on another port. */
  moveRefused = 0;
  moved = 0;
  requestsSent = 0;
  /** Resolutions that ended without an answer. */
  unresolved = 0;
  /** Packets not held because a cap was reached, or dropped unanswered. */
  heldDropped = 0;
  heldBytes = 0;

  readonly #sink: NeighbourSink;
  readonly #reachableMs: number;
  readonly #retryMs: number;
  readonly #maxTries: number;
  readonly #maxPerPort: number;
  readonly #maxTotal: number;
  readonly #maxIncomplete: number;
  readonly #maxHeldPackets: number;
  readonly #maxHeldBytes: number;
  readonly #moveHoldMs: number;
  readonly #byIp = new Map<number, Neighbour>();
  readonly #perPort = new Map<number, number>();
  /** Incomplete and Probing ones. */
  #active: Neighbour[] = [];
  #nextSweep: Millis = 0;

  constructor(sink: NeighbourSink, options: NeighbourOptions = {}) {
    this.#sink = sink;
    this.#reachableMs = options.reachableMs ?? 60_000;
    this.#retryMs = options.retryMs ?? 1000;
    this.#maxTries = options.maxTries ?? 3;
    this.#maxPerPort = options.maxPerPort ?? 64;
    this.#maxTotal = options.maxTotal ?? 1024;
    this.#maxIncomplete = options.maxIncomplete ?? 64;
    this.#maxHeldPackets = options.maxHeldPackets ?? 16;
    this.#maxHeldBytes = options.maxHeldBytes ?? 1024 * 1024;
    this.#moveHoldMs = options.moveHoldMs ?? 1000;
  }

  get size(): number {
    return this.#byIp.size;
  }

  /** Entries for status. */
  entries(): IterableIterator<Neighbour> {
    return this.#byIp.values();
  }

  /** Whether an address is known or being asked for. */
  has(ip: number): boolean {
    return this.#byIp.has(ip);
  }

  /** A station that can be sent to now, or undefined. One unheard for long is still used while it is asked again. */
  lookup(ip: number, now: Millis): Neighbour | undefined {
    const n = this.#byIp.get(ip);
    if (n === undefined || !n.usable) return undefined;
    if (n.state === NeighbourState.Reachable && now - n.heardAt > this.#reachableMs) {
      if (this.#active.length < this.#maxIncomplete * 2) this.#activate(n, NeighbourState.Probing, now);
    }
    return n;
  }

  /**
   * Keeps a copy of a packet until `ip` is resolved, and starts asking; the first request goes out at the next `poll`.
   * @returns false if it was dropped because a cap was reached (counted).
   */
  hold(ip: number, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    let n = this.#byIp.get(ip);
    if (n === undefined) {
      if (this.#active.length >= this.#maxIncomplete || !this.#hasTotalRoom(now)) {
        this.capped++;
        this.heldDropped++;
        return false;
      }
      n = new Neighbour(ip);
      this.#byIp.set(ip, n);
      this.#activate(n, NeighbourState.Incomplete, now);
    }
    n.held ??= [];
    if (n.held.length >= this.#maxHeldPackets || this.heldBytes + len > this.#maxHeldBytes) {
      this.heldDropped++;
      return false;
    }
    // Copy: it outlives the call; rare, as a guest is known from its first frame on.
    const packet = new Uint8Array(len);
    copyBytes(buf, off, packet, 0, len);
    n.held.push(packet);
    this.heldBytes += len;
    return true;
  }

  /**
   * Notes that `ip` is at the MAC at `macOff` of `mac` on `port`; packets that waited go to the sink.
   * Call it for ARP messages that `judgeArp` trusts, leases given, and packets from guests: it costs a lookup when nothing changed.
   * @param own the MAC is known to be this port's: the address moves here at once.
   * @returns false if a cap was reached, or if the address is in use on another port (counted).
   */
  learn(ip: number, mac: Uint8Array, macOff: number, port: number, now: Millis, own = false): boolean {
    let n = this.#byIp.get(ip);
    if (n !== undefined && n.portId === port && n.state === NeighbourState.Reachable) {
      if (!equalMac(n.mac, 0, mac, macOff)) copyMac(mac, macOff, n.mac, 0);
      n.heardAt = now;
      return true;
    }
    if (!own && n !== undefined && n.portId !== 0 && n.portId !== port && now - n.heardAt < this.#moveHoldMs) {
      this.moveRefused++;
      return false;
    }
    if (n === undefined || n.portId !== port) {
      if (!this.#hasPortRoom(port, now) || (n === undefined && !this.#hasTotalRoom(now))) {
        this.capped++;
        return false;
      }
      // The sweep may have removed it.
      n = this.#byIp.get(ip);
      if (n === undefined) {
        n = new Neighbour(ip);
        this.#byIp.set(ip, n);
      }
      if (n.portId !== 0) {
        this.#count(n.portId, -1);
        this.moved++;
      }
      this.#count(port, 1);
      n.portId = port;
    }
    copyMac(mac, macOff, n.mac, 0);
    n.heardAt = now;
    this.#deactivate(n);
    n.state = NeighbourState.Reachable;
    const held = n.held;
    if (held !== undefined) {
      n.held = undefined;
      for (const packet of held) {
        this.heldBytes -= packet.length;
        this.#sink.sendHeld(n, packet, now);
      }
    }
    return true;
  }

  /** Forgets every address of a port that is gone. */
  dropPort(port: number): void {
    for (const n of this.#byIp.values()) if (n.portId === port) this.#remove(n);
  }

  nextDeadline(): Millis {
    let at = NEVER;
    for (const n of this.#active) if (n.nextTryAt < at) at = n.nextTryAt;
    return at;
  }

  /** Sends the requests that are due; gives up on who did not answer. */
  poll(now: Millis): void {
    const due = this.#active.filter((n) => n.nextTryAt <= now);
    for (const n of due) {
      if (n.nextTryAt > now) continue;
      if (n.tries < this.#maxTries) {
        n.tries++;
        n.nextTryAt = now + this.#retryMs;
        this.requestsSent++;
        this.#sink.sendArpRequest(n, now);
        continue;
      }
      const packets = n.held?.length ?? 0;
      this.unresolved++;
      this.#remove(n);
      this.#sink.onUnresolved(n.ip, packets, now);
    }
  }

  #activate(n: Neighbour, state: NeighbourState, now: Millis): void {
    n.state = state;
    n.tries = 0;
    n.nextTryAt = now;
    this.#active.push(n);
  }

  #deactivate(n: Neighbour): void {
    if (n.nextTryAt === NEVER) return;
    n.nextTryAt = NEVER;
    this.#active.splice(this.#active.indexOf(n), 1);
  }

  #remove(n: Neighbour): void {
    this.#deactivate(n);
    this.#byIp.delete(n.ip);
    if (n.portId !== 0) this.#count(n.portId, -1);
    if (n.held === undefined) return;
    this.heldDropped += n.held.length;
    for (const packet of n.held) this.heldBytes -= packet.length;
    n.held = undefined;
  }

  #hasPortRoom(port: number, now: Millis): boolean {
    if ((this.#perPort.get(port) ?? 0) < this.#maxPerPort) return true;
    this.#sweep(now);
    return (this.#perPort.get(port) ?? 0) < this.#maxPerPort;
  }

  #hasTotalRoom(now: Millis): boolean {
    if (this.#byIp.size < this.#maxTotal) return true;
    this.#sweep(now);
    return this.#byIp.size < this.#maxTotal;
  }

  /** Forgets those unheard for five reachable times; at most once a second, whatever a guest sends. */
  #sweep(now: Millis): void {
    if (now < this.#nextSweep) return;
    this.#nextSweep = now + 1000;
    for (const n of this.#byIp.values()) {
      if (n.state === NeighbourState.Reachable && now - n.heardAt > this.#reachableMs * 5) this.#remove(n);
    }
  }

  #count(port: number, by: number): void {
    const c = (this.#perPort.get(port) ?? 0) + by;
    if (c === 0) this.#perPort.delete(port);
    else this.#perPort.set(port, c);
  }
}
