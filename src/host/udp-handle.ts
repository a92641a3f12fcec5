// A UDP socket as the packet path wants it: every call does its work at once and answers with a value, nothing is emitted,
// thrown or queued behind a callback, and a datagram costs no object of ours. It owns the system calls and nothing of what they carry.
//
// There are two ways to the same interface: the handle that node:dgram itself stands on (udp-native.ts), and node:dgram (udp-dgram.ts)
// where that handle cannot be had; udp-handles.ts chooses.

import { getSystemErrorName } from 'node:util';

/** Whom a socket shares its port with. */
export const PortUse = {
  /** Nobody. */
  Alone: 0,
  /** Nobody has the port at this moment; those that join it later may share it. */
  Claim: 1,
  /** The port of a socket that has claimed it. */
  Join: 2,
  /**
   * The same, and it hears of every ICMP error about what it sends, also of those that Linux keeps from a socket by itself (network
   * or host unreachable, time exceeded). After its first error it must be closed at once: see udp-native.ts.
   */
  JoinHearing: 3,
} as const;
export type PortUse = (typeof PortUse)[keyof typeof PortUse];

/** `send` and `sendTo`: the kernel has the datagram, its bytes are the caller's again. */
export const SENT = 1;
/** `send` and `sendTo`: the bytes must stay as they are until `onSent`. */
export const PENDING = 0;

/** What a handle tells its owner. After `close` only the `onSent` that are due still come. */
export interface UdpHandleOwner {
  /**
   * One datagram, valid until the call returns.
   * @param address text, an IPv6 one of a link with its zone; '' with port 0: the connected remote's.
   */
  onDatagram(buf: Uint8Array, off: number, len: number, address: string, port: number): void;
  /** Receiving failed with this errno name: on a connected socket an ICMP error of the remote. */
  onReceiveError(errno: string): void;
  /** A send that was PENDING is over, in the order of the sends. @param errno '' if it was sent. */
  onSent(errno: string): void;
}

/** One socket. Addresses are literals. Errors are errno names, '' for none. */
export interface UdpHandle {
  /** Binds and receives from now on. After a failure the handle is only good for `close`. */
  bind(address: string, port: number, use: PortUse): string;
  /** Fixes the remote, from which alone a bound socket hears from now on. */
  connect(address: string, port: number): string;
  /** Sends to the connected remote. @returns SENT, PENDING, or a negative errno (`errnoName` has its name). */
  send(bytes: Uint8Array): number;
  sendTo(bytes: Uint8Array, address: string, port: number): number;
  /** Of the local end; 0 and '' if it is not bound. */
  readonly port: number;
  readonly address: string;
  /** Idempotent. */
  close(): void;
}

/** Makes sockets. */
export interface UdpHandles {
  /** @param v6Only false: an IPv6 socket that speaks IPv4 too; such remotes are `::ffff:a.b.c.d`. Default true. */
  create(owner: UdpHandleOwner, family: 4 | 6, v6Only?: boolean): UdpHandle;
  /**
   * Takes an inherited IPv4 socket that is bound, and receives from now on.
   * @returns its handle, or the errno name if the descriptor is no such socket; it stays open then.
   */
  inherit(owner: UdpHandleOwner, fd: number): UdpHandle | string;
}

/** The name of a negative errno; '' for 0. */
export function errnoName(status: number): string {
  return status < 0 ? getSystemErrorName(status) : '';
}
