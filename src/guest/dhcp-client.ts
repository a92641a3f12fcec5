// The DHCP client's state machine (RFC 2131 figure 5 and 4.4; retransmission 4.1), sans I/O. It owns what is asked when; the
// datagrams are its sender's, the interface is configured by whoever hears of the lease.
//
//   Init --DISCOVER--> Selecting --OFFER, REQUEST--> Requesting --ACK--> Bound --T1--> Renewing --T2--> Rebinding --end--> Init
//   Rebooting (a remembered address, RFC 2131 3.2) --ACK--> Bound; NAK in any of them --> Init

import { equalBytes, setU16 } from '../base/bytes.ts';
import { type Millis, NEVER } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import { DhcpBuilder } from '../services/dhcp-builder.ts';
import { BOOTREPLY, BOOTREQUEST, DhcpMessage, DhcpOption, DhcpType, FLAG_BROADCAST } from '../services/dhcp-message.ts';
import { type DhcpLease, readLease } from './dhcp-lease.ts';

export const DhcpState = {
  Stopped: 'stopped',
  Selecting: 'selecting',
  Requesting: 'requesting',
  Rebooting: 'rebooting',
  Bound: 'bound',
  Renewing: 'renewing',
  Rebinding: 'rebinding',
} as const;
export type DhcpState = (typeof DhcpState)[keyof typeof DhcpState];

export interface DhcpClientOptions {
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** Option 12; '' for none. */
  readonly hostName: string;
  /** Option 61; undefined for none: the server goes by MAC. */
  readonly clientId?: Uint8Array;
  /** Asks for answers by broadcast (RFC 2131 4.1). */
  readonly broadcast?: boolean;
  /** First retransmission; RFC 2131 4.1: 4 s, doubled up to 64 s, each one second more or less. */
  readonly retryMs?: number;
}

/** Sends from port 68 to port 67 of `dst` (int32, -1 for broadcast). */
export type DhcpSend = (dst: number, buf: Uint8Array, off: number, len: number, now: Millis) => void;

/** What the owner of the interface hears. */
export interface DhcpClientEvents {
  /** A lease was given, or given anew. */
  onBound(lease: DhcpLease, now: Millis): void;
  /** The lease is no longer to be used: refused, or its time is over. */
  onLost(now: Millis): void;
  /** The server said no (a NAK), with its message. */
  onRefused(message: string, now: Millis): void;
}

/** What is asked for: RFC 2132 9.8. */
const WANTED = Uint8Array.of(
  DhcpOption.SubnetMask,
  DhcpOption.Router,
  DhcpOption.DnsServers,
  DhcpOption.HostName,
  DhcpOption.DomainName,
  DhcpOption.InterfaceMtu,
  DhcpOption.BroadcastAddress,
  DhcpOption.NtpServers,
  DhcpOption.LeaseTime,
  DhcpOption.RenewalTime,
  DhcpOption.RebindingTime,
  DhcpOption.DomainSearch,
);
/** Largest message taken: what a 1,500-byte packet carries. */
const MAX_MESSAGE_BYTES = 1472;
const RETRY_MAX_MS = 64_000;
/** RFC 2131 4.4.5: between renewals at least this. */
const RENEW_RETRY_MIN_MS = 60_000;

export class DhcpClient {
  state: DhcpState = DhcpState.Stopped;
  lease: DhcpLease | undefined = undefined;
  readonly #options: DhcpClientOptions;
  readonly #send: DhcpSend;
  readonly #events: DhcpClientEvents;
  readonly #random: Random;
  readonly #builder = new DhcpBuilder();
  readonly #msg = new DhcpMessage();
  readonly #retryMs: number;
  #xid = 0;
  #tries = 0;
  #retryAt: Millis = NEVER;
  #startedAt: Millis = 0;
  #sentAt: Millis = 0;
  /** Asked for: of an OFFER, or remembered. */
  #wanted = 0;
  #server = 0;

