// UDP sockets on the handle below node:dgram: `process.binding('udp_wrap')`, the same on Node 20, 24 and 26. Its shape is checked once;
// where it is another, `nativeUdp` gives nothing and node:dgram is used (udp-handles.ts).
//
// A socket that hears every ICMP error (`PortUse.JoinHearing`, IP_RECVERR) has them in an error queue that nobody can read from here, and
// the libuv of Node 20 polls a socket with such a queue without end: a whole core. Closing the socket ends that.
//
// A send that the kernel takes at once leaves the request object unused, so one is used for ever, with one list of one buffer.
//
// Receiving costs most: for each datagram the binding makes a buffer, an object with the sender's address as text, and a call into
// JavaScript, 2.6 us in all. On a connected socket the sender is known, so once the binding has told of one datagram, those that wait
// behind it are fetched with plain reads into memory of ours, 1.0 us each. The read that finds nothing throws, which costs as much as
// three reads save; so draining is tried where it has paid before, and seldom where it has not.

import { readSync } from 'node:fs';
import { inheritDgram } from './udp-dgram.ts';
import {
  errnoName,
  PENDING,
  PortUse,
  SENT,
  type UdpHandle,
  type UdpHandleOwner,
  type UdpHandles,
} from './udp-handle.ts';

/** Where connected sockets read to: READ_BYTES at `off` of `buf`. */
export interface ReadMemory {
  readonly buf: Uint8Array;
  readonly off: number;
}

/** No datagram is longer. */
export const READ_BYTES: number = 64 * 1024;

/** Datagrams that one drain fetches at most, and how many such full drains are made in a row. */
const DRAIN_MAX = 31;
const DRAINS_IN_A_ROW = 4;
/** libuv tells of at most 32 datagrams before it looks at other sockets: then a busy one brings no more than 156. */
const DRAIN_HOLD_FULL = 32 - DRAINS_IN_A_ROW;
/** A drain pays from so many datagrams on. */
const DRAIN_PAYS = 3;
/** Datagrams told by the binding before the first drain, and between two when they never pay. */
const DRAIN_HOLD_FIRST = 64;
const DRAIN_HOLD_MAX = 256;

// What is used of the binding. All calls give 0 or a negative errno.
interface RawUdp {
  owner: NativeUdp | undefined;
  onmessage: typeof received;
  readonly fd: number;
  bind(address: string, port: number, flags: number): number;
  bind6(address: string, port: number, flags: number): number;
  connect(address: string, port: number): number;
  connect6(address: string, port: number): number;
  /** @returns bytes + 1: done at once; 0: `req.oncomplete` comes. */
  send(req: RawRequest, list: Uint8Array[], count: number, wanted: boolean): number;
  send(req: RawRequest, list: Uint8Array[], count: number, port: number, address: string, wanted: boolean): number;
  send6(req: RawRequest, list: Uint8Array[], count: number, wanted: boolean): number;
  send6(req: RawRequest, list: Uint8Array[], count: number, port: number, address: string, wanted: boolean): number;
  recvStart(): number;
  recvStop(): number;
  getsockname(out: Partial<RawAddress>): number;
  close(): void;
}

interface RawRequest {
  oncomplete: ((status: number) => void) | undefined;
  /** Kept from the garbage collector while the kernel may read it. */
  list: Uint8Array[] | undefined;
}

interface RawAddress {
  address: string;
  port: number;
}

interface Binding {
  readonly UDP: new () => RawUdp;
  readonly SendWrap: new () => RawRequest;
  readonly constants: { readonly UV_UDP_IPV6ONLY: number; readonly UV_UDP_REUSEADDR: number };
}

const METHODS = 'bind bind6 connect connect6 send send6 recvStart recvStop getsockname close'.split(' ');

