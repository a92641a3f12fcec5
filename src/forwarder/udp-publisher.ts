// Published UDP ports: datagrams to a host address and port reach a guest, and its answers go back to the client they are for.
// Each client has a source port of its own on the gateway's address; the guest answers to that, and udp-forwarder hands the answer
// here (`claim`). It owns listeners, clients, their idle time and their cap. RFC 4787.

import { type Clock, type Millis, NEVER } from '../base/clock.ts';
import { PortUse } from '../host/udp-handle.ts';
import type { IpAddress } from '../ip/address.ts';
import type { DatagramMeta, DatagramSender, LinkPort } from '../stack/ports.ts';
import type { DatagramClaimer } from './udp-forwarder.ts';
import { UdpSocket, type UdpSocketContext, type UdpSocketOwner } from './udp-socket.ts';

export interface UdpPublisherOptions {
  /** Clients' datagrams come from this address. */
  readonly gateway: IpAddress;
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

/** The first source port for clients; up to 65,535 (RFC 6335 6: dynamic ports). */
const FIRST_PORT = 49152;
const PORTS = 65536 - FIRST_PORT;
const BUCKETS = 2048;

class Client {
  readonly listener: PublishedUdp;
  readonly guest: IpAddress;
  readonly address: IpAddress;
  readonly port: number;
  /** Source port on the gateway. */
  readonly gatewayPort: number;
  readonly hash: number;
  /** The bucket's next. */
  chain: Client | undefined = undefined;
  lastUsed: Millis = 0;
  older: Client | undefined = undefined;
  newer: Client | undefined = undefined;

  constructor(
    listener: PublishedUdp,
    guest: IpAddress,
    address: IpAddress,
    port: number,
    gatewayPort: number,
    hash: number,
  ) {
    this.listener = listener;
    this.guest = guest;
    this.address = address;
    this.port = port;
    this.gatewayPort = gatewayPort;
    this.hash = hash;
  }
}

/** One published port. */
export class PublishedUdp implements UdpSocketOwner {
  /** The guest for a new client; undefined while there is none. */
  readonly guestOf: () => IpAddress | undefined;
  readonly guestPort: number;
  readonly socket: UdpSocket;
  /** Of all ports of a process, in the hash of its clients. */
  readonly number: number;
  readonly #publisher: UdpPublisher;

  constructor(
    publisher: UdpPublisher,
    host: IpAddress,
    guestOf: () => IpAddress | undefined,
    guestPort: number,
    number: number,
  ) {
    this.#publisher = publisher;
    this.guestOf = guestOf;
    this.guestPort = guestPort;
    this.number = number;
    this.socket = new UdpSocket(this, publisher.sockets, host.family);
  }

  /** Host port in use. */
  get hostPort(): number {
    return this.socket.port;
  }

