// `--guest-api`: gvproxy's forwarder API at the gateway's port 80, for guests. A guest is hostile: it publishes ports of its own only, on
// TCP and UDP, and may hold so many connections and forwards; who may ask is the allow-list's and the token's.

import type { Server } from 'node:http';
import type { Clock, Millis } from '../base/clock.ts';
import type { ForwardTable } from '../control/resources.ts';
import { FlowDuplex } from '../forwarder/flow-duplex.ts';
import type { GatewayTcpService } from '../forwarder/tcp-forwarder.ts';
import { type FlowOwner, RefuseReason, type TcpFlow } from '../stack/ports.ts';
import type { GuestApiSpec } from './api-spec.ts';
import type { Log } from './log.ts';

/** Connections of all guests, and of one VM. */
const CONNECTIONS_MAX = 64;
const CONNECTIONS_PER_VM = 16;
/** A connection is for one request, and may take so long. */
const CONNECTION_MS = 10_000;

export class GuestApi implements GatewayTcpService {
  readonly #spec: GuestApiSpec;
  readonly #clock: Clock;
  readonly #forwards: () => ForwardTable;
  readonly #log: Log;
  readonly #streams = new Set<FlowDuplex>();
  #server: Promise<Server> | undefined;

  /** @param forwards called when the first guest asks. */
  constructor(spec: GuestApiSpec, clock: Clock, forwards: () => ForwardTable, log: Log) {
    this.#spec = spec;
    this.#clock = clock;
    this.#forwards = forwards;
    this.#log = log;
  }

  onTcpFlow(flow: TcpFlow, now: Millis): FlowOwner | undefined {
    const { allow } = this.#spec;
    const allowed = allow.length === 0 || (flow.guest.isV4 && allow.some((network) => network.contains(flow.guest.v4)));
    const ofVm = [...this.#streams].filter((s) => s.vmId === flow.vm.id).length;
    if (!allowed || this.#streams.size >= CONNECTIONS_MAX || ofVm >= CONNECTIONS_PER_VM) {
      flow.refuse(RefuseReason.Refused, now);
      return undefined;
    }
    const stream = new FlowDuplex(flow, this.#clock);
    this.#streams.add(stream);
    const timer = setTimeout(() => stream.destroy(), CONNECTION_MS).unref();
    stream.on('error', () => {});
    stream.once('close', () => {
      clearTimeout(timer);
      this.#streams.delete(stream);
    });
    this.#load().then(
      (server) => {
        if (!stream.destroyed) server.emit('connection', stream);
      },
      (err: unknown) => {
        this.#log.warn({ event: 'guest-api.load.failed', err }, 'the API for guests could not be loaded');
        stream.destroy();
      },
    );
    flow.accept(now);
    return stream;
  }

  #load(): Promise<Server> {
    this.#server ??= import('../control/gvproxy-guest.ts').then(({ guestServer }) =>
      guestServer(this.#forwards(), this.#spec.token, (err) =>
        this.#log.warn({ event: 'guest-api.request.failed', err }, 'a request of a guest failed'),
      ),
    );
    return this.#server;
  }
}
