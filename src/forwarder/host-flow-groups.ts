// Flows with host sockets, counted apart for each forward and together for the metrics: one group a forward, one for what guests dial.

import { CloseReason } from '../stack/ports.ts';
import { type HostFlow, type HostFlowContext, HostFlowStats } from './host-flow.ts';

export class HostFlowGroups {
  readonly #base: HostFlowContext;
  readonly #open = new Set<HostFlowContext>();
  /** Closed, with flows that still run. */
  readonly #ending = new Set<HostFlowContext>();
  /** Counts of groups that are gone. */
  readonly #past = new HostFlowStats();
  /** The sum over everything, gone groups included. */
  readonly stats: HostFlowStats;

  /** @param base the group of outgoing flows; new groups share its memory and clock. */
  constructor(base: HostFlowContext) {
    this.#base = base;
    const total = new HostFlowStats();
    for (const name of Object.keys(total) as (keyof HostFlowStats)[]) {
      Object.defineProperty(total, name, { enumerable: true, get: () => this.#sum(name) });
    }
    this.stats = total;
  }

  /** Flows that have a host socket. */
  get live(): number {
    let n = this.#base.live.size;
    for (const group of this.#open) n += group.live.size;
    for (const group of this.#ending) n += group.live.size;
    return n;
  }

  open(): HostFlowContext {
    const group: HostFlowContext = { ...this.#base, stats: new HostFlowStats(), live: new Set<HostFlow>() };
    this.#open.add(group);
    this.#fold();
    return group;
  }

  /** No new flows come to the group; it is forgotten when the last one has ended. Idempotent. */
  close(group: HostFlowContext): void {
    if (!this.#open.delete(group)) return;
    this.#ending.add(group);
    this.#fold();
  }

  #fold(): void {
    for (const group of this.#ending) {
      if (group.live.size > 0) continue;
      this.#ending.delete(group);
      for (const name of Object.keys(this.#past) as (keyof HostFlowStats)[]) this.#past[name] += group.stats[name];
    }
  }

  #sum(name: keyof HostFlowStats): number {
    let n = this.#base.stats[name] + this.#past[name];
    for (const group of this.#open) n += group.stats[name];
    for (const group of this.#ending) n += group.stats[name];
    return n;
  }
}

/** Resets both sides of every flow of a group. */
export function killFlows({ live, clock }: HostFlowContext): void {
  for (const flow of [...live]) {
    flow.flow.abort(CloseReason.Killed, clock.now());
    flow.destroy();
  }
}
