// The daemon's Stack and the embedded guest's, joined frame by frame on a virtual clock: no sockets, no timers, faults by a seed.
// Hours of TCP time pass in milliseconds, and a seed replays a run exactly.

import type { Millis } from '../../src/base/clock.ts';
import { Slab } from '../../src/base/slab.ts';
import { GuestStack } from '../../src/guest/guest-stack.ts';
import type { GuestFlowOwner } from '../../src/guest/guest-tcp.ts';
import { Cidr4 } from '../../src/ip/address.ts';
import type { CloseReason, Egress, LinkPort, TcpFlow } from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import { DEFAULT_TCP_LIMITS, type TcpLimits } from '../../src/tcp/limits.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';

export const GATEWAY = 0xc0a84101 | 0;
export const GUEST = 0xc0a84103 | 0;
export const OUTSIDE = 0x0a000001;

/** What a link does to frames; shares are of 1. */
export interface Faults {
  readonly delayMs: number;
  /** Up to so much more, at random: frames overtake each other. */
  readonly jitterMs?: number;
  readonly loss?: number;
  readonly duplicate?: number;
  readonly corrupt?: number;
}

/** One end's Egress: frames are copied out of its packet memory and put on the wire. */
class Wire implements Egress {
  readonly #off: number;
  readonly #slab: Slab;
  readonly #carry: (frame: Uint8Array) => void;

  constructor(slab: Slab, carry: (frame: Uint8Array) => void) {
    this.#slab = slab;
    this.#off = slab.alloc(128 * 1024);
    this.#carry = carry;
  }

  reserve(): number {
    return this.#off;
  }

  commit(off: number, len: number): void {
    this.#carry(Uint8Array.prototype.slice.call(this.#slab.mem, off, off + len));
  }

  flush(): void {}
  close(): void {}
}

export class VirtualNetwork {
  now: Millis = 1000;
  readonly stack: Stack;
  readonly guest: GuestStack;
  /** Takes flows that the guest opens. */
  onSyn: (flow: TcpFlow, now: Millis) => void = (flow, now) => flow.refuse('refused', now);
  carried = 0;
  lost = 0;
  readonly #random: SeededRandom;
  readonly #port: LinkPort;
  #frames: { at: Millis; toGuest: boolean; frame: Uint8Array }[] = [];
  #stackTurn = false;
  #guestTurn = false;

