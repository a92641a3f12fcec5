// Guests' outgoing TCP: decides what a destination stands for, dials it with an ordinary socket, and joins the two. The host is
// dialled first and the guest answered after, so a refused port is refused in the guest too.

import type { Clock, Millis } from '../base/clock.ts';
import { dialTcp } from '../host/host-stream.ts';
import type { TurnClock } from '../host/turn-clock.ts';
import type { FlowAcceptor, FlowOwner, TcpFlow } from '../stack/ports.ts';
import { RefuseReason } from '../stack/ports.ts';
import { Destination, type Destinations, refusalOf } from './destination.ts';
import type { FlowInterceptor } from './guest-services.ts';
import { HostFlow, type HostFlowContext, HostFlowStats, SCRATCH_BYTES } from './host-flow.ts';
import { Loans } from './loans.ts';
import { NO_RULES, type Outbound } from './outbound.ts';

/** A service of the gateway behind a TCP port (DNS). */
export interface GatewayTcpService {
  onTcpFlow(flow: TcpFlow, now: Millis): FlowOwner | undefined;
}

export interface TcpForwarderOptions {
  readonly destinations: Destinations;
  readonly clock: Clock;
  /** The packet memory. */
  readonly mem: Buffer;
  readonly turns: TurnClock;
  /** Addresses of the host to dial from. */
  readonly outbound?: Outbound;
  /** A guest opens a flow to the outside. */
  readonly onFlow?: (now: Millis) => void;
  /** A dial failed for want of a route. */
  readonly onNoRoute?: () => void;
}

export class TcpForwarder implements FlowAcceptor {
  readonly stats: HostFlowStats = new HostFlowStats();
  readonly context: HostFlowContext;
  /** Asked first. */
  interceptor: FlowInterceptor | undefined;
  readonly #destinations: Destinations;
  readonly #outbound: Outbound;
  readonly #onFlow: ((now: Millis) => void) | undefined;
  readonly #services = new Map<number, GatewayTcpService>();

  constructor(options: TcpForwarderOptions) {
    this.#destinations = options.destinations;
    this.#outbound = options.outbound ?? NO_RULES;
    this.#onFlow = options.onFlow;
    this.context = {
      clock: options.clock,
      scratch: Buffer.allocUnsafeSlow(SCRATCH_BYTES),
      mem: options.mem,
      stats: this.stats,
      live: new Set(),
      turns: options.turns,
      loans: new Loans(),
      onNoRoute: options.onNoRoute,
    };
  }

  /** Puts a service behind a port of the gateway. */
  serve(port: number, service: GatewayTcpService): void {
    this.#services.set(port, service);
  }

  /** Flows that have a host socket. */
  get live(): number {
    return this.context.live.size;
  }

  onSyn(flow: TcpFlow, now: Millis): void {
    if (this.interceptor?.onSyn(flow, now)) return;
    const kind = this.#destinations.classify(flow.remote);
    if (kind === Destination.Gateway) {
      const owner = this.#services.get(flow.remotePort)?.onTcpFlow(flow, now);
      // A service that has taken the flow has answered it, too.
      if (owner === undefined) flow.refuse(RefuseReason.Refused, now);
      return;
    }
    const refusal = refusalOf(kind);
    if (refusal !== undefined) {
      flow.refuse(refusal, now);
      return;
    }
    const hostFlow = new HostFlow(flow, this.context, false);
    flow.owner = hostFlow;
    this.stats.dialled++;
    this.#onFlow?.(now);
    const address = this.#destinations.dialAddress(flow.remote, kind).toString();
    // The host's loopback has its own source address.
    const local = kind === Destination.Outside ? this.#outbound.addressFor(flow.remote)?.toString() : undefined;
    hostFlow.attach(dialTcp(address, flow.remotePort, hostFlow, local), true);
  }

  /** Resets every host connection: the daemon stops. */
  close(): void {
    for (const flow of this.context.live) flow.destroy();
  }
}
