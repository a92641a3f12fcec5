// One UDP flow: all datagrams of one guest address and port, whoever they go to, over one host port. It owns the flow's two sockets;
// which flows there are, and for how long, is udp-forwarder's business. RFC 4787 (mapping and filtering endpoint-independent).
//
//   A  bound to the port, not connected: hears everybody, carries what goes to other remotes than the primary
//   B  bound to the same port (SO_REUSEADDR), connected to the primary remote: the kernel prefers it for that remote's
//      datagrams, and only a connected socket hears that the remote refused (ICMP port unreachable)
//
// B hears of every ICMP error where the system lets it, the soft ones of routers too, and is made anew after each: at most once in
// REOPEN_MS as one that hears all, else as a plain one, which hears of refusals and prohibitions only.
//
// A claims the port while nobody else holds it, and only then lets B join it. B's source address is fixed when it connects; it is
// made anew when sends fail for want of a route, and when nothing has come back for a while, so that a VPN that comes or goes
// strands no guest socket. What B gets no answers to A carries meanwhile, and it hears what arrives at other addresses.

import { type Millis, NEVER } from '../base/clock.ts';
import { PortUse } from '../host/udp-handle.ts';
import type { IpAddress } from '../ip/address.ts';
import type { LinkPort } from '../stack/ports.ts';
import { isStaleRoute } from './errno.ts';
import { type SendSlot, UdpSocket, type UdpSocketContext, type UdpSocketOwner } from './udp-socket.ts';

/** The primary remote gives its place to another one after this long without a datagram either way. */
const PRIMARY_IDLE_MS = 5000;
/** B is made anew when the guest sends and this long nothing has come back. */
const UNANSWERED_MS = 5000;
/** Before that, A carries what B gets no answers to: the kernel chooses the source of each of its datagrams anew. */
const DOUBT_MS = 1000;
/** B is made anew for want of a route, and as one that hears all, at most this often; sooner, the error goes to the guest. */
const REOPEN_MS = 1000;
/** Ports below need privileges on the host, and are not asked for. */
const FIRST_FREE_PORT = 1024;

/** What a flow tells the forwarder. Addresses are the host side's. */
export interface UdpFlowOwner {
  now(): Millis;
  onFromHost(
    flow: UdpFlow,
    from: IpAddress,
    fromPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): void;
  /** A datagram of `len` bytes to `to` was not delivered. */
  onHostError(flow: UdpFlow, errno: string, to: IpAddress, toPort: number, len: number): void;
}

export class UdpFlow implements UdpSocketOwner {
  readonly vm: LinkPort;
  readonly guest: IpAddress;
  readonly guestPort: number;
  /** Address of the host that it sends from; undefined: the host chooses for each remote. */
  readonly local: IpAddress | undefined;
  /** Host port in use; the guest's own where that was free. */
  hostPort = 0;
  /** Of a failed `open`. */
  errno = '';
  datagramsToHost = 0;
  datagramsToGuest = 0;
  bytesToHost = 0;
  bytesToGuest = 0;
  /** Times that B was made anew. */
  reopened = 0;
  lastUsed: Millis = 0;

  // The table's: the bucket's chain, and the list by last use.
  hash = 0;
  chain: UdpFlow | undefined = undefined;
  older: UdpFlow | undefined = undefined;
  newer: UdpFlow | undefined = undefined;
  /** Only DNS so far. */
  short = false;
  closed = false;

  readonly #owner: UdpFlowOwner;
  readonly #context: UdpSocketContext;
  #a: UdpSocket | undefined = undefined;
  #b: UdpSocket | undefined = undefined;
  /** B hears all, and is good for one error. */
  #hearsAll = false;
  #primary: IpAddress | undefined = undefined;
  #primaryText = '';
  #primaryPort = 0;
  #primaryUsed: Millis = 0;
  #heardAt: Millis = 0;
  #openedAt: Millis = 0;
  /** When the first of the datagrams to the primary that have had no answer was sent; NEVER if there is none. */
  #askedAt: Millis = NEVER;
  /** The longest datagram to the primary since B was made or the path was found too narrow: what such an error may be about. */
  #longest = 0;
  #resending = false;
  /** Why the datagram that is sent again was not taken. */
  #resendErrno = '';
  readonly #localText: string;

  constructor(
    owner: UdpFlowOwner,
    context: UdpSocketContext,
    vm: LinkPort,
    guest: IpAddress,
    guestPort: number,
    local?: IpAddress,
  ) {
    this.#owner = owner;
    this.#context = context;
    this.vm = vm;
    this.guest = guest;
    this.guestPort = guestPort;
    this.local = local;
    this.#localText = local?.toString() ?? (guest.family === 4 ? '0.0.0.0' : '::');
  }

