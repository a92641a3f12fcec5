// One host UDP socket with what dgram lacks: everything up to the system call happens at once (no name lookup, no deferred
// bind), failures are values or events and never thrown, sends in flight are bounded and known to the error that they get.

import { type BindOptions, createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import type { IpAddress } from '../ip/address.ts';
import { errnoOf } from './errno.ts';
import type { SendArena } from './send-arena.ts';

/** What a socket tells its owner. Nothing is called after `close`. */
export interface UdpSocketOwner {
  onMessage(socket: UdpSocket, msg: Uint8Array, from: RemoteInfo): void;
  /** A send failed; the datagram's bytes are valid until the call returns. */
  onSendError(socket: UdpSocket, errno: string, send: SendSlot): void;
  /** The socket got an error that belongs to no send: an ICMP error from the remote of a connected socket. */
  onSocketError(socket: UdpSocket, errno: string): void;
}

/** A send in flight. Reused. */
export interface SendSlot {
  buf: Uint8Array;
  off: number;
  len: number;
  /** Undefined on a connected socket. */
  to: IpAddress | undefined;
  port: number;
}

/** Sends in flight on one socket, a power of two: what one read of the link may bring. Callbacks come only after the turn. */
const MAX_IN_FLIGHT = 4096;
const NOTHING = new Uint8Array(0);

// The addresses given are literals; this keeps dgram from queueing on a DNS thread, and makes bind, connect and send synchronous.
function literal(
  address: string,
  _options: unknown,
  callback: (e: null, address: string, family: number) => void,
): void {
  callback(null, address, address.includes(':') ? 6 : 4);
}

export class UdpSocket {
  /** Datagrams not sent because too many were in flight. */
  overflows = 0;
  /** errno of the last failed `open` or `connect`. */
  errno = '';
  readonly #owner: UdpSocketOwner;
  readonly #arena: SendArena;
  readonly #socket: Socket;
  readonly #slots: SendSlot[] = [];
  #head = 0;
  #count = 0;
  #open = false;
  #closed = false;
  /** IPv4 remotes are named as IPv6 ones. */
  readonly #mapped: boolean;
  #textOf: IpAddress | undefined = undefined;
  #text = '';
  readonly #onSent = (error: Error | null): void => this.#sent(error);

  /** @param v6Only false: an IPv6 socket that speaks IPv4 too. */
  constructor(owner: UdpSocketOwner, arena: SendArena, family: 4 | 6, reuseAddr: boolean, v6Only = true) {
    this.#mapped = family === 6 && !v6Only;
    this.#owner = owner;
    this.#arena = arena;
    this.#socket = createSocket({
      type: family === 4 ? 'udp4' : 'udp6',
      reuseAddr,
      ipv6Only: family === 6 && v6Only,
      lookup: literal as never,
    });
    this.#socket.on('error', (error) => {
      this.errno = errnoOf(error);
      if (this.#open && !this.#closed) this.#owner.onSocketError(this, this.errno);
    });
    this.#socket.on('message', (msg, from) => {
      if (!this.#closed) this.#owner.onMessage(this, msg, from);
    });
  }

  /** Binds now. @returns false, with `errno` set, if that failed; the socket is closed then. */
  open(address: string, port: number): boolean {
    return this.#bind({ address, port, exclusive: true });
  }

  /** Takes an inherited socket that is bound. @returns false, with `errno` set, if it is none; it stays open then. */
  openFd(fd: number): boolean {
    return this.#bind({ fd });
  }

  #bind(options: BindOptions): boolean {
    let listening = false;
    this.#socket.once('listening', () => {
      listening = true;
    });
    try {
      this.#socket.bind(options);
    } catch (error) {
      this.errno = errnoOf(error);
    }
    if (!listening) {
      this.close();
      return false;
    }
    this.#open = true;
    return true;
  }

  /** Fixes the remote. @returns false, with `errno` set, if there is no route. */
  connect(to: IpAddress, port: number): boolean {
    this.errno = '';
    try {
      // The error event comes in the next tick; whether it worked can be read at once.
      this.#socket.connect(port, to.toString());
      this.#socket.remoteAddress();
      return true;
    } catch (error) {
      this.errno = errnoOf(error);
      return false;
    }
  }

  /** Local port; 0 when closed. */
  get port(): number {
    return this.#open && !this.#closed ? this.#socket.address().port : 0;
  }

  get address(): string {
    return this.#socket.address().address;
  }

  /**
   * Sends a copy of a datagram.
   * @param to undefined on a connected socket.
   * @returns false if it was not even tried: closed, or too much in flight (counted).
   */
  send(buf: Uint8Array, off: number, len: number, to: IpAddress | undefined, port: number): boolean {
    if (!this.#open || this.#closed) return false;
    if (this.#count === MAX_IN_FLIGHT || !this.#arena.place(buf, off, len)) {
      this.overflows++;
      return false;
    }
    const at = (this.#head + this.#count) & (MAX_IN_FLIGHT - 1);
    let slot = this.#slots[at];
    if (slot === undefined) {
      slot = { buf: NOTHING, off: 0, len: 0, to: undefined, port: 0 };
      this.#slots[at] = slot;
    }
    slot.buf = this.#arena.buf;
    slot.off = this.#arena.off;
    slot.len = len;
    slot.to = to;
    slot.port = port;
    this.#count++;
    try {
      if (to === undefined) this.#socket.send(slot.buf, slot.off, len, this.#onSent);
      else this.#socket.send(slot.buf, slot.off, len, port, this.#textFor(to), this.#onSent);
    } catch (error) {
      // Not queued: no callback will come.
      this.#count--;
      this.#arena.done(len);
      this.errno = errnoOf(error);
      return false;
    }
    return true;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#socket.close();
    } catch {
      // ERR_SOCKET_DGRAM_NOT_RUNNING: it was never open.
    }
  }

  /** Callbacks come in the order of the sends: libuv sends in order, and dgram defers those done at once by a tick. */
  #sent(error: Error | null): void {
    const slot = this.#slots[this.#head]!;
    // The slot is given up only afterwards: the owner may send its bytes again.
    if (error !== null && !this.#closed) this.#owner.onSendError(this, errnoOf(error), slot);
    this.#head = (this.#head + 1) & (MAX_IN_FLIGHT - 1);
    this.#count--;
    // Back to the first slots, so that a socket has as many as its largest burst needed.
    if (this.#count === 0) this.#head = 0;
    slot.buf = NOTHING;
    this.#arena.done(slot.len);
  }

  #textFor(to: IpAddress): string {
    if (this.#textOf === undefined || !this.#textOf.equals(to)) {
      this.#textOf = to;
      this.#text = this.#mapped && to.isV4 ? `::ffff:${to}` : to.toString();
    }
    return this.#text;
  }
}