  constructor(options: DhcpClientOptions, send: DhcpSend, events: DhcpClientEvents, random: Random) {
    this.#options = options;
    this.#send = send;
    this.#events = events;
    this.#random = random;
    this.#retryMs = options.retryMs ?? 4000;
  }

  /** INIT: discovers servers. */
  start(now: Millis): void {
    this.#wanted = 0;
    this.#begin(DhcpState.Selecting, now);
  }

  /** INIT-REBOOT: asks to go on with an address it had before (int32). */
  reboot(address: number, now: Millis): void {
    this.#wanted = address;
    this.#begin(DhcpState.Rebooting, now);
  }

  /** Renews before T1. Nothing without a lease. */
  renew(now: Millis): void {
    if (this.lease !== undefined) this.#begin(DhcpState.Renewing, now);
  }

  /** Extends by broadcast, as after T2. Nothing without a lease. */
  rebind(now: Millis): void {
    if (this.lease !== undefined) this.#begin(DhcpState.Rebinding, now);
  }

  /** Gives the lease back. The interface is its owner's to unconfigure, afterwards. */
  release(now: Millis): void {
    const lease = this.lease;
    this.stop();
    if (lease === undefined) return;
    this.#xid = this.#random.i32();
    this.#open(0, lease.address, now);
    this.#builder.addU8(DhcpOption.MessageType, DhcpType.Release);
    this.#builder.addU32(DhcpOption.ServerId, lease.server);
    this.#finish(lease.server, now);
  }

  /** Says that somebody else uses the address, and starts anew. */
  decline(now: Millis): void {
    const lease = this.lease;
    if (lease === undefined) return;
    this.lease = undefined;
    this.#xid = this.#random.i32();
    this.#open(0, 0, now);
    this.#builder.addU8(DhcpOption.MessageType, DhcpType.Decline);
    this.#builder.addU32(DhcpOption.RequestedAddress, lease.address);
    this.#builder.addU32(DhcpOption.ServerId, lease.server);
    this.#events.onLost(now);
    this.#finish(-1, now);
    this.start(now);
  }

  /** Asks and answers no more; says nothing to the server. */
  stop(): void {
    this.state = DhcpState.Stopped;
    this.lease = undefined;
    this.#retryAt = NEVER;
  }

