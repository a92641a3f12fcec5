// The embedded guest's stack as a VM of the simulation: our TCP against itself, with its own packet memory.

import type { Random } from '../../src/base/random.ts';
import { Slab } from '../../src/base/slab.ts';
import { GuestStack } from '../../src/guest/guest-stack.ts';
import { IpAddress } from '../../src/ip/address.ts';
import type { TcpFlow } from '../../src/tcp/flow.ts';
import type { TcpLimits } from '../../src/tcp/limits.ts';
import { fail, type Pair, type SimEnd } from './ends.ts';
import { FlowEnd, type FlowEndOptions } from './flow-end.ts';
import type { SimGuest } from './guest.ts';
import { Alarm, type Timeline } from './timeline.ts';

const MEMORY_BYTES = 16 * 1024 * 1024;
const FRAME_BLOCK = 128 * 1024;

export class StackGuest implements SimGuest {
  readonly name: string;
  readonly ip: number;
  readonly stack: GuestStack;
  readonly slab: Slab;
  /** Bytes of packet memory in use while nothing is under way. */
  readonly baseBytes: number;
  readonly #timeline: Timeline;
  readonly #random: Random;
  readonly #options: FlowEndOptions;
  readonly #alarm: Alarm;
  #turnWanted = false;

  constructor(
    name: string,
    timeline: Timeline,
    ip: number,
    mac: Uint8Array,
    router: number,
    mtu: number,
    tcp: TcpLimits,
    random: Random,
    options: FlowEndOptions,
    send: (frame: Uint8Array) => void,
  ) {
    this.name = name;
    this.ip = ip >>> 0;
    this.#timeline = timeline;
    this.#random = random;
    this.#options = options;
    this.slab = new Slab(new Uint8Array(MEMORY_BYTES));
    const block = this.slab.alloc(FRAME_BLOCK);
    this.baseBytes = this.slab.usedBytes;
    const { mem } = this.slab;
    const pending: Uint8Array[] = [];
    const link = {
      reserve: (): number => block + 2,
      commit: (off: number, len: number): void => {
        pending.push(mem.slice(off, off + len));
      },
      flush: (): void => {
        for (const frame of pending.splice(0)) send(frame);
      },
      close: (): void => {},
    };
    this.#alarm = new Alarm(timeline, () => this.stack.poll(timeline.now));
    this.stack = new GuestStack({ mac, mtu, tcp }, link, this.slab, random, {
      onTurnWanted: () => this.#wantTurn(),
      onTurnEnd: () => this.#alarm.set(this.stack.nextDeadline()),
      onBug: (error) => {
        throw error;
      },
    });
    this.stack.configure({ address: ip | 0, prefix: 24, router: router | 0 });
  }

  get live(): number {
    return this.stack.tcp.flows;
  }

  start(): void {
    // A request for the router: it learns who we are on the way.
    this.stack.resolve(this.stack.route(this.stack.router)!);
    this.stack.endTurn(this.#timeline.now);
  }

  open(pair: Pair, _localPort: number, remoteIp: number, remotePort: number): number {
    const c = this.stack.tcp.connect(IpAddress.v4(remoteIp | 0), remotePort, this.#timeline.now);
    if (typeof c === 'string') return fail(`${this.name}: connect: ${c}`);
    pair.guest = this.#end(pair, c, true);
    return c.remotePort;
  }

  listen(pair: Pair, port: number, _isn: number, onAccept: (end: SimEnd) => void): void {
    this.stack.tcp.listen(port, (flow) => {
      const end = this.#end(pair, flow, false);
      // A second attempt counts where the first came to nothing; else it is an old copy of the SYN.
      if (pair.guest?.established !== true) {
        pair.guest = end;
        onAccept(end);
      }
      end.accept();
    });
  }

  #end(pair: Pair, flow: TcpFlow, answered: boolean): FlowEnd {
    const label = `flow ${pair.id} guest`;
    return new FlowEnd(label, pair, pair.toHost, flow, this.#timeline, this.#random, this.#options, answered);
  }

  receive(frames: Uint8Array[]): void {
    for (const frame of frames) this.stack.input(frame, 0, frame.length, this.#timeline.now);
    this.stack.endTurn(this.#timeline.now);
  }

  vanish(): void {}

  #wantTurn(): void {
    if (this.#turnWanted) return;
    this.#turnWanted = true;
    this.#timeline.in(0, () => {
      this.#turnWanted = false;
      this.stack.endTurn(this.#timeline.now);
    });
  }
}