  /** Stops listening; its clients are gone. Idempotent. */
  close(): void {
    this.#publisher.unpublish(this);
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

export class UdpPublisher implements DatagramClaimer {
  readonly stats: UdpPublisherStats = new UdpPublisherStats();
  readonly sockets: UdpSocketContext;
  /** Clients. */
  size = 0;
  readonly #gateway: IpAddress;
  readonly #sender: DatagramSender;
  readonly #clock: Clock;
  readonly #onDeadlineChanged: () => void;
  readonly #idleMs: number;
  readonly #maxClients: number;
  readonly #byPort: (Client | undefined)[] = [];
  readonly #buckets: (Client | undefined)[] = new Array<Client | undefined>(BUCKETS).fill(undefined);
  readonly #listeners = new Set<PublishedUdp>();
  #nextPort = 0;
  #nextNumber = 1;
  #oldest: Client | undefined = undefined;
  #newest: Client | undefined = undefined;

  constructor(options: UdpPublisherOptions) {
    this.#gateway = options.gateway;
    this.#sender = options.sender;
    this.#clock = options.clock;
    this.sockets = options.sockets;
    this.#onDeadlineChanged = options.onDeadlineChanged;
    this.#idleMs = options.idleMs ?? 60_000;
    this.#maxClients = Math.min(options.maxClients ?? 1024, PORTS);
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
  ): PublishedUdp | string {
    const listener = new PublishedUdp(this, host, guestOf, guestPort, this.#nextNumber++);
    if (!listener.socket.open(host.toString(), hostPort, PortUse.Alone)) return listener.socket.errno;
    this.#listeners.add(listener);
    return listener;
  }

  /** Stops one published port. Idempotent. */
  unpublish(listener: PublishedUdp): void {
    if (!this.#listeners.delete(listener)) return;
    listener.socket.close();
    for (let c = this.#oldest; c !== undefined; ) {
      const newer: Client | undefined = c.newer;
      if (c.listener === listener) this.#remove(c);
      c = newer;
    }
  }

  claim(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    const client = this.#byPort[meta.dstPort - FIRST_PORT];
    if (client === undefined) return false;
    const listener = client.listener;
    // Only the guest's published port may answer the client: another guest's datagram is a stray.
    if (meta.srcPort !== listener.guestPort || !meta.src.equals(client.guest)) return false;
    this.#touch(client, now);
    if (listener.socket.send(buf, off, len, client.address, client.port)) {
      this.stats.datagramsToHost++;
      this.stats.bytesToHost += len;
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
    // From port 0, or with a zone (link-local): no answer could go back.
    const address = port === 0 || text.includes('%') ? undefined : this.sockets.texts.addressOf(text);
    const client = address === undefined ? undefined : this.#clientOf(listener, address, port, now);
    if (client === undefined) {
      this.stats.toGuestDropped++;
      return;
    }
    this.#touch(client, now);
    const { guest } = client;
    if (this.#sender.sendDatagram(this.#gateway, client.gatewayPort, guest, listener.guestPort, buf, off, len, now)) {
      this.stats.datagramsToGuest++;
      this.stats.bytesToGuest += len;
    } else this.stats.toGuestDropped++;
  }

  /** A VM has gone: nothing of it is kept here; its clients go idle, or reach the VM that comes back with its address. */
  onVmGone(_vm: LinkPort): void {}

  nextDeadline(): Millis {
    return this.#oldest === undefined ? NEVER : this.#oldest.lastUsed + this.#idleMs;
  }

  /** Forgets the clients that were idle too long. */
  poll(now: Millis): void {
    for (let c = this.#oldest; c !== undefined && c.lastUsed + this.#idleMs <= now; c = this.#oldest) {
      this.stats.clientsIdle++;
      this.#remove(c);
    }
  }

  /** Stops every published port. */
  close(): void {
    for (const listener of [...this.#listeners]) this.unpublish(listener);
  }

  #clientOf(listener: PublishedUdp, address: IpAddress, port: number, now: Millis): Client | undefined {
    const hash = hashOf(listener.number, address, port);
    let c = this.#buckets[hash];
    while (c !== undefined && (c.port !== port || c.listener !== listener || !c.address.equals(address))) c = c.chain;
    return c ?? this.#create(hash, listener, address, port, now);
  }

  #create(hash: number, listener: PublishedUdp, address: IpAddress, port: number, now: Millis): Client | undefined {
    const guest = listener.guestOf();
    if (guest === undefined) return undefined;
    if (this.size >= this.#maxClients && this.#oldest !== undefined) {
      this.stats.clientsEvicted++;
      this.#remove(this.#oldest);
    }
    // Ports come round only after all the others, so that late answers meet nobody else.
    while (this.#byPort[this.#nextPort] !== undefined) this.#nextPort = (this.#nextPort + 1) % PORTS;
    const at = this.#nextPort;
    this.#nextPort = (at + 1) % PORTS;
    const client = new Client(listener, guest, address, port, FIRST_PORT + at, hash);
    this.#byPort[at] = client;
    client.chain = this.#buckets[hash];
    this.#buckets[hash] = client;
    this.#push(client, now);
    this.size++;
    this.stats.clientsOpened++;
    if (this.#oldest === client) this.#onDeadlineChanged();
    return client;
  }

  #touch(client: Client, now: Millis): void {
    client.lastUsed = now;
    if (this.#newest === client) return;
    this.#unlink(client);
    this.#push(client, now);
  }

  #push(client: Client, now: Millis): void {
    client.lastUsed = now;
    client.older = this.#newest;
    if (this.#newest === undefined) this.#oldest = client;
    else this.#newest.newer = client;
    this.#newest = client;
  }

  #unlink(client: Client): void {
    if (client.older === undefined) this.#oldest = client.newer;
    else client.older.newer = client.newer;
    if (client.newer === undefined) this.#newest = client.older;
    else client.newer.older = client.older;
    client.older = undefined;
    client.newer = undefined;
  }

  #remove(client: Client): void {
    this.#unlink(client);
    this.#byPort[client.gatewayPort - FIRST_PORT] = undefined;
    if (this.#buckets[client.hash] === client) this.#buckets[client.hash] = client.chain;
    else {
      let p = this.#buckets[client.hash];
      while (p !== undefined && p.chain !== client) p = p.chain;
      if (p !== undefined) p.chain = client.chain;
    }
    client.chain = undefined;
    this.size--;
  }
}

function hashOf(listener: number, address: IpAddress, port: number): number {
  let h = Math.imul(address.w3 ^ (listener << 16) ^ port, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15) ^ address.w2 ^ address.w1 ^ address.w0, 0x85ebca6b);
  return (h ^ (h >>> 13)) & (BUCKETS - 1);
}
