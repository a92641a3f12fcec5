// A TCP flow's border with whoever owns its host side: what the forwarder may do with a connection, and what it is told.
// Types and the two closed sets of reasons; the implementation is `connection`.

import type { Millis } from '../base/clock.ts';
import type { IpAddress } from '../ip/address.ts';

/** Why a flow ended or was never made; printed in logs, status and metrics. */
export const CloseReason = {
  Done: 'done',
  GuestReset: 'guest-reset',
  HostReset: 'host-reset',
  Refused: 'refused',
  Unreachable: 'unreachable',
  RetransmitLimit: 'retransmit-limit',
  VmGone: 'vm-gone',
  Killed: 'killed',
  Shutdown: 'shutdown',
  Bug: 'bug',
  IdleOrphan: 'idle-orphan',
} as const;
export type CloseReason = (typeof CloseReason)[keyof typeof CloseReason];

/** Why the host side cannot be reached: decides what the guest is told (forwarder/errno has the table of errno values). */
export const RefuseReason = {
  /** RST. */
  Refused: 'refused',
  /** ICMP 3/0. */
  NetUnreachable: 'net-unreachable',
  /** ICMP 3/1. */
  HostUnreachable: 'host-unreachable',
  /** ICMP 3/13. */
  Prohibited: 'prohibited',
} as const;
export type RefuseReason = (typeof RefuseReason)[keyof typeof RefuseReason];

/** The connection of a VM that a flow belongs to. */
export interface VmRef {
  readonly id: number;
}

/**
 * A TCP flow as the forwarder sees it: the core's Connection. `guest` is always the VM's end.
 *
 * Guest to host: bytes wait in the receive ring; `readable` of them lie in one piece at `readableOffset` of `mem`, stay there
 * until `consume`, and the window is what is left.
 * Host to guest: `room` bytes may be written at `roomOffset` (one piece), then `commit`.
 */
export interface TcpFlow {
  readonly guest: IpAddress;
  readonly guestPort: number;
  readonly remote: IpAddress;
  readonly remotePort: number;
  readonly vm: VmRef;
  readonly mem: Uint8Array;
  /** The forwarder's own per-flow state. */
  owner: FlowOwner | undefined;

  /** The host connection stands: SYN-ACK goes out. */
  accept(now: Millis): void;
  /** The host connection failed: RST or ICMP, and the flow is gone. */
  refuse(reason: RefuseReason, now: Millis): void;

  /** Bytes from the guest that lie in one piece. */
  readonly readable: number;
  readonly readableOffset: number;
  /** The guest's FIN has arrived and every byte before it was consumed. */
  readonly ended: boolean;
  /** The host holds on to the readable bytes past this call: they stay where they are until `consume`. */
  pin(): void;
  /** The first `len` readable bytes are the host's now; the window may open. Ends `pin`. */
  consume(len: number, now: Millis): void;

  /** Bytes that `write` would take now; memory may still be out. */
  readonly writable: number;
  /** Bytes that the flow may hold for the guest at most, by how much memory there is now. */
  readonly writableLimit: number;
  /** Asks for `onWritable` when the guest has acknowledged something. */
  awaitWritable(): void;
  /**
   * Lends free bytes in one piece for host data, making or growing the ring up to its limit when `want` is more than there is.
   * They are lent until `commit` (of any length, 0 too). @returns 0 when the ring is full or memory is out: `onWritable` follows.
   */
  room(want: number): number;
  /** Where the bytes lent by `room` lie in `mem`. */
  readonly roomOffset: number;
  commit(len: number, now: Millis): void;
  /** Copies in as much as fits. @returns bytes taken. */
  write(buf: Uint8Array, off: number, len: number, now: Millis): number;
  /** FIN after everything written. */
  shutdown(now: Millis): void;
  /** RST; the flow is gone. `onClosed` is not called for it. */
  abort(reason: CloseReason, now: Millis): void;
  /** After `onClosed` or `abort`: the host's socket no longer reads or writes memory of this flow, so pinned and lent blocks are freed. */
  release(): void;
  /** The host's socket is gone for good after it ended cleanly: FIN-WAIT-2 may time out, and data of the guest draws a RST. */
  orphan(now: Millis): void;
}

/** The forwarder's end of one flow. Called only between state changes, never from inside `accept`, `commit` and the like. */
export interface FlowOwner {
  /** The three-way handshake is complete. */
  onEstablished(now: Millis): void;
  /** Bytes wait (again), or the guest's FIN has arrived. */
  onReadable(now: Millis): void;
  /** Room in the send ring after `room` or `write` gave less than wanted. */
  onWritable(now: Millis): void;
  /** The flow is gone (no further calls in either direction). `Done` is the clean end; everything else resets the host side. */
  onClosed(reason: CloseReason, now: Millis): void;
}