function loadBinding(): Binding | undefined {
  try {
    const load = (process as unknown as { binding?: (name: string) => unknown }).binding;
    const found = load?.call(process, 'udp_wrap') as Partial<Binding> | undefined;
    const prototype = found?.UDP?.prototype as Record<string, unknown> | undefined;
    const { UV_UDP_IPV6ONLY, UV_UDP_REUSEADDR } = found?.constants ?? {};
    if (typeof UV_UDP_IPV6ONLY !== 'number' || typeof UV_UDP_REUSEADDR !== 'number') return undefined;
    if (prototype === undefined || typeof found?.SendWrap !== 'function') return undefined;
    return METHODS.every((m) => typeof prototype[m] === 'function') ? (found as Binding) : undefined;
  } catch {
    return undefined;
  }
}

/** @returns undefined where this Node has no such handle. @param memory without it connected sockets get a piece of their own. */
export function nativeUdp(memory?: ReadMemory): UdpHandles | undefined {
  const binding = loadBinding();
  if (binding === undefined) return undefined;
  const shared = new Shared(binding, memory ?? { buf: new Uint8Array(READ_BYTES), off: 0 });
  return {
    create: (owner, family, v6Only = true) => new NativeUdp(shared, owner, family, v6Only),
    inherit: inheritDgram,
  };
}

/** What all sockets of one factory use. */
class Shared {
  readonly binding: Binding;
  readonly memory: ReadMemory;
  readonly list: Uint8Array[] = [new Uint8Array(0)];
  request: RawRequest;

  constructor(binding: Binding, memory: ReadMemory) {
    this.binding = binding;
    this.memory = memory;
    this.request = new binding.SendWrap();
  }

  /** The request and its bytes belong to the kernel now: the next send takes another. */
  taken(): RawRequest {
    const { request } = this;
    request.list = [this.list[0]!];
    this.request = new this.binding.SendWrap();
    return request;
  }
}

/** UV_UDP_LINUX_RECVERR, which the binding passes on and does not name. */
const RECVERR = process.platform === 'linux' ? 32 : 0;

/** The binding's call for each datagram or error. */
function received(nread: number, raw: RawUdp, buf: Uint8Array | undefined, from: RawAddress | undefined): void {
  raw.owner?.received(nread, buf, from);
}

class NativeUdp implements UdpHandle {
  readonly #shared: Shared;
  readonly #owner: UdpHandleOwner;
  readonly #raw: RawUdp;
  readonly #v6: boolean;
  readonly #v6Only: boolean;
  #connected = false;
  #closed = false;
  /** The binding's datagrams until a drain is tried, and what that starts from when one has not paid. */
  #hold = DRAIN_HOLD_FIRST;
  #penalty = DRAIN_PAYS;
  #full = 0;
  #onComplete: ((status: number) => void) | undefined = undefined;

  constructor(shared: Shared, owner: UdpHandleOwner, family: 4 | 6, v6Only: boolean) {
    this.#shared = shared;
    this.#owner = owner;
    this.#v6 = family === 6;
    this.#v6Only = v6Only;
    this.#raw = new shared.binding.UDP();
    this.#raw.owner = this;
    this.#raw.onmessage = received;
  }

