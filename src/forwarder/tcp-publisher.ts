// Published TCP ports: listens on the host and carries each client to a port of a guest. Which guest is asked for each client, so
// that "the only VM" may come and go. Clients appear to the guest as the gateway.

import net from 'node:net';
import { ACCEPT_OPTIONS, acceptStreams } from '../host/host-stream.ts';
import type { Arrival } from '../host/stream.ts';
import type { IpAddress } from '../ip/address.ts';
import type { GuestConnector } from '../stack/ports.ts';
import { HostFlow, type HostFlowContext } from './host-flow.ts';

export interface TcpPublisherOptions {
  readonly connector: GuestConnector;
  readonly context: HostFlowContext;
  /** Clients' connections come from this address. */
  readonly source: IpAddress;
}

export class TcpPublisherStats {
  clients = 0;
  /** Clients reset because no guest was there, or a limit was hit. */
  refused = 0;
}

/** One published port. */
export interface PublishedTcp {
  readonly address: string;
  /** The port that was really bound. */
  readonly port: number;
  /** Stops listening; connections go on. */
  close(): void;
}

export class TcpPublisher {
  readonly stats: TcpPublisherStats = new TcpPublisherStats();
  readonly #options: TcpPublisherOptions;
  readonly #servers = new Set<net.Server>();

  constructor(options: TcpPublisherOptions) {
    this.#options = options;
  }

  /**
   * Listens on `host`:`port` (0: any).
   * @param guestOf the guest's address now, undefined while there is none.
   * @throws the socket's own error (EADDRINUSE, EACCES, EADDRNOTAVAIL, ...).
   */
  async publish(
    host: IpAddress,
    port: number,
    guestOf: () => IpAddress | undefined,
    guestPort: number,
  ): Promise<PublishedTcp> {
    const server = net.createServer(ACCEPT_OPTIONS);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: host.toString(), port, ipv6Only: !host.isV4, backlog: 1024 }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    acceptStreams(server, (arrival) => this.#onClient(arrival, guestOf, guestPort));
    // Accepting may fail later (out of descriptors): the listener lives on, the client is refused by the kernel or waits.
    server.on('error', () => {
      this.stats.refused++;
    });
    server.on('drop', () => {
      this.stats.refused++;
    });
    this.#servers.add(server);
    const bound = server.address() as net.AddressInfo;
    return {
      address: host.toString(),
      port: bound.port,
      close: () => {
        this.#servers.delete(server);
        server.close();
      },
    };
  }

  #onClient(arrival: Arrival, guestOf: () => IpAddress | undefined, guestPort: number): void {
    const { connector, context, source } = this.#options;
    this.stats.clients++;
    const guest = guestOf();
    const flow = guest === undefined ? undefined : connector.connect(source, guest, guestPort, context.clock.now());
    if (flow === undefined) {
      this.stats.refused++;
      arrival.refuse();
      return;
    }
    const hostFlow = new HostFlow(flow, context, false);
    flow.owner = hostFlow;
    context.stats.accepted++;
    hostFlow.attach(arrival.adopt(hostFlow), false);
  }

  close(): void {
    for (const server of this.#servers) server.close();
    this.#servers.clear();
  }
}
