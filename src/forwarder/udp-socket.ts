// One host UDP socket of a flow or a published port: sends copies of guests' datagrams, bounds those that the kernel has not taken yet,
// and hands each failure to its owner together with the datagram that it befell. The system calls are host/udp-handle's.

import {
  errnoName,
  PENDING,
  type PortUse,
  SENT,
  type UdpHandle,
  type UdpHandleOwner,
  type UdpHandles,
} from '../host/udp-handle.ts';
import type { IpAddress } from '../ip/address.ts';
import type { AddressTexts } from './address-texts.ts';
import type { SendArena } from './send-arena.ts';

/** What a socket tells its owner. Nothing is called after `close`. */
export interface UdpSocketOwner {
  /** One datagram, valid until the call returns. @param address '' with port 0: the connected remote's. */
  onMessage(socket: UdpSocket, buf: Uint8Array, off: number, len: number, address: string, port: number): void;
  /** A send failed, maybe from inside the call; the datagram's bytes are valid until this returns. */
  onSendError(socket: UdpSocket, errno: string, send: SendSlot): void;
  /** The socket got an error that belongs to no send: an ICMP error from the remote of a connected socket. */
  onSocketError(socket: UdpSocket, errno: string): void;
}

/** A send that is not done, or has failed. Reused. */
export interface SendSlot {
  bytes: Uint8Array;
  /** Undefined on a connected socket. */
  to: IpAddress | undefined;
  port: number;
}

/** What the sockets of a process share. */
export interface UdpSocketContext {
  readonly handles: UdpHandles;
  readonly arena: SendArena;
  readonly texts: AddressTexts;
}

/** Sends in flight on one socket, a power of two: what one read of the link may bring. */
const MAX_IN_FLIGHT = 4096;
const NOTHING = new Uint8Array(0);

export class UdpSocket implements UdpHandleOwner {
  /** Datagrams not sent because too many were in flight. */
  overflows = 0;
  /** errno of the last failed `open` or `connect`. */
  errno = '';
  readonly #owner: UdpSocketOwner;
  readonly #arena: SendArena;
  readonly #texts: AddressTexts;
  readonly #handles: UdpHandles;
  #handle: UdpHandle;
  /** IPv4 remotes are named as IPv6 ones. */
  readonly #mapped: boolean;
  #mappedOf: IpAddress | undefined = undefined;
  #mappedText = '';
  readonly #slots: SendSlot[] = [];
  #head = 0;
  #count = 0;
  #open = false;
  #closed = false;

  /** @param v6Only false: an IPv6 socket that speaks IPv4 too. */
  constructor(owner: UdpSocketOwner, context: UdpSocketContext, family: 4 | 6, v6Only = true) {
    this.#owner = owner;
    this.#arena = context.arena;
    this.#texts = context.texts;
    this.#mapped = family === 6 && !v6Only;
    this.#handles = context.handles;
    this.#handle = context.handles.create(this, family, v6Only);
  }

  /** Binds now. @returns false, with `errno` set, if that failed; the socket is closed then. */
  open(address: string, port: number, use: PortUse): boolean {
    this.errno = this.#handle.bind(address, port, use);
    this.#open = this.errno === '';
    if (!this.#open) this.close();
    return this.#open;
  }

  /** Takes an inherited socket that is bound. @returns false, with `errno` set, if it is none; it stays open then. */
  openFd(fd: number): boolean {
    this.#handle.close();
    const handle = this.#handles.inherit(this, fd);
    this.#open = typeof handle !== 'string';
    if (typeof handle === 'string') {
      this.errno = handle;
      this.close();
    } else {
      this.errno = '';
      this.#handle = handle;
    }
    return this.#open;
  }

  /** Fixes the remote. @returns false, with `errno` set, if there is no route. */
  connect(to: IpAddress, port: number): boolean {
    this.errno = this.#handle.connect(this.#textOf(to), port);
    return this.errno === '';
  }

  /** Local address; '' when closed. */
  get address(): string {
    return this.#handle.address;
  }

  /** Local port; 0 when closed. */
  get port(): number {
    return this.#handle.port;
  }

  /**
   * Sends a copy of a datagram.
   * @param to undefined on a connected socket.
   * @returns false if it was not even tried: closed, or too much in flight (counted).
   */
  send(buf: Uint8Array, off: number, len: number, to: IpAddress | undefined, port: number): boolean {
    if (!this.#open || this.#closed) return false;
    const arena = this.#arena;
    if (this.#count === MAX_IN_FLIGHT || !arena.place(buf, off, len)) {
      this.overflows++;
      return false;
    }
    const { bytes } = arena;
    const status = to === undefined ? this.#handle.send(bytes) : this.#handle.sendTo(bytes, this.#textOf(to), port);
    if (status === SENT) arena.done(bytes);
    else if (status === PENDING) this.#queue(bytes, to, port);
    else {
      this.#owner.onSendError(this, errnoName(status), { bytes, to, port });
      arena.done(bytes);
    }
    return true;
  }

  close(): void {
    this.#closed = true;
    this.#handle.close();
  }

  onDatagram(buf: Uint8Array, off: number, len: number, address: string, port: number): void {
    if (!this.#closed) this.#owner.onMessage(this, buf, off, len, address, port);
  }

  onReceiveError(errno: string): void {
    if (!this.#closed) this.#owner.onSocketError(this, errno);
  }

  onSent(errno: string): void {
    const slot = this.#slots[this.#head]!;
    // The slot is given up only afterwards: the owner may send its bytes again.
    if (errno !== '' && !this.#closed) this.#owner.onSendError(this, errno, slot);
    this.#head = (this.#head + 1) & (MAX_IN_FLIGHT - 1);
    this.#count--;
    // Back to the first slots, so that a socket has as many as its largest burst needed.
    if (this.#count === 0) this.#head = 0;
    this.#arena.done(slot.bytes);
    slot.bytes = NOTHING;
  }

  #textOf(to: IpAddress): string {
    if (!this.#mapped || !to.isV4) return this.#texts.textOf(to);
    if (this.#mappedOf !== to) {
      this.#mappedOf = to;
      this.#mappedText = `::ffff:${to}`;
    }
    return this.#mappedText;
  }

  #queue(bytes: Uint8Array, to: IpAddress | undefined, port: number): void {
    const at = (this.#head + this.#count) & (MAX_IN_FLIGHT - 1);
    const slot = this.#slots[at];
    if (slot === undefined) this.#slots[at] = { bytes, to, port };
    else {
      slot.bytes = bytes;
      slot.to = to;
      slot.port = port;
    }
    this.#count++;
  }
}
