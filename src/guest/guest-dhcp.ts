// DHCP of the embedded guest with promises: joins the client's state machine with port 68, configures the interface by what it
// brings, and answers those who wait.

import type { Clock, Millis } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { Pollable } from '../host/wake-timer.ts';
import { formatV4 } from '../ip/address.ts';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT } from '../services/dhcp-message.ts';
import { DhcpClient, type DhcpClientOptions } from './dhcp-client.ts';
import type { DhcpLease } from './dhcp-lease.ts';
import { codedError } from './guest-link.ts';
import type { GuestStack } from './guest-stack.ts';

/** A lease as a program reads it. */
export interface GuestLease {
  readonly address: string;
  readonly prefix: number;
  readonly router: string;
  readonly server: string;
  readonly dns: readonly string[];
  readonly ntp: readonly string[];
  readonly domain: string;
  readonly search: readonly string[];
  readonly hostName: string;
  /** Option 26; undefined if the server said nothing. */
  readonly mtu: number | undefined;
  readonly leaseSeconds: number;
}

export interface GuestDhcpOptions {
  readonly client: DhcpClientOptions;
  /** Option 26 sets the interface's MTU. */
  readonly takeMtu: boolean;
}

interface Waiter {
  resolve(lease: GuestLease): void;
  reject(error: Error): void;
}

export class GuestDhcp implements Pollable {
  /** Undefined without one. */
  lease: GuestLease | undefined = undefined;
  readonly #stack: GuestStack;
  readonly #clock: Clock;
  readonly #takeMtu: boolean;
  readonly #client: DhcpClient;
  readonly #onDeadlineChanged: () => void;
  #waiters: Waiter[] = [];

  constructor(
    options: GuestDhcpOptions,
    stack: GuestStack,
    clock: Clock,
    random: Random,
    onDeadlineChanged: () => void,
  ) {
    this.#stack = stack;
    this.#clock = clock;
    this.#takeMtu = options.takeMtu;
    this.#onDeadlineChanged = onDeadlineChanged;
    this.#client = new DhcpClient(
      options.client,
      (dst, buf, off, len, now) => {
        stack.udp.send(DHCP_CLIENT_PORT, dst, DHCP_SERVER_PORT, buf, off, len, now);
      },
      {
        onBound: (lease) => this.#bound(lease),
        onLost: () => this.#lost(),
        onRefused: (message) => this.#refused(message),
      },
      random,
    );
    stack.udp.bind(DHCP_CLIENT_PORT, {
      onDatagram: (_src, _port, buf, off, len, now) => {
        this.#client.input(buf, off, len, now);
        this.#onDeadlineChanged();
      },
      onUnreachable: () => {},
    });
  }

  /** DISCOVER, REQUEST. @throws ETIMEDOUT, ENETDOWN */
  acquire(timeoutMs: number): Promise<GuestLease> {
    return this.#ask((now) => this.#client.start(now), timeoutMs);
  }

  /** INIT-REBOOT with an address it had before, int32. @throws EADDRNOTAVAIL if the server says no. */
  reboot(address: number, timeoutMs: number): Promise<GuestLease> {
    return this.#ask((now) => this.#client.reboot(address, now), timeoutMs);
  }

  /** Renews (unicast) or rebinds (broadcast). @throws EADDRNOTAVAIL without a lease, or if the server says no. */
  renew(how: 'renew' | 'rebind', timeoutMs: number): Promise<GuestLease> {
    return this.#askWithLease((now) => this.#client[how](now), timeoutMs);
  }

  /** Says that somebody else uses the address, and asks for another. */
  decline(timeoutMs: number): Promise<GuestLease> {
    return this.#askWithLease((now) => this.#client.decline(now), timeoutMs);
  }

  /**
   * Gives the lease back; the interface has no address after it. The message is a unicast (RFC 2131 table 4), so it waits for ARP:
   * without it the address would be gone before the message could leave.
   */
  release(): Promise<void> {
    const server = this.#client.lease?.server;
    if (server === undefined) return Promise.resolve();
    return new Promise((resolve) => {
      this.#stack.whenResolved(server, this.#clock.now(), () => {
        const now = this.#clock.now();
        this.#client.release(now);
        this.#lost();
        resolve();
      });
    });
  }

  /** The link is gone. */
  close(reason: string): void {
    this.#client.stop();
    this.#settle(codedError('ENETDOWN', `the link is gone: ${reason}`));
  }

  nextDeadline(): Millis {
    return this.#client.nextDeadline();
  }

  poll(now: Millis): void {
    this.#client.poll(now);
  }

  #askWithLease(ask: (now: Millis) => void, timeoutMs: number): Promise<GuestLease> {
    if (this.lease === undefined) return Promise.reject(codedError('EADDRNOTAVAIL', 'there is no lease'));
    return this.#ask(ask, timeoutMs);
  }

  #ask(ask: (now: Millis) => void, timeoutMs: number): Promise<GuestLease> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => waiter.reject(codedError('ETIMEDOUT', 'no DHCP server answered')), timeoutMs);
      const done = (): void => {
        clearTimeout(timer);
        this.#waiters = this.#waiters.filter((w) => w !== waiter);
      };
      const waiter: Waiter = {
        resolve: (lease) => {
          done();
          resolve(lease);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      };
      this.#waiters.push(waiter);
      ask(this.#clock.now());
      this.#onDeadlineChanged();
    });
  }

  #settle(error: Error): void {
    for (const waiter of this.#waiters) waiter.reject(error);
  }

  /** Who asked wants to hear of a refusal, not get another address in silence; in the background the client starts anew. */
  #refused(message: string): void {
    if (this.#waiters.length === 0) return;
    this.#client.stop();
    this.#settle(codedError('EADDRNOTAVAIL', `DHCP refused: ${message}`));
  }

  #lost(): void {
    this.lease = undefined;
    this.#stack.deconfigure();
  }

  #bound(lease: DhcpLease): void {
    const readable: GuestLease = {
      address: formatV4(lease.address),
      prefix: lease.prefix,
      router: formatV4(lease.router),
      server: formatV4(lease.server),
      dns: lease.dns.map(formatV4),
      ntp: lease.ntp.map(formatV4),
      domain: lease.domain,
      search: lease.search,
      hostName: lease.hostName,
      mtu: lease.mtu,
      leaseSeconds: lease.leaseMs / 1000,
    };
    this.lease = readable;
    this.#stack.configure(lease);
    if (this.#takeMtu && lease.mtu !== undefined) this.#stack.egress.mtu = lease.mtu;
    for (const waiter of this.#waiters) waiter.resolve(readable);
  }
}
