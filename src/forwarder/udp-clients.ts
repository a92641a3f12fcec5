// Clients of published UDP ports: who is behind a source address and port that a guest sees. Found both ways, by what the host's socket says
// of a client and by the guest's answer; the one that was idle longest is known. It sends nothing.

import type { Millis } from '../base/clock.ts';
import type { IpAddress } from '../ip/address.ts';
import type { PublishedUdp } from './udp-publisher.ts';

/** The first source port where the client's own cannot be had; up to 65,535 (RFC 6335 6: dynamic ports). */
const FIRST_PORT = 49152;
const PORTS = 65536 - FIRST_PORT;
const BUCKETS = 2048;

export class UdpClient {
  readonly listener: PublishedUdp;
  readonly guest: IpAddress;
  readonly guestPort: number;
  /** Where it is, on the host's side. */
  readonly address: IpAddress;
  readonly addressText: string;
  readonly port: number;
  /** As whom the guest sees it. */
  readonly source: IpAddress;
  readonly sourcePort: number;
  /** Goes in front of each of its datagrams (PROXY protocol). */
  header: Uint8Array | undefined = undefined;
  bytesToHost = 0;
  bytesToGuest = 0;
  lastUsed: Millis = 0;
  older: UdpClient | undefined = undefined;
  newer: UdpClient | undefined = undefined;
  hash = 0;
  chain: UdpClient | undefined = undefined;

  constructor(
    listener: PublishedUdp,
    guest: IpAddress,
    guestPort: number,
    address: IpAddress,
    addressText: string,
    port: number,
    source: IpAddress,
    sourcePort: number,
  ) {
    this.listener = listener;
    this.guest = guest;
    this.guestPort = guestPort;
    this.address = address;
    this.addressText = addressText;
    this.port = port;
    this.source = source;
    this.sourcePort = sourcePort;
  }
}

export class UdpClients {
  size = 0;
  oldest: UdpClient | undefined = undefined;
  #newest: UdpClient | undefined = undefined;
  /** By what the guest sees: (guest, its port, source, source port). */
  readonly #buckets: (UdpClient | undefined)[] = new Array<UdpClient | undefined>(BUCKETS).fill(undefined);
  #nextPort = 0;

  /** The client that a guest's datagram answers. */
  find(guest: IpAddress, guestPort: number, source: IpAddress, sourcePort: number): UdpClient | undefined {
    let c = this.#buckets[hashOf(guest, guestPort, source, sourcePort)];
    while (
      c !== undefined &&
      (c.sourcePort !== sourcePort || c.guestPort !== guestPort || !c.guest.equals(guest) || !c.source.equals(source))
    ) {
      c = c.chain;
    }
    return c;
  }

  /**
   * A source port that nobody else has from `source` towards that guest's port.
   * @param wanted the client's own, or 0. @returns 0 if all are taken.
   */
  freePort(guest: IpAddress, guestPort: number, source: IpAddress, wanted: number): number {
    if (wanted > 0 && this.find(guest, guestPort, source, wanted) === undefined) return wanted;
    // Ports come round only after all the others, so that late answers meet nobody else.
    for (let i = 0; i < PORTS; i++) {
      const port = FIRST_PORT + this.#nextPort;
      this.#nextPort = (this.#nextPort + 1) % PORTS;
      if (this.find(guest, guestPort, source, port) === undefined) return port;
    }
    return 0;
  }

  add(client: UdpClient, now: Millis): void {
    client.hash = hashOf(client.guest, client.guestPort, client.source, client.sourcePort);
    client.chain = this.#buckets[client.hash];
    this.#buckets[client.hash] = client;
    const { clients } = client.listener;
    let ports = clients.get(client.addressText);
    if (ports === undefined) {
      ports = new Map();
      clients.set(client.addressText, ports);
    }
    ports.set(client.port, client);
    this.#push(client, now);
    this.size++;
  }

  touch(client: UdpClient, now: Millis): void {
    client.lastUsed = now;
    if (this.#newest === client) return;
    this.#unlink(client);
    this.#push(client, now);
  }

  remove(client: UdpClient): void {
    this.#unlink(client);
    if (this.#buckets[client.hash] === client) this.#buckets[client.hash] = client.chain;
    else {
      let p = this.#buckets[client.hash];
      while (p !== undefined && p.chain !== client) p = p.chain;
      if (p !== undefined) p.chain = client.chain;
    }
    client.chain = undefined;
    const { clients } = client.listener;
    const ports = clients.get(client.addressText);
    ports?.delete(client.port);
    if (ports?.size === 0) clients.delete(client.addressText);
    this.size--;
  }

  #push(client: UdpClient, now: Millis): void {
    client.lastUsed = now;
    client.older = this.#newest;
    if (this.#newest === undefined) this.oldest = client;
    else this.#newest.newer = client;
    this.#newest = client;
  }

  #unlink(client: UdpClient): void {
    if (client.older === undefined) this.oldest = client.newer;
    else client.older.newer = client.newer;
    if (client.newer === undefined) this.#newest = client.older;
    else client.newer.older = client.older;
    client.older = undefined;
    client.newer = undefined;
  }
}

function hashOf(guest: IpAddress, guestPort: number, source: IpAddress, sourcePort: number): number {
  let h = Math.imul(guest.w3 ^ ((guestPort << 16) | sourcePort), 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15) ^ source.w3, 0x85ebca6b);
  return (h ^ (h >>> 13)) & (BUCKETS - 1);
}
