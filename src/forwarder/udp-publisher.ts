// Published UDP ports: datagrams to a host address and port reach a guest, and its answers go back to the client they are for.
// The guest sees each client under a source of its own, the client's very address and port where that can be; it answers to that, and
// udp-forwarder hands the answer here (`claim`). It owns listeners, idle times and the cap; who is who is udp-clients'. RFC 4787.

import { type Clock, type Millis, NEVER } from '../base/clock.ts';
import { PortUse } from '../host/udp-handle.ts';
import type { IpAddress } from '../ip/address.ts';
import type { DatagramMeta, DatagramSender, LinkPort } from '../stack/ports.ts';
import type { ClientAddresses } from './client-address.ts';
import type { ClientMode } from './forward-spec.ts';
import { proxyHeader } from './proxy-protocol.ts';
import { UdpClient, UdpClients } from './udp-clients.ts';
import type { DatagramClaimer } from './udp-forwarder.ts';
import { UdpSocket, type UdpSocketContext, type UdpSocketOwner } from './udp-socket.ts';

export interface UdpPublisherOptions {
  readonly clients: ClientAddresses;
  readonly sender: DatagramSender;
  readonly clock: Clock;
  /** The forwarder's too. */
  readonly sockets: UdpSocketContext;
  readonly onDeadlineChanged: () => void;
  /** Default 60,000 ms. */
  readonly idleMs?: number;
  /** Clients of all ports; default 1,024. */
  readonly maxClients?: number;
}

/** How a port is published, beyond where and to whom. */
export interface UdpPublishOptions {
  /** `transparent` if not given. */
  readonly mode?: ClientMode;
  /** False: an IPv6 socket takes IPv4 clients too. */
  readonly v6Only?: boolean;
  /** An inherited socket, bound already; address and port are its own. */
  readonly fd?: number | undefined;
}

export class UdpPublisherStats {
  clientsOpened = 0;
  clientsIdle = 0;
  /** Pushed out because there were too many. */
  clientsEvicted = 0;
  datagramsToGuest = 0;
  bytesToGuest = 0;
  datagramsToHost = 0;
  bytesToHost = 0;
  /** Refused by the stack: the guest is not there, or its link does not drain. */
  toGuestDropped = 0;
  toHostDropped = 0;
  hostErrors = 0;
}

/** One published port. */
export class PublishedUdp implements UdpSocketOwner {
  /** The guest for a new client; undefined while there is none. */
  guestOf: () => IpAddress | undefined;
  guestPort: number;
  mode: ClientMode;
  readonly socket: UdpSocket;
  /** Clients by address text, then port. */
  readonly clients: Map<string, Map<number, UdpClient>> = new Map();
  clientsOpened = 0;
  /** Datagrams of clients that could not be led to a guest. */
  refused = 0;
  bytesToGuest = 0;
  bytesToHost = 0;
  readonly #publisher: UdpPublisher;

  constructor(
    publisher: UdpPublisher,
    family: 4 | 6,
    guestOf: () => IpAddress | undefined,
    guestPort: number,
    options: UdpPublishOptions,
  ) {
    this.#publisher = publisher;
    this.guestOf = guestOf;
    this.guestPort = guestPort;
    this.mode = options.mode ?? 'transparent';
    this.socket = new UdpSocket(this, publisher.sockets, family, options.v6Only ?? true);
  }

  /** Host port in use. */
  get hostPort(): number {
    return this.socket.port;
  }

  /** Clients now. */
  get size(): number {
    let n = 0;
    for (const ports of this.clients.values()) n += ports.size;
    return n;
  }

  /** Stops listening; its clients are gone. Idempotent. */
  close(): void {
    this.#publisher.unpublish(this);
  }

  /** Its clients are gone, and new ones come to nobody; the socket stays open. */
  park(): void {
    this.#publisher.forgetClients(this);
    this.guestOf = () => undefined;
  }

  /** Leads clients on, for another forward, and counts anew. */
  restart(guestOf: () => IpAddress | undefined, guestPort: number, mode: ClientMode): void {
    Object.assign(this, { guestOf, guestPort, mode, clientsOpened: 0, refused: 0, bytesToGuest: 0, bytesToHost: 0 });
  }

  onMessage(_socket: UdpSocket, buf: Uint8Array, off: number, len: number, address: string, port: number): void {
    this.#publisher.onClientDatagram(this, buf, off, len, address, port);
  }

  onSendError(): void {
    this.#publisher.stats.hostErrors++;
  }

  onSocketError(): void {
    this.#publisher.stats.hostErrors++;
  }
}

/** Longest header of the PROXY protocol (v2 with IPv6) before the longest datagram. */
const PROXIED_MAX = 52 + 65_507;

export class UdpPublisher implements DatagramClaimer {
  readonly stats: UdpPublisherStats = new UdpPublisherStats();
  readonly sockets: UdpSocketContext;
  readonly #seenAs: ClientAddresses;
  readonly #sender: DatagramSender;
  readonly #clock: Clock;
  readonly #onDeadlineChanged: () => void;
  readonly #idleMs: number;
  readonly #maxClients: number;
  readonly #clients = new UdpClients();
  readonly #listeners = new Set<PublishedUdp>();
  /** A datagram behind its header; made when first needed. */
  #proxied: Uint8Array | undefined;

  constructor(options: UdpPublisherOptions) {
    this.#seenAs = options.clients;
    this.#sender = options.sender;
    this.#clock = options.clock;
    this.sockets = options.sockets;
    this.#onDeadlineChanged = options.onDeadlineChanged;
    this.#idleMs = options.idleMs ?? 60_000;
    this.#maxClients = options.maxClients ?? 1024;
  }

