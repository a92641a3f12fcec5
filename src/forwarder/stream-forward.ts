// One open forward of streams: its listeners on the host, and each client led to the guest's TCP port. Which guest is asked for each client, so
// that "the only VM", a name or a MAC may come and go. Counts its own clients and bytes.

import type net from 'node:net';
import { adoptSocket } from '../host/adopt-socket.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';
import { CloseReason, type GuestConnector, type TcpFlow } from '../stack/ports.ts';
import type { ClientAddresses } from './client-address.ts';
import type { OpenForward } from './forward-opener.ts';
import type { CheckedForward, ForwardCounters, GuestTarget } from './forward-spec.ts';
import { HostFlow, type HostFlowContext } from './host-flow.ts';
import type { HostFlowGroups } from './host-flow-groups.ts';
import type { HostListener, ListenerOwner } from './host-listener.ts';
import { proxyHeader } from './proxy-protocol.ts';

/** The address of the guest that a forward names, now. */
export interface GuestDirectory {
  /** @param guest IPv4 address, MAC or name in canonical text; undefined: the only VM. */
  find(guest: string | undefined): IpAddress | undefined;
}

/** What all forwards to guests' TCP ports share. */
export interface GuestStreams {
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

/** Its counts are added to the shared ones as they happen. */
class OwnCounts {
  connections = 0;
  refused = 0;
}

/** A host flow that remembers whether the guest refused it. */
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

export class StreamForward implements OpenForward {
  readonly #streams: GuestStreams;
  readonly #context: HostFlowContext;
  readonly #own = new OwnCounts();
  readonly #listeners: HostListener[] = [];
  #target: GuestTarget;
  #mode: CheckedForward['client'];
  #bound: readonly string[] = [];
  readonly #onRefused = (): void => {
    this.#own.refused++;
    this.#streams.stats.refused++;
  };

  constructor(streams: GuestStreams, spec: CheckedForward) {
    this.#streams = streams;
    this.#context = streams.groups.open();
    this.#target = spec.target as GuestTarget;
    this.#mode = spec.client;
  }

  /**
   * Opens its listeners, one after the other; all or none.
   * @param count how many. @param listen opens the one of this number, from 0 up.
   * @throws what `listen` throws
   */
  async open(count: number, listen: (index: number, owner: ListenerOwner) => Promise<HostListener>): Promise<this> {
    try {
      for (let i = 0; i < count; i++) {
        const owner = {
          onClient: (socket: net.Socket, isPipe: boolean) => this.#onClient(socket, isPipe, i),
          onAcceptFailed: this.#onRefused,
        };
        this.#listeners.push(await listen(i, owner));
      }
    } catch (error) {
      this.close();
      throw error;
    }
    this.#bound = this.#listeners.map((l) => l.bound);
    return this;
  }

  get bound(): readonly string[] {
    return this.#bound;
  }

  get counters(): ForwardCounters {
    const { stats, live } = this.#context;
    const { connections, refused } = this.#own;
    const { bytesToHost: bytesToClient, bytesToGuest: bytesToTarget } = stats;
    return { connections, active: live.size, refused, bytesToTarget, bytesToClient };
  }

  retarget(spec: CheckedForward): void {
    this.#target = spec.target as GuestTarget;
    this.#mode = spec.client;
  }

  close(): void {
    for (const listener of this.#listeners.splice(0)) listener.close();
    this.#streams.groups.close(this.#context);
  }

  reset(): void {
    for (const flow of [...this.#context.live]) flow.destroy();
  }

  #onClient(accepted: net.Socket, isPipe: boolean, index: number): void {
    const { connector, clients, guests, stats } = this.#streams;
    const context = this.#context;
    const target = this.#target;
    stats.clients++;
    this.#own.connections++;
    const client = isPipe ? undefined : clientOf(accepted);
    const guest = guests.find(target.guest);
    const now = context.clock.now();
    const flow =
      guest === undefined
        ? undefined
        : connector.connect(
            clients.seenAs(client, this.#mode),
            guest,
            target.port + index,
            now,
            this.#mode === 'transparent' ? accepted.remotePort : undefined,
          );
    if (flow === undefined) {
      this.#onRefused();
      turnAway(accepted, isPipe);
      return;
    }
    const hostFlow = new ForwardFlow(flow, context, this.#onRefused);
    hostFlow.isPipe = isPipe;
    flow.owner = hostFlow;
    context.stats.accepted++;
    const header = proxyHeader(this.#mode, 'tcp', accepted);
    if (header !== undefined) flow.write(header, 0, header.length, now);
    hostFlow.attach(adoptSocket(accepted, { onread: hostFlow.onread, allowHalfOpen: true }), false);
  }
}

/** Undefined for a unix socket. */
function clientOf(socket: net.Socket): IpAddress | undefined {
  const text = socket.remoteAddress;
  // A zone ("%eth0") says on which link of the host a link-local client is: nothing to a guest.
  return text === undefined ? undefined : parseAddress(text.replace(/%.*$/, ''));
}

/** A client that gets nobody hears it at once. */
export function turnAway(socket: net.Socket, isPipe: boolean): void {
  socket.on('error', () => {});
  if (isPipe) socket.destroy();
  else socket.resetAndDestroy();
}