  nextDeadline(): Millis {
    const { lease } = this;
    if (lease === undefined) return this.#retryAt;
    const turn = this.state === DhcpState.Bound ? lease.renewAt : lease.rebindAt;
    return Math.min(this.#retryAt, this.state === DhcpState.Rebinding ? NEVER : turn, lease.expiresAt);
  }

  /** Does what is due. */
  poll(now: Millis): void {
    const { lease } = this;
    if (lease !== undefined && now >= lease.expiresAt) {
      this.lease = undefined;
      this.#events.onLost(now);
      this.start(now);
    } else if (lease !== undefined && now >= lease.rebindAt && this.state !== DhcpState.Rebinding) {
      this.#begin(DhcpState.Rebinding, now);
    } else if (lease !== undefined && now >= lease.renewAt && this.state === DhcpState.Bound) {
      this.#begin(DhcpState.Renewing, now);
    } else if (now >= this.#retryAt) this.#transmit(now);
  }

  /** A datagram to port 68. */
  input(buf: Uint8Array, off: number, len: number, now: Millis): void {
    const msg = this.#msg;
    if (this.state === DhcpState.Stopped || this.state === DhcpState.Bound || !msg.wrap(buf, off, len)) return;
    if (msg.op !== BOOTREPLY || msg.xid !== this.#xid) return;
    if (!equalBytes(msg.buf, msg.chaddrOff, this.#options.mac, 0, 6)) return;
    const type = msg.messageType;
    if (this.state === DhcpState.Selecting) {
      const server = msg.i32(DhcpOption.ServerId);
      if (type !== DhcpType.Offer || server === undefined || msg.yiaddr === 0) return;
      this.#wanted = msg.yiaddr;
      this.#server = server;
      this.state = DhcpState.Requesting;
      this.#tries = 0;
      this.#transmit(now);
    } else if (type === DhcpType.Nak) this.#refused(now);
    else if (type === DhcpType.Ack) {
      const lease = readLease(msg, this.#sentAt);
      if (lease === undefined) return;
      this.lease = lease;
      this.state = DhcpState.Bound;
      this.#retryAt = NEVER;
      this.#events.onBound(lease, now);
    }
  }

  #refused(now: Millis): void {
    const msg = this.#msg;
    let text = '';
    const off = msg.optionOff(DhcpOption.Message);
    for (let i = 0; i < msg.optionLen(DhcpOption.Message); i++) text += String.fromCharCode(msg.options[off + i]!);
    const had = this.lease !== undefined;
    this.lease = undefined;
    if (had) this.#events.onLost(now);
    this.#events.onRefused(text, now);
    if (this.state !== DhcpState.Stopped) this.start(now);
  }

  #begin(state: DhcpState, now: Millis): void {
    this.state = state;
    this.#xid = this.#random.i32();
    this.#tries = 0;
    this.#startedAt = now;
    this.#transmit(now);
  }

  /** Sends the message of this state (again). */
  #transmit(now: Millis): void {
    const { state, lease } = this;
    // RFC 2131 4.1: a server that never answers the REQUEST is given up.
    if (state === DhcpState.Requesting && this.#tries >= 4) {
      this.start(now);
      return;
    }
    this.#sentAt = now;
    const b = this.#builder;
    const extending = state === DhcpState.Renewing || state === DhcpState.Rebinding;
    this.#open(this.#options.broadcast === true ? FLAG_BROADCAST : 0, extending ? (lease?.address ?? 0) : 0, now);
    b.addU8(DhcpOption.MessageType, state === DhcpState.Selecting ? DhcpType.Discover : DhcpType.Request);
    if (state === DhcpState.Requesting || state === DhcpState.Rebooting) {
      b.addU32(DhcpOption.RequestedAddress, this.#wanted);
    }
    if (state === DhcpState.Requesting) b.addU32(DhcpOption.ServerId, this.#server);
    b.addU16(DhcpOption.MaxMessageSize, MAX_MESSAGE_BYTES);
    if (this.#options.hostName !== '') b.addText(DhcpOption.HostName, this.#options.hostName);
    b.addBytes(DhcpOption.ParameterList, WANTED, 0, WANTED.length);
    this.#retryAt = now + this.#retryDelay(now);
    this.#tries++;
    this.#finish(state === DhcpState.Renewing && lease !== undefined ? lease.server : -1, now);
  }

  #retryDelay(now: Millis): Millis {
    const { lease, state } = this;
    if (lease !== undefined && (state === DhcpState.Renewing || state === DhcpState.Rebinding)) {
      const until = state === DhcpState.Renewing ? lease.rebindAt : lease.expiresAt;
      return Math.max(RENEW_RETRY_MIN_MS, (until - now) / 2);
    }
    const jitter = (this.#random.i32() / 0x8000_0000) * (this.#retryMs / 4);
    return Math.min(this.#retryMs * 2 ** this.#tries, RETRY_MAX_MS) + jitter;
  }

  #open(flags: number, ciaddr: number, now: Millis): void {
    const b = this.#builder;
    b.begin(BOOTREQUEST, this.#xid, flags, MAX_MESSAGE_BYTES);
    // `secs`: since the client began; servers and relays may look at it.
    setU16(b.buf, 8, Math.min(0xffff, Math.floor((now - this.#startedAt) / 1000)));
    b.addresses(ciaddr, 0, 0, 0);
    b.chaddr(this.#options.mac, 0);
    const id = this.#options.clientId;
    if (id !== undefined) b.addBytes(DhcpOption.ClientId, id, 0, id.length);
  }

  #finish(dst: number, now: Millis): void {
    const len = this.#builder.finish();
    this.#send(dst, this.#builder.buf, 0, len, now);
  }
}
