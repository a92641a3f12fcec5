// Servers and flows for the tests of the DNS service: a wire server on loopback, a service on the real clock with one timer, and
// a TCP flow in memory that behaves as the stack's do.

import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket, type Server as TcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Clock, Millis } from '../../src/base/clock.ts';
import { DnsService, type DnsServiceOptions } from '../../src/forwarder/dns-service.ts';
import { HostRandom } from '../../src/host/host-random.ts';
import { udpHandles } from '../../src/host/udp-handles.ts';
import type { IpAddress } from '../../src/ip/address.ts';
import type { CloseReason, DatagramMeta, FlowOwner, LinkPort, RefuseReason, TcpFlow } from '../../src/stack/ports.ts';
import { Guests, ip, localNames } from '../dns/rig.ts';
import { context } from './udp-rig.ts';

/** Answers a query over UDP or TCP; undefined: silence. */
export type Answer = (
  query: Buffer,
  tcp: boolean,
  from: RemoteInfo | undefined,
) => Buffer | undefined | Promise<Buffer | undefined>;

/** A DNS server on 127.0.0.1, UDP and TCP on one port. */
export class WireServer {
  readonly udp: UdpSocket;
  readonly tcp: TcpServer;
  readonly ports = new Set<number>();
  readonly ids = new Set<number>();
  queries = 0;
  tcpConnections = 0;
  tcpQueries = 0;
  port = 0;
  readonly #sockets = new Set<Socket>();
  #closed = false;

  constructor(answer: Answer) {
    this.udp = createSocket('udp4');
    this.udp.on('message', (m, from) => {
      this.queries++;
      this.ports.add(from.port);
      this.ids.add(m.readUInt16BE(0));
      void Promise.resolve(answer(m, false, from)).then((a) => {
        // An answer that was on its way when the test closed the server has nobody to go to.
        if (a && !this.#closed) this.udp.send(a, from.port, from.address);
      });
    });
    this.tcp = createServer((s) => {
      this.tcpConnections++;
      this.#sockets.add(s);
      s.on('close', () => this.#sockets.delete(s));
      s.on('error', () => s.destroy());
      let held: Buffer = Buffer.alloc(0);
      s.on('data', (chunk) => {
        held = Buffer.concat([held, chunk]);
        while (held.length >= 2 && held.length >= 2 + held.readUInt16BE(0)) {
          const q = held.subarray(2, 2 + held.readUInt16BE(0));
          held = held.subarray(2 + q.length);
          this.tcpQueries++;
          void Promise.resolve(answer(q, true, undefined)).then((a) => {
            if (a && !s.destroyed) s.write(framed(a));
          });
        }
      });
    });
  }

  /** @param port 0 for a free one. */
  async listen(port = 0): Promise<this> {
    await new Promise<void>((done) => this.tcp.listen(port, '127.0.0.1', done));
    const address = this.tcp.address();
    this.port = typeof address === 'object' && address ? address.port : 0;
    await new Promise<void>((done) => this.udp.bind(this.port, '127.0.0.1', done));
    return this;
  }

  get text(): string {
    return `127.0.0.1#${this.port}`;
  }

  dropConnections(): void {
    for (const s of this.#sockets) s.destroy();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.dropConnections();
    await Promise.all([
      new Promise<void>((done) => this.udp.close(done)),
      new Promise<unknown>((done) => this.tcp.close(done)),
    ]);
  }
}

export function framed(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]);
}

/** Waits until `what` holds; the loop's turns do the waiting. */
export async function until(what: () => boolean, limitMs = 5000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!what()) {
    if (performance.now() > end) throw new Error('waited in vain');
    await new Promise((done) => setTimeout(done, 2));
  }
}

export const VM: LinkPort = { id: 1, input() {}, endTurn() {}, writable() {}, close() {} };