  /** Gets the port and A. @returns false, with `errno` set, if the host has no socket or no port left. */
  open(): boolean {
    const wanted = this.guestPort >= FIRST_FREE_PORT ? this.guestPort : 0;
    if (wanted !== 0 && this.#openAt(wanted)) return true;
    return this.#openAt(0);
  }

  /** Relays one datagram of the guest. @param to the address to dial. @returns false if it was dropped. */
  send(to: IpAddress, toPort: number, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    if (this.#primary !== undefined && this.#primaryPort === toPort && this.#primary.equals(to)) {
      if (now - Math.max(this.#heardAt, this.#openedAt) > UNANSWERED_MS) this.#connect(now);
    } else if (this.#primary === undefined || now - this.#primaryUsed > PRIMARY_IDLE_MS) {
      this.#primary = to;
      this.#primaryText = this.#context.texts.textOf(to);
      this.#primaryPort = toPort;
      this.#connect(now);
    } else return this.#count(this.#a, to, toPort, buf, off, len);
    this.#primaryUsed = now;
    if (len > this.#longest) this.#longest = len;
    if (this.#askedAt === NEVER) this.#askedAt = now;
    if (this.#b === undefined || now - this.#askedAt > DOUBT_MS) return this.#count(this.#a, to, toPort, buf, off, len);
    return this.#count(this.#b, undefined, 0, buf, off, len);
  }

  close(): void {
    this.closed = true;
    this.#a?.close();
    this.#b?.close();
  }

  /** Datagrams not sent because too many were in flight. */
  get overflows(): number {
    return (this.#a?.overflows ?? 0) + (this.#b?.overflows ?? 0);
  }

  onMessage(socket: UdpSocket, buf: Uint8Array, off: number, len: number, address: string, port: number): void {
    if (this.closed) return;
    const now = this.#owner.now();
    let from: IpAddress | undefined;
    let fromPort = port;
    if (address === '' || (port === this.#primaryPort && address === this.#primaryText)) {
      from = this.#primary;
      fromPort = this.#primaryPort;
      this.#heardAt = now;
      this.#primaryUsed = now;
      this.#askedAt = NEVER;
      // B does not hear what comes to another address of the host than its own; then A carries until there is a better B.
      if (socket === this.#a && this.#b !== undefined) {
        if (now - this.#openedAt >= REOPEN_MS) this.#connect(now);
        else this.#askedAt = Number.NEGATIVE_INFINITY;
      }
    } else from = this.#context.texts.addressOf(address);
    // B hears the primary only, but for the moment between its bind and its connect.
    if (from === undefined || (socket !== this.#a && socket !== this.#b)) return;
    this.datagramsToGuest++;
    this.bytesToGuest += len;
    this.#owner.onFromHost(this, from, fromPort, buf, off, len, now);
  }

  onSendError(socket: UdpSocket, errno: string, send: SendSlot): void {
    if (this.closed) return;
    if (this.#resending) {
      this.#resendErrno = errno;
      return;
    }
    const { bytes } = send;
    if (send.to !== undefined) {
      this.#owner.onHostError(this, errno, send.to, send.port, bytes.length);
      return;
    }
    const primary = this.#primary;
    if (socket !== this.#b || primary === undefined) return;
    let told = errno;
    // The error of an earlier datagram, handed to this one, which was not sent: one error for both, should it fail as well.
    const renewed = this.#renew(errno);
    if (errno === 'ECONNREFUSED') this.#again(bytes);
    else if (renewed) told = this.#again(bytes);
    if (told !== '') this.#owner.onHostError(this, told, primary, this.#primaryPort, bytes.length);
  }

  onSocketError(socket: UdpSocket, errno: string): void {
    if (this.closed || socket !== this.#b || this.#primary === undefined) return;
    // An ICMP error of the path: true of what was sent, whatever a new socket may find.
    const len = this.#longest;
    this.#longest = 0;
    this.#owner.onHostError(this, errno, this.#primary, this.#primaryPort, len);
    this.#renew(errno);
  }

  #openAt(wanted: number): boolean {
    const a = new UdpSocket(this, this.#context, this.guest.family);
    if (!a.open(this.#localText, wanted, PortUse.Claim)) {
      this.errno = a.errno;
      return false;
    }
    this.#a = a;
    this.hostPort = wanted === 0 ? a.port : wanted;
    return true;
  }

  /** Makes B anew for the primary remote; without a route there is none, and A says why. */
  #connect(now: Millis, hearsAll = true): void {
    if (this.#b !== undefined) {
      this.#b.close();
      this.#b = undefined;
      this.reopened++;
    }
    this.#openedAt = now;
    this.#askedAt = NEVER;
    this.#longest = 0;
    this.#hearsAll = hearsAll;
    const b = new UdpSocket(this, this.#context, this.guest.family);
    if (!b.open(this.#localText, this.hostPort, hearsAll ? PortUse.JoinHearing : PortUse.Join)) return;
    if (this.#primary !== undefined && b.connect(this.#primary, this.#primaryPort)) this.#b = b;
    else b.close();
  }

  /** After an error of B's. @returns true if B is another for want of a route, and may do better. */
  #renew(errno: string): boolean {
    const now = this.#owner.now();
    // An answer of a kind.
    this.#askedAt = NEVER;
    if (isStaleRoute(errno) && now - this.#openedAt >= REOPEN_MS) {
      this.#connect(now);
      return true;
    }
    if (this.#hearsAll) this.#connect(now, false);
    return false;
  }

  /** Once: a datagram that fails again is lost. @returns why it failed at once, '' if it did not. */
  #again(bytes: Uint8Array): string {
    this.#resending = true;
    this.#resendErrno = '';
    if (this.#b !== undefined) this.#b.send(bytes, 0, bytes.length, undefined, 0);
    else this.#a?.send(bytes, 0, bytes.length, this.#primary, this.#primaryPort);
    this.#resending = false;
    return this.#resendErrno;
  }

  #count(
    socket: UdpSocket | undefined,
    to: IpAddress | undefined,
    toPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
  ): boolean {
    if (socket === undefined || !socket.send(buf, off, len, to, toPort)) return false;
    this.datagramsToHost++;
    this.bytesToHost += len;
    return true;
  }
}