  /** Clients. */
  get size(): number {
    return this.#clients.size;
  }

  /**
   * Listens on the host.
   * @param hostPort 0 for any.
   * @param guestOf asked for each new client, so that "the only VM" may come and go.
   * @returns the published port, or the errno name why the host refused (EADDRINUSE, EADDRNOTAVAIL, EACCES).
   */
  publish(
    host: IpAddress,
    hostPort: number,
    guestOf: () => IpAddress | undefined,
    guestPort: number,
    options: UdpPublishOptions = {},
  ): PublishedUdp | string {
    const listener = new PublishedUdp(this, host.family, guestOf, guestPort, options);
    const { socket } = listener;
    if (!(options.fd === undefined ? socket.open(host.toString(), hostPort, PortUse.Alone) : socket.openFd(options.fd)))
      return socket.errno;
    this.#listeners.add(listener);
    return listener;
  }

  /** Stops one published port. Idempotent. */
  unpublish(listener: PublishedUdp): void {
    if (!this.#listeners.delete(listener)) return;
    listener.socket.close();
    this.forgetClients(listener);
  }

  /** All clients of one port. */
  forgetClients(listener: PublishedUdp): void {
    for (const ports of [...listener.clients.values()]) for (const c of [...ports.values()]) this.#clients.remove(c);
  }

  /** The clients, for status. */
  *list(): IterableIterator<UdpClient> {
    for (let c = this.#clients.oldest; c !== undefined; c = c.newer) yield c;
  }

  /** Forgets a client; its next datagram makes a new one. */
  end(client: UdpClient): void {
    this.#clients.remove(client);
  }

  claim(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    if (this.#clients.size === 0) return false;
    // Only the guest's published port may answer the client: another guest's datagram is a stray.
    const client = this.#clients.find(meta.src, meta.srcPort, meta.dst, meta.dstPort);
    if (client === undefined) return false;
    const { listener } = client;
    this.#clients.touch(client, now);
    if (listener.socket.send(buf, off, len, client.address, client.port)) {
      this.stats.datagramsToHost++;
      this.stats.bytesToHost += len;
      listener.bytesToHost += len;
      client.bytesToHost += len;
    } else this.stats.toHostDropped++;
    return true;
  }

  /** A datagram of a client of a published port. */
  onClientDatagram(
    listener: PublishedUdp,
    buf: Uint8Array,
    off: number,
    len: number,
    text: string,
    port: number,
  ): void {
    const now = this.#clock.now();
    const client = listener.clients.get(text)?.get(port) ?? this.#create(listener, text, port, now);
    if (client === undefined) {
      this.stats.toGuestDropped++;
      listener.refused++;
      return;
    }
    this.#clients.touch(client, now);
    const { guest, guestPort, source, sourcePort, header } = client;
    let body = buf;
    let at = off;
    let size = len;
    if (header !== undefined) {
      // Copy: header and datagram are to lie in one piece.
      this.#proxied ??= new Uint8Array(PROXIED_MAX);
      this.#proxied.set(header);
      this.#proxied.set(buf.subarray(off, off + len), header.length);
      body = this.#proxied;
      at = 0;
      size += header.length;
    }
    if (this.#sender.sendDatagram(source, sourcePort, guest, guestPort, body, at, size, now)) {
      this.stats.datagramsToGuest++;
      this.stats.bytesToGuest += len;
      listener.bytesToGuest += len;
      client.bytesToGuest += len;
    } else {
      this.stats.toGuestDropped++;
      listener.refused++;
    }
  }

  /** A VM has gone: nothing of it is kept here; its clients go idle, or reach the VM that comes back with its address. */
  onVmGone(_vm: LinkPort): void {}

  nextDeadline(): Millis {
    const { oldest } = this.#clients;
    return oldest === undefined ? NEVER : oldest.lastUsed + this.#idleMs;
  }

  /** Forgets the clients that were idle too long. */
  poll(now: Millis): void {
    const clients = this.#clients;
    for (let c = clients.oldest; c !== undefined && c.lastUsed + this.#idleMs <= now; c = clients.oldest) {
      this.stats.clientsIdle++;
      clients.remove(c);
    }
  }

  /** Stops every published port. */
  close(): void {
    for (const listener of [...this.#listeners]) this.unpublish(listener);
  }

  #create(listener: PublishedUdp, text: string, port: number, now: Millis): UdpClient | undefined {
    // From port 0, or with a zone (link-local): no answer could go back.
    const address = port === 0 || text.includes('%') ? undefined : this.sockets.texts.addressOf(text);
    if (address === undefined) return undefined;
    const guest = listener.guestOf();
    if (guest === undefined) return undefined;
    const clients = this.#clients;
    if (clients.size >= this.#maxClients && clients.oldest !== undefined) {
      this.stats.clientsEvicted++;
      clients.remove(clients.oldest);
    }
    const { mode, guestPort } = listener;
    const source = this.#seenAs.seenAs(address, mode);
    const sourcePort = clients.freePort(guest, guestPort, source, mode === 'transparent' ? port : 0);
    if (sourcePort === 0) return undefined;
    const client = new UdpClient(listener, guest, guestPort, address, text, port, source, sourcePort);
    client.header = proxyHeader(mode, 'udp', {
      remoteAddress: text,
      remotePort: port,
      localAddress: listener.socket.address,
      localPort: listener.hostPort,
    });
    clients.add(client, now);
    listener.clientsOpened++;
    this.stats.clientsOpened++;
    if (clients.oldest === client) this.#onDeadlineChanged();
    return client;
  }
}