  bind(address: string, port: number, use: PortUse): string {
    const { UV_UDP_REUSEADDR } = this.#shared.binding.constants;
    const joins = use === PortUse.Join || use === PortUse.JoinHearing;
    const hears = use === PortUse.JoinHearing ? RECVERR : 0;
    const failed = this.#bind(address, port, (joins ? UV_UDP_REUSEADDR : 0) | hears);
    if (failed < 0) return errnoName(failed);
    // The kernel's check is over. A second bind sets SO_REUSEADDR before it is refused, so that others may join: no socket need
    // be bound for a moment as a probe. Where it sets nothing, nobody can join, which they notice.
    if (use === PortUse.Claim) this.#bind(address, this.port, UV_UDP_REUSEADDR);
    return errnoName(this.#raw.recvStart());
  }

  connect(address: string, port: number): string {
    const status = this.#v6 ? this.#raw.connect6(address, port) : this.#raw.connect(address, port);
    // Datagrams of others may have come between bind and connect. They lie at the head of the queue, and the first
    // DRAIN_HOLD_FIRST of it come with their senders' addresses.
    this.#connected = status === 0;
    return errnoName(status);
  }

  send(bytes: Uint8Array): number {
    const { list, request } = this.#shared;
    list[0] = bytes;
    const status = this.#v6 ? this.#raw.send6(request, list, 1, true) : this.#raw.send(request, list, 1, true);
    return status > 0 ? SENT : this.#late(status);
  }

  sendTo(bytes: Uint8Array, address: string, port: number): number {
    const { list, request } = this.#shared;
    list[0] = bytes;
    const status = this.#v6
      ? this.#raw.send6(request, list, 1, port, address, true)
      : this.#raw.send(request, list, 1, port, address, true);
    return status > 0 ? SENT : this.#late(status);
  }

  get port(): number {
    return this.#local().port ?? 0;
  }

  get address(): string {
    return this.#local().address ?? '';
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#raw.owner = undefined;
    this.#raw.close();
  }

  received(nread: number, buf: Uint8Array | undefined, from: RawAddress | undefined): void {
    if (nread < 0) {
      this.#owner.onReceiveError(errnoName(nread));
      return;
    }
    if (buf === undefined || from === undefined) return;
    this.#owner.onDatagram(buf, 0, buf.length, from.address, from.port);
    if (this.#connected && --this.#hold <= 0) this.#drain();
  }

  #bind(address: string, port: number, flags: number): number {
    if (!this.#v6) return this.#raw.bind(address, port, flags);
    const only = this.#v6Only ? this.#shared.binding.constants.UV_UDP_IPV6ONLY : 0;
    return this.#raw.bind6(address, port, flags | only);
  }

  #local(): Partial<RawAddress> {
    const out: Partial<RawAddress> = {};
    if (!this.#closed) this.#raw.getsockname(out);
    return out;
  }

  #late(status: number): number {
    if (status !== 0) return status;
    this.#onComplete ??= (s) => this.#owner.onSent(errnoName(s));
    this.#shared.taken().oncomplete = this.#onComplete;
    return PENDING;
  }

  /** Fetches what waits behind the datagram that was told last. */
  #drain(): void {
    const { buf, off } = this.#shared.memory;
    let n = 0;
    while (n < DRAIN_MAX && !this.#closed) {
      const len = readNow(this.#raw.fd, buf, off);
      if (len < 0) {
        if (len < NOTHING_THERE) this.#owner.onReceiveError(readError);
        break;
      }
      n++;
      this.#owner.onDatagram(buf, off, len, '', 0);
    }
    if (n < DRAIN_PAYS) this.#penalty = Math.min(this.#penalty * 2, DRAIN_HOLD_MAX);
    else this.#penalty = DRAIN_PAYS;
    this.#full = n < DRAIN_MAX ? 0 : this.#full + 1;
    if (n < DRAIN_PAYS) this.#hold = this.#penalty;
    else if (this.#full < DRAINS_IN_A_ROW) this.#hold = 0;
    else {
      this.#full = 0;
      this.#hold = DRAIN_HOLD_FULL;
    }
  }
}

const NOTHING_THERE = -1;
const FAILED = -2;
/** The errno name of a read that FAILED. */
let readError = '';

/** @returns the length of the next datagram, NOTHING_THERE or FAILED. */
function readNow(fd: number, buf: Uint8Array, off: number): number {
  // An error without its stack costs half.
  const depth = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return readSync(fd, buf, off, READ_BYTES, null);
  } catch (error) {
    readError = (error as NodeJS.ErrnoException).code ?? 'EIO';
    return readError === 'EAGAIN' || readError === 'EINTR' ? NOTHING_THERE : FAILED;
  } finally {
    Error.stackTraceLimit = depth;
  }
}
