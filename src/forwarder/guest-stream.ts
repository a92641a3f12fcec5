// Leads clients of a forward to a guest's TCP port: each becomes a flow of the virtual network, from the address as whom the guest is to see the
// client. Which guest is asked for each client, so that "the only VM", a name or a MAC may come and go. One group is one forward's.

import type { Arrival } from '../host/stream.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';
import { CloseReason, type GuestConnector, type TcpFlow } from '../stack/ports.ts';
import type { ClientAddresses } from './client-address.ts';
import type { ClientMode, ForwardCounters, GuestTarget } from './forward-spec.ts';
import { HostFlow, type HostFlowContext } from './host-flow.ts';
import { type HostFlowGroups, killFlows } from './host-flow-groups.ts';
import { proxyHeader } from './proxy-protocol.ts';

/** The address of the guest that a forward names, now. */
export interface GuestDirectory {
  /** @param guest IPv4 address, MAC or name in canonical text; undefined: the only VM. */
  find(guest: string | undefined): IpAddress | undefined;
}

/** What all forwards to guests' TCP ports share. */
export interface GuestStreamsOptions {
  readonly connector: GuestConnector;
  readonly groups: HostFlowGroups;
  readonly clients: ClientAddresses;
  readonly guests: GuestDirectory;
  readonly stats: TcpPublisherStats;
}

export class TcpPublisherStats {
  clients = 0;
  /** Clients reset because no guest was there, nobody listened there, or a limit was hit. */
  refused = 0;
}

/** A host flow that tells whether the guest refused it. */
class ForwardFlow extends HostFlow {
  readonly #refused: () => void;
  #everEstablished = false;

  constructor(flow: TcpFlow, context: HostFlowContext, refused: () => void) {
    super(flow, context, false);
    this.#refused = refused;
  }

  override onEstablished(now: number): void {
    this.#everEstablished = true;
    super.onEstablished(now);
  }

  override onClosed(reason: CloseReason, now: number): void {
    if (!this.#everEstablished && reason !== CloseReason.Done && reason !== CloseReason.Shutdown) this.#refused();
    super.onClosed(reason, now);
  }
}

export class GuestStreams {
  readonly #options: GuestStreamsOptions;
  readonly #context: HostFlowContext;
  #connections = 0;
  #refused = 0;
  readonly #onRefused = (): void => {
    this.#refused++;
    this.#options.stats.refused++;
  };

  constructor(options: GuestStreamsOptions) {
    this.#options = options;
    this.#context = options.groups.open();
  }

  get counters(): ForwardCounters {
    const { stats, live } = this.#context;
    const { bytesToHost: bytesToClient, bytesToGuest: bytesToTarget } = stats;
    return { connections: this.#connections, active: live.size, refused: this.#refused, bytesToTarget, bytesToClient };
  }

  /** @param index is added to the target's port (ranges). */
  lead(arrival: Arrival, isPipe: boolean, target: GuestTarget, mode: ClientMode, index: number): void {
    const { connector, clients, guests, stats } = this.#options;
    const context = this.#context;
    const now = context.clock.now();
    stats.clients++;
    this.#connections++;
    const source = clients.seenAs(isPipe ? undefined : clientOf(arrival), mode);
    const srcPort = mode === 'transparent' ? arrival.remotePort : undefined;
    const guest = guests.find(target.guest);
    const flow = guest === undefined ? undefined : connector.connect(source, guest, target.port + index, now, srcPort);
    if (flow === undefined) {
      this.#onRefused();
      arrival.refuse();
      return;
    }
    const hostFlow = new ForwardFlow(flow, context, this.#onRefused);
    flow.owner = hostFlow;
    context.stats.accepted++;
    const header = proxyHeader(mode, 'tcp', arrival);
    // A new ring takes far more than this; only when the packet memory is full does it not, and then the client cannot be named.
    if (header !== undefined && flow.write(header, 0, header.length, now) < header.length) {
      this.#onRefused();
      flow.abort(CloseReason.HostReset, now);
      flow.release();
      arrival.refuse();
      return;
    }
    hostFlow.attach(arrival.adopt(hostFlow), false);
  }

  /** A client could not be accepted. */
  failed(): void {
    this.#onRefused();
  }

  /** No new clients come. */
  close(): void {
    this.#options.groups.close(this.#context);
  }

  reset(): void {
    killFlows(this.#context);
  }
}

/** Undefined for one that is gone already. */
function clientOf(arrival: Arrival): IpAddress | undefined {
  const text = arrival.remoteAddress;
  // A zone ("%eth0") says on which link of the host a link-local client is: nothing to a guest.
  return text === undefined ? undefined : parseAddress(text.replace(/%.*$/, ''));
}