/** A service with files in a folder of its own, and one timer. */
export class ServiceRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'dns-'));
  readonly resolvConf = join(this.dir, 'resolv.conf');
  readonly hosts = join(this.dir, 'hosts');
  readonly guests = new Guests();
  /** Answers by the guest's port. */
  readonly answers = new Map<number, Buffer>();
  readonly answeredAt = new Map<number, number>();
  readonly from: string[] = [];
  readonly events: string[] = [];
  readonly clock: Clock = { now: () => performance.now() + this.skipMs };
  skipMs = 0;
  readonly service: DnsService;
  #timer: NodeJS.Timeout | undefined;
  #port = 1000;

  constructor(options: Partial<DnsServiceOptions> & { resolvConf?: string; hosts?: string } = {}) {
    const { resolvConf, hosts, ...rest } = options;
    if (resolvConf !== undefined) writeFileSync(this.resolvConf, resolvConf);
    if (hosts !== undefined) writeFileSync(this.hosts, hosts);
    this.service = new DnsService({
      sender: {
        sendDatagram: (src, srcPort, _dst, dstPort, buf, off, len) => {
          this.from.push(`${src.toString()}:${srcPort}`);
          this.answers.set(dstPort, Buffer.from(buf.slice(off, off + len)));
          this.answeredAt.set(dstPort, performance.now());
          return true;
        },
        sendUnreachable: () => {},
      },
      clock: this.clock,
      random: new HostRandom(),
      sockets: context(udpHandles()),
      names: localNames(this.guests),
      resolvConfPath: this.resolvConf,
      hostsPath: this.hosts,
      onDeadlineChanged: () => this.#arm(),
      log: (_level, event) => this.events.push(event),
      ...rest,
    });
    this.service.start();
  }

  /** Sends one datagram as a guest would. @returns the guest's port. */
  send(q: Uint8Array): number {
    const port = this.#port++;
    const meta: DatagramMeta = {
      vm: VM,
      macBuf: new Uint8Array(6),
      macOff: 0,
      src: ip('192.168.65.3'),
      srcPort: port,
      dst: ip('192.168.65.1'),
      dstPort: 53,
    };
    this.service.onDatagram(meta, q, 0, q.length, this.clock.now());
    return port;
  }

  async ask(q: Uint8Array, limitMs?: number): Promise<Buffer> {
    const port = this.send(q);
    await until(() => this.answers.has(port), limitMs);
    return this.answers.get(port)!;
  }

  poll(): void {
    this.service.poll(this.clock.now());
    this.#arm();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.service.close();
    rmSync(this.dir, { recursive: true, force: true });
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const next = this.service.nextDeadline();
    if (next === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.poll(), Math.max(0, next - this.clock.now()));
  }
}

/** A TCP flow in memory: the receive side shows at most `piece` bytes at a time, the send side takes `window` bytes. */
export class FakeFlow implements TcpFlow {
  readonly guest: IpAddress = ip('192.168.65.3');
  readonly guestPort = 40_000;
  readonly remote: IpAddress = ip('192.168.65.1');
  readonly remotePort = 53;
  readonly vm = VM;
  owner: FlowOwner | undefined = undefined;
  readonly roomOffset = 0;
  mem: Uint8Array = new Uint8Array(1024);
  piece = Number.POSITIVE_INFINITY;
  window = Number.POSITIVE_INFINITY;
  accepted = false;
  refused: RefuseReason | undefined = undefined;
  fin = false;
  orphaned = false;
  aborted: CloseReason | undefined = undefined;
  out: Buffer = Buffer.alloc(0);
  #in: Buffer = Buffer.alloc(0);
  #guestFin = false;

  accept(): void {
    this.accepted = true;
  }
  refuse(reason: RefuseReason): void {
    this.refused = reason;
  }
  get readableOffset(): number {
    return 100;
  }
  get readable(): number {
    const n = Math.min(this.piece, this.#in.length);
    if (this.mem.length < 100 + n) this.mem = new Uint8Array(100 + n);
    // The ring may have moved since: only what is readable now is there.
    this.mem.fill(0xee);
    this.mem.set(this.#in.subarray(0, n), 100);
    return n;
  }
  get ended(): boolean {
    return this.#guestFin && this.#in.length === 0;
  }
  get unread(): number {
    return this.#in.length;
  }
  consume(len: number): void {
    if (len > this.#in.length) throw new Error('consumed what is not there');
    this.#in = this.#in.subarray(len);
  }
  readonly writableLimit = 65_536;
  readonly writable = 0;
  pin(): void {}
  awaitWritable(): void {}
  release(): void {}
  room(): number {
    return 0;
  }
  commit(): void {}
  write(buf: Uint8Array, off: number, len: number): number {
    if (this.fin || this.aborted) throw new Error('write after the end');
    const n = Math.min(len, this.window);
    this.window -= n;
    this.out = Buffer.concat([this.out, buf.subarray(off, off + n)]);
    return n;
  }
  shutdown(): void {
    if (this.fin) throw new Error('shut down twice');
    this.fin = true;
  }
  abort(reason: CloseReason): void {
    if (this.aborted) throw new Error('aborted twice');
    this.aborted = reason;
  }
  orphan(): void {
    this.orphaned = true;
  }

  /** The guest sends. */
  push(bytes: Uint8Array, now: Millis): void {
    this.#in = Buffer.concat([this.#in, bytes]);
    this.owner?.onReadable(now);
  }
  end(now: Millis): void {
    this.#guestFin = true;
    this.owner?.onReadable(now);
  }
  open(bytes: number, now: Millis): void {
    this.window += bytes;
    this.owner?.onWritable(now);
  }

  /** Whole messages that have come out. */
  get messages(): Buffer[] {
    const list: Buffer[] = [];
    for (let at = 0; at + 2 <= this.out.length; ) {
      const len = this.out.readUInt16BE(at);
      if (at + 2 + len > this.out.length) break;
      list.push(this.out.subarray(at + 2, at + 2 + len));
      at += 2 + len;
    }
    return list;
  }
}
