// DNS over TCP to upstream servers: few connections, many queries on each (RFC 7766 6.2), closed when idle.
// A connection that the server closes under a query is normal life (its idle time ran out): the query goes once more.

import { connect, type Socket } from 'node:net';
import { type Clock, type Millis, NEVER } from '../base/clock.ts';
import type { Attempt } from '../dns/lookup.ts';
import type { Server } from '../dns/server.ts';

const IDLE_MS = 4000;
/** Open queries on one connection that make another worth its descriptor. */
const CROWD = 16;
/** RFC 7766 6.2.2 asks for one; servers that answer strictly in order make a few more worth it. */
const PER_SERVER_MAX = 8;
/** A query that waits this long on a connection that says nothing at all: the way to the server may have changed under it. */
const STALLED_MS = 1000;
const LENGTH_BYTES = 2;

export interface TcpUpstreamHost {
  /** Reports a failure to the resolver in a later turn. */
  fail(a: Attempt): void;
  message(server: Server, channel: unknown, buf: Uint8Array, off: number, len: number): void;
}

class TcpChannel {
  readonly server: Server;
  readonly socket: Socket;
  readonly pending = new Set<Attempt>();
  idleSince: Millis;
  heardAt: Millis;
  closed = false;
  /** Takes no more queries. */
  worn = false;
  /** It has carried a query before, so its end may be mere idleness. */
  used = false;
  /** Bytes of a frame that is not complete: `held` of them. */
  partial: Buffer = Buffer.alloc(0);

  constructor(server: Server, socket: Socket, now: Millis) {
    this.server = server;
    this.socket = socket;
    this.idleSince = now;
    this.heardAt = now;
  }

  /** A query of that time should have been answered, and nothing has come since. */
  stalledSince(sentAt: Millis, now: Millis): boolean {
    return this.heardAt <= sentAt && now - sentAt >= STALLED_MS;
  }
}

export class TcpUpstream {
  readonly #max: number;
  readonly #clock: Clock;
  readonly #host: TcpUpstreamHost;
  readonly #channels = new Set<TcpChannel>();
  #closed = false;

  constructor(max: number, clock: Clock, host: TcpUpstreamHost) {
    this.#max = max;
    this.#clock = clock;
    this.#host = host;
  }

  get size(): number {
    return this.#channels.size;
  }

  send(a: Attempt, now: Millis): void {
    const c = this.#closed ? undefined : this.#pick(a.server, a.resent, now);
    if (c === undefined) {
      this.#host.fail(a);
      return;
    }
    a.channel = c;
    c.pending.add(a);
    // One write for length and message: some servers want both in one segment (RFC 7766 8).
    const frame = Buffer.allocUnsafe(LENGTH_BYTES + a.length);
    frame.writeUInt16BE(a.length, 0);
    a.writeTo(frame, LENGTH_BYTES);
    c.socket.write(frame);
  }

  cancel(a: Attempt): void {
    if (!(a.channel instanceof TcpChannel)) return;
    if (a.channel.stalledSince(a.sentAt, this.#clock.now())) a.channel.worn = true;
    this.#release(a.channel, a);
  }

  nextDeadline(): Millis {
    let next = NEVER;
    if (this.#channels.size === 0) return next;
    for (const c of this.#channels) if (c.pending.size === 0) next = Math.min(next, c.idleSince + IDLE_MS);
    return next;
  }

  poll(now: Millis): void {
    for (const c of [...this.#channels]) {
      if (c.pending.size === 0 && now - c.idleSince >= IDLE_MS) this.#close(c);
    }
  }

  /** Connections of before are not used for further queries. */
  renew(): void {
    for (const c of [...this.#channels]) {
      if (c.pending.size === 0) this.#close(c);
      else c.worn = true;
    }
  }

  close(): void {
    this.#closed = true;
    for (const c of [...this.#channels]) this.#close(c);
  }

  /** @param fresh for a query that an old connection has just swallowed. */
  #pick(server: Server, fresh: boolean, now: Millis): TcpChannel | undefined {
    let best: TcpChannel | undefined;
    let count = 0;
    for (const c of this.#channels) {
      if (c.server !== server) continue;
      count++;
      const [oldest] = c.pending;
      if (oldest !== undefined && c.stalledSince(oldest.sentAt, now)) c.worn = true;
      if (!c.worn && (best === undefined || c.pending.size < best.pending.size)) best = c;
    }
    const wanted = best === undefined || fresh || best.pending.size >= CROWD;
    if (wanted && count < PER_SERVER_MAX && (this.#makeRoom() || count === 0)) return this.#open(server, now);
    return best;
  }

  #makeRoom(): boolean {
    if (this.#channels.size < this.#max) return true;
    for (const c of this.#channels) {
      if (c.pending.size === 0) {
        this.#close(c);
        return true;
      }
    }
    return false;
  }

  #open(server: Server, now: Millis): TcpChannel {
    const { address, zone, port } = server.at;
    const socket = connect({ host: address.toString() + (zone === '' ? '' : `%${zone}`), port, noDelay: true });
    const c = new TcpChannel(server, socket, now);
    this.#channels.add(c);
    socket.on('data', (chunk: Buffer) => this.#data(c, chunk));
    socket.on('error', () => this.#broken(c));
    socket.on('end', () => this.#broken(c));
    socket.on('close', () => this.#broken(c));
    return c;
  }

  #data(c: TcpChannel, chunk: Buffer): void {
    c.heardAt = this.#clock.now();
    // Copy: a frame may lie in several chunks. Bounded by the longest frame and one chunk.
    const buf = c.partial.length === 0 ? chunk : Buffer.concat([c.partial, chunk]);
    let at = 0;
    while (buf.length - at >= LENGTH_BYTES) {
      const len = buf.readUInt16BE(at);
      if (buf.length - at < LENGTH_BYTES + len) break;
      this.#message(c, buf, at + LENGTH_BYTES, len);
      at += LENGTH_BYTES + len;
      if (c.closed) return;
    }
    c.partial = buf.subarray(at);
  }

  #message(c: TcpChannel, buf: Buffer, off: number, len: number): void {
    c.used = true;
    const id = len >= 2 ? buf.readUInt16BE(off) : -1;
    let asked: Attempt | undefined;
    for (const a of c.pending) if (a.id === id) asked = a;
    this.#host.message(c.server, c, buf, off, len);
    if (asked !== undefined && !asked.live) this.#release(c, asked);
  }

  #release(c: TcpChannel, a: Attempt): void {
    c.pending.delete(a);
    if (c.pending.size > 0) return;
    c.idleSince = this.#clock.now();
    // A connection that never came to stand is not worth keeping.
    if (c.socket.connecting || c.worn) this.#close(c);
  }

  #broken(c: TcpChannel): void {
    if (c.closed) return;
    const failed = [...c.pending];
    c.pending.clear();
    this.#close(c);
    for (const a of failed) {
      if (c.used && !a.resent && !this.#closed) {
        a.resent = true;
        this.send(a, this.#clock.now());
      } else {
        this.#host.fail(a);
      }
    }
  }

  #close(c: TcpChannel): void {
    c.closed = true;
    this.#channels.delete(c);
    c.partial = Buffer.alloc(0);
    c.socket.destroy();
  }
}
