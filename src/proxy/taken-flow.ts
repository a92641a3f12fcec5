// A guest's flow to a port that goes through a proxy, until it is known where it wants to go: accepted, and its first bytes looked at where
// they lie. They are not taken from the ring, so whoever gets the flow afterwards finds it as the guest sent it.

import type { Clock, Millis } from '../base/clock.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../stack/ports.ts';
import { type FirstBytes, readFirstBytes } from './first-bytes.ts';

/** A guest that says nothing first is waiting for the server to do so; */
const SILENCE_MS = 1000;
/** and one that has begun has this long for the rest. */
const REST_MS = 5000;

export interface TakenFlowEvents {
  /** The flow is the callee's. */
  onKnown(flow: TcpFlow, first: FirstBytes, now: Millis): void;
  onGone(taken: TakenFlow): void;
}

export class TakenFlow implements FlowOwner {
  readonly #flow: TcpFlow;
  readonly #clock: Clock;
  readonly #events: TakenFlowEvents;
  #timer: NodeJS.Timeout;
  #began = false;
  #over = false;

  constructor(flow: TcpFlow, clock: Clock, events: TakenFlowEvents, now: Millis) {
    this.#flow = flow;
    this.#clock = clock;
    this.#events = events;
    this.#timer = setTimeout(() => this.#look(this.#clock.now(), true), SILENCE_MS);
    flow.owner = this;
    flow.accept(now);
  }

  /** The daemon stops. */
  destroy(): void {
    if (!this.#finish()) return;
    this.#flow.abort(CloseReason.Killed, this.#clock.now());
    this.#flow.release();
  }

  onEstablished(now: Millis): void {
    this.onReadable(now);
  }

  onReadable(now: Millis): void {
    if (this.#over || (this.#flow.readable === 0 && !this.#flow.ended)) return;
    if (!this.#began) {
      this.#began = true;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#look(this.#clock.now(), true), REST_MS);
    }
    this.#look(now, this.#flow.ended);
  }

  onWritable(): void {}

  onClosed(): void {
    if (!this.#finish()) return;
    this.#flow.release();
  }

  #look(now: Millis, complete: boolean): void {
    if (this.#over) return;
    const { mem, readableOffset, readable } = this.#flow;
    const first = readFirstBytes(mem, readableOffset, readable, complete);
    if (first.kind === 'more' && !complete) return;
    if (!this.#finish()) return;
    this.#events.onKnown(this.#flow, first.kind === 'more' ? { kind: 'other' } : first, now);
  }

  #finish(): boolean {
    if (this.#over) return false;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#events.onGone(this);
    return true;
  }
}