  constructor(seed: number, faults: Faults, mtu: number, limits: Partial<TcpLimits> = {}) {
    this.#random = new SeededRandom(seed);
    const tcp = { ...DEFAULT_TCP_LIMITS, ...limits };
    const stackSlab = new Slab(new Uint8Array(16 * 1024 * 1024));
    const guestSlab = new Slab(new Uint8Array(16 * 1024 * 1024));
    const onBug = (error: unknown): never => {
      throw error;
    };
    this.stack = new Stack(
      {
        network: new Cidr4(GATEWAY, 24),
        gateway: GATEWAY,
        hostAlias: undefined,
        mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
        tcp,
      },
      stackSlab,
      this.#random,
      { onSyn: (flow, now) => this.onSyn(flow, now) },
      { onDatagram: () => false, onVmGone: () => {} },
      {
        onTurnWanted: () => {
          this.#stackTurn = true;
        },
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug,
      },
    );
    const toGuest = new Wire(stackSlab, (frame) => this.#carry(frame, true, faults));
    this.#port = this.stack.attach(toGuest, { name: 'virtual', mtu, mtuTold: false }, this.now);
    const toHost = new Wire(guestSlab, (frame) => this.#carry(frame, false, faults));
    this.guest = new GuestStack({ mac: Uint8Array.of(2, 0, 0, 0, 0, 2), mtu, tcp }, toHost, guestSlab, this.#random, {
      onTurnWanted: () => {
        this.#guestTurn = true;
      },
      onTurnEnd: () => {},
      onBug,
    });
    this.guest.configure({ address: GUEST, prefix: 24, router: GATEWAY });
  }

  /** In [0, 1). */
  #unit(): number {
    return (this.#random.i32() >>> 0) / 0x1_0000_0000;
  }

  #carry(frame: Uint8Array, toGuest: boolean, faults: Faults): void {
    this.carried++;
    const chance = (share: number | undefined): boolean => this.#unit() < (share ?? 0);
    if (chance(faults.loss)) {
      this.lost++;
      return;
    }
    for (let copies = chance(faults.duplicate) ? 2 : 1; copies > 0; copies--) {
      const bytes = frame.slice();
      if (chance(faults.corrupt)) bytes[Math.floor(this.#unit() * bytes.length)]! ^= 1 << (this.#random.i32() & 7);
      const at = this.now + faults.delayMs + this.#unit() * (faults.jitterMs ?? 0);
      let i = this.#frames.length;
      while (i > 0 && this.#frames[i - 1]!.at > at) i--;
      this.#frames.splice(i, 0, { at, toGuest, frame: bytes });
    }
  }

  /** Runs until `done`, or `limitMs` of virtual time are over. @returns whether it was done. */
  run(done: () => boolean, limitMs: Millis): boolean {
    const end = this.now + limitMs;
    while (!done()) {
      if (this.#stackTurn) {
        this.#stackTurn = false;
        this.stack.onEndTurn(this.now);
      } else if (this.#guestTurn) {
        this.#guestTurn = false;
        this.guest.endTurn(this.now);
      } else if (!this.#step(end)) return false;
    }
    return true;
  }

  /** The next thing that happens. @returns false when nothing does before `end`. */
  #step(end: Millis): boolean {
    const frame = this.#frames[0];
    const stackAt = this.stack.nextDeadline();
    const guestAt = this.guest.nextDeadline();
    const at = Math.min(frame?.at ?? Number.POSITIVE_INFINITY, stackAt, guestAt);
    if (at > end) {
      this.now = end;
      return false;
    }
    this.now = Math.max(this.now, at);
    if (frame !== undefined && frame.at <= this.now) {
      this.#frames.shift();
      if (frame.toGuest) {
        this.guest.input(frame.frame, 0, frame.frame.length, this.now);
        this.guest.endTurn(this.now);
      } else {
        this.#port.input(frame.frame, 0, frame.frame.length, this.now);
        this.#port.endTurn(this.now);
      }
    } else if (stackAt <= guestAt) this.stack.poll(this.now);
    else this.guest.poll(this.now);
    return true;
  }
}

/** Byte `i` of a stream. */
function patternAt(i: number, salt: number): number {
  return (i * 7 + (i >>> 8) * 13 + (i >>> 16) * 101 + salt) & 255;
}

/** One end of a flow: sends a known stream and its FIN, and checks the one that it gets. */
export class Peer implements GuestFlowOwner {
  readonly flow: TcpFlow;
  established = false;
  sent = 0;
  received = 0;
  /** The first byte that was not as it should be; -1 if none. */
  wrongAt = -1;
  ended = false;
  closed: CloseReason | undefined = undefined;
  unreachableCode = -1;
  /** Stops taking bytes. */
  deaf = false;
  readonly #total: number;
  readonly #salt: number;
  readonly #peerSalt: number;

  constructor(flow: TcpFlow, total: number, salt: number, peerSalt: number, now: Millis) {
    this.flow = flow;
    this.#total = total;
    this.#salt = salt;
    this.#peerSalt = peerSalt;
    flow.owner = this;
    this.#fill(now);
  }

  /** Everything was sent and acknowledged by the far side's own end. */
  get done(): boolean {
    return this.closed !== undefined;
  }

  #fill(now: Millis): void {
    while (this.sent < this.#total) {
      const len = Math.min(this.#total - this.sent, 16_384);
      const piece = Uint8Array.from({ length: len }, (_, i) => patternAt(this.sent + i, this.#salt));
      const taken = this.flow.write(piece, 0, len, now);
      this.sent += taken;
      if (taken < len) {
        this.flow.awaitWritable();
        return;
      }
    }
    this.flow.shutdown(now);
  }

  onEstablished(_now: Millis): void {
    this.established = true;
  }

  onReadable(now: Millis): void {
    const { flow } = this;
    while (!this.deaf && flow.readable > 0) {
      const len = flow.readable;
      const off = flow.readableOffset;
      for (let i = 0; i < len; i++) {
        if (flow.mem[off + i] !== patternAt(this.received + i, this.#peerSalt) && this.wrongAt < 0) {
          this.wrongAt = this.received + i;
        }
      }
      this.received += len;
      flow.consume(len, now);
    }
    if (flow.ended) this.ended = true;
  }

  onWritable(now: Millis): void {
    this.#fill(now);
  }

  onUnreachable(code: number): void {
    this.unreachableCode = code;
  }

  onClosed(reason: CloseReason, _now: Millis): void {
    this.closed = reason;
    this.flow.release();
  }
}
