// A guest's flow through a proxy: holds the flow while a way is made, then joins it with the socket by a HostFlow, as every other flow is
// joined. Until then the guest's bytes stay in the flow's ring, which is their bound.

import type { Millis } from '../base/clock.ts';
import { HostFlow, type HostFlowContext } from '../forwarder/host-flow.ts';
import { adoptStream } from '../host/host-stream.ts';
import { SocketStream } from '../host/stream-socket.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../stack/ports.ts';
import type { Refusal } from './refusal.ts';
import type { Route } from './upstream.ts';
import { type Connected, type ConnectOptions, UpstreamConnect } from './upstream-connect.ts';

export interface TunnelEvents {
  /** Before the first byte of the destination. @returns bytes for the guest that come before those. */
  onConnected(route: Route): Uint8Array | undefined;
  /** The flow is the callee's to end. */
  onRefused(refusal: Refusal, flow: TcpFlow): void;
  /** The guest has gone before a way was found. */
  onGone(): void;
}

export class Tunnel implements FlowOwner {
  readonly #flow: TcpFlow;
  readonly #context: HostFlowContext;
  readonly #events: TunnelEvents;
  readonly #toHost: Uint8Array | undefined;
  readonly #connect: UpstreamConnect;
  #over = false;

  /**
   * Takes an accepted flow.
   * @param toHost bytes that were taken from the guest already: sent before what lies in the ring.
   */
  constructor(
    flow: TcpFlow,
    context: HostFlowContext,
    options: ConnectOptions,
    events: TunnelEvents,
    toHost?: Uint8Array,
  ) {
    this.#flow = flow;
    this.#context = context;
    this.#events = events;
    this.#toHost = toHost;
    flow.owner = this;
    this.#connect = new UpstreamConnect(options, {
      onConnected: (connected) => this.#join(connected),
      onRefused: (why) => {
        this.#over = true;
        events.onRefused(why, flow);
      },
    });
  }

  /** Ends it while it still looks for a way. */
  destroy(): void {
    if (this.#over) return;
    this.#over = true;
    this.#connect.abort();
    this.#flow.abort(CloseReason.Killed, this.#context.clock.now());
    this.#flow.release();
    this.#events.onGone();
  }

  onEstablished(): void {}

  onReadable(): void {}

  onWritable(): void {}

  onClosed(_reason: CloseReason, _now: Millis): void {
    if (this.#over) return;
    this.#over = true;
    this.#connect.abort();
    this.#flow.release();
    this.#events.onGone();
  }

  #join({ socket, rest, route }: Connected): void {
    this.#over = true;
    const flow = this.#flow;
    const context = this.#context;
    const now = context.clock.now();
    const first = this.#events.onConnected(route);
    context.stats.dialled++;
    context.stats.bytesToGuest += rest.length;
    // A ring that is new takes far more than these; only when the packet memory is full does it not.
    for (const bytes of [first, rest]) {
      if (bytes === undefined || flow.write(bytes, 0, bytes.length, now) === bytes.length) continue;
      socket.destroy();
      flow.abort(CloseReason.HostReset, now);
      flow.release();
      return;
    }
    const hostFlow = new HostFlow(flow, context, true);
    flow.owner = hostFlow;
    const stream = 'encrypted' in socket ? new SocketStream(socket, hostFlow) : adoptStream(socket, hostFlow);
    if (this.#toHost !== undefined && this.#toHost.length > 0) {
      context.stats.bytesToHost += this.#toHost.length;
      stream.write(this.#toHost, () => {});
    }
    hostFlow.attach(stream, false);
    hostFlow.onReadable(now);
  }
}
