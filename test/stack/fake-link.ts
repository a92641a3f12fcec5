// A stack with made-up links, a forwarder that records, and a clock that stands still. Frames go in as bytes between canaries, in
// packet memory or elsewhere, and come out parsed; the egress checks that the stack keeps to what it reserved.

import { DROP_NAMES, type Drop } from '../../src/base/drop.ts';
import { Slab } from '../../src/base/slab.ts';
import { parseMac } from '../../src/ethernet/mac.ts';
import { Cidr4, IpAddress, parseV4 } from '../../src/ip/address.ts';
import type {
  CloseReason,
  DatagramMeta,
  Egress,
  FlowOwner,
  LinkInfo,
  LinkPort,
  TcpFlow,
} from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import type { VmPort } from '../../src/stack/vm-port.ts';
import { DEFAULT_TCP_LIMITS, type TcpLimits } from '../../src/tcp/limits.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import * as frames from './frames.ts';

export const GATEWAY = '192.168.65.1';
export const ALIAS = '192.168.65.254';
export const GATEWAY_MAC = 'f6:16:36:bc:f9:c6';
export const OUTSIDE = '203.0.113.9';

const CANARY = 0xa5;
const CANARY_BYTES = 32;
const BATCH_BYTES = 256 * 1024;

/** int32 of a dotted quad. */
export function ip(text: string): number {
  return parseV4(text)!;
}

export function address(text: string): IpAddress {
  return IpAddress.v4(ip(text));
}

/** One batch of packet memory, written out by `flush`; can refuse, and remembers what it sent. */
export class FakeEgress implements Egress {
  refusing = false;
  refusals = 0;
  flushes = 0;
  closed: string | undefined;
  sent: Uint8Array[] = [];
  readonly #mem: Uint8Array;
  readonly #base: number;
  readonly #pending: { off: number; len: number }[] = [];
  #at = 0;
  #reserved = -1;

  constructor(slab: Slab) {
    this.#mem = slab.mem;
    this.#base = slab.alloc(BATCH_BYTES);
  }

  reserve(len: number): number {
    if (len <= 0) throw new Error(`reserve(${len})`);
    this.#checkCanary();
    this.#reserved = -1;
    // 3 bytes between frames: nothing may count on alignment.
    if (this.refusing || this.#at + len + CANARY_BYTES > BATCH_BYTES) {
      this.refusals++;
      return -1;
    }
    this.#reserved = len;
    const off = this.#base + this.#at;
    this.#mem.fill(CANARY, off + len, off + len + CANARY_BYTES);
    return off;
  }

  commit(off: number, len: number): void {
    if (off !== this.#base + this.#at || len > this.#reserved)
      throw new Error(`commit(${off}, ${len}) was not reserved`);
    this.#checkCanary();
    this.#reserved = -1;
    this.#pending.push({ off, len });
    this.#at += len + 3;
  }

  runOffset = 0;
  runStride = 0;

  reserveRun(len: number, count: number): number {
    this.runOffset = this.reserve(len);
    this.runStride = len + 3;
    if (this.runOffset < 0) return 0;
    const n = Math.min(count, Math.floor((BATCH_BYTES - CANARY_BYTES - this.#at) / this.runStride));
    const end = this.runOffset + n * this.runStride - 3;
    this.#mem.fill(CANARY, end, end + CANARY_BYTES);
    this.#reserved = n * this.runStride - 3;
    return n;
  }

  commitRun(off: number, len: number, count: number): void {
    if (off !== this.#base + this.#at || count * (len + 3) - 3 > this.#reserved)
      throw new Error(`commitRun(${off}, ${len}, ${count}) was not reserved`);
    this.#checkCanary();
    this.#reserved = -1;
    for (let i = 0; i < count; i++) this.#pending.push({ off: off + i * (len + 3), len });
    this.#at += count * (len + 3);
  }

  flush(): void {
    this.flushes++;
    for (const { off, len } of this.#pending) this.sent.push(this.#mem.slice(off, off + len));
    this.#pending.length = 0;
    this.#at = 0;
  }

  close(reason: string): void {
    this.closed = reason;
  }

  /** Frames committed and not flushed. */
  get waiting(): number {
    return this.#pending.length;
  }

  #checkCanary(): void {
    if (this.#reserved < 0) return;
    const end = this.#base + this.#at + this.#reserved;
    if (this.#mem.subarray(end, end + CANARY_BYTES).some((b) => b !== CANARY)) {
      throw new Error('the stack wrote behind what it reserved');
    }
  }
}

/** The forwarder's end of a flow: takes what comes, and notes what it is told. */
export class FakeOwner implements FlowOwner {
  readonly flow: TcpFlow;
  readonly events: string[] = [];
  received = '';
  /** Whether it takes what comes. */
  reading = true;
  closedWith: CloseReason | undefined;

  constructor(flow: TcpFlow) {
    this.flow = flow;
    flow.owner = this;
  }

  onEstablished(): void {
    this.events.push('established');
  }

  onReadable(now: number): void {
    const { flow } = this;
    while (this.reading && flow.readable > 0) {
      const at = flow.readableOffset;
      this.received += String.fromCharCode(...flow.mem.subarray(at, at + flow.readable));
      flow.consume(flow.readable, now);
    }
    if (flow.ended && !this.events.includes('ended')) this.events.push('ended');
  }

  onWritable(): void {
    this.events.push('writable');
  }

  onClosed(reason: CloseReason): void {
    this.events.push(`closed ${reason}`);
    this.closedWith = reason;
    this.flow.release();
  }
}

/** A datagram that reached the forwarder or a service. */
export interface Heard {
  vm: number;
  src: string;
  dst: string;
  payload: Uint8Array;
}

export interface RigOptions {
  tcp?: Partial<TcpLimits>;
  hostAlias?: boolean;
  network?: string;
  slabBytes?: number;
  seed?: number;
}

/** One VM on a made-up link. */
export class FakeVm {
  readonly rig: Rig;
  readonly egress: FakeEgress;
  readonly port: LinkPort & VmPort;
  readonly mac: string;
  readonly ip: string;

  constructor(rig: Rig, mac: string, ipText: string, info: Partial<LinkInfo>) {
    this.rig = rig;
    this.mac = mac;
    this.ip = ipText;
    this.egress = new FakeEgress(rig.slab);
    const whole: LinkInfo = { name: 'test', mtu: 1500, mtuTold: false, ...info };
    this.port = rig.stack.attach(this.egress, whole, rig.now) as LinkPort & VmPort;
  }

  /** Hands in one frame between canaries. `inSlab`: in packet memory, as a link does. @throws Error if a canary was touched. */
  input(frame: Uint8Array, inSlab = false): void {
    const { rig } = this;
    const buf = inSlab ? rig.slab.mem : new Uint8Array(frame.length + 2 * CANARY_BYTES + 1);
    // An odd offset: nothing may count on alignment.
    const off = (inSlab ? rig.inputBlock : 0) + CANARY_BYTES + 1;
    const ends = [
      buf.subarray(off - CANARY_BYTES, off),
      buf.subarray(off + frame.length, off + frame.length + CANARY_BYTES),
    ];
    for (const end of ends) end.fill(CANARY);
    buf.set(frame, off);
    this.port.input(buf, off, frame.length, rig.now);
    for (const end of ends) if (end.some((b) => b !== CANARY)) throw new Error('the stack wrote outside of the frame');
    // The frame is gone once the call returns: whoever still reads it reads rubbish.
    buf.fill(0xdb, off, off + frame.length);
  }

  /** Hands in frames as one read, and takes what came back to this VM. */
  send(...list: Uint8Array[]): frames.Frame[] {
    for (const frame of list) this.input(frame);
    this.port.endTurn(this.rig.now);
    return this.take();
  }

  /** What was sent to this VM since the last call. */
  take(): frames.Frame[] {
    return this.egress.sent.splice(0).map((bytes) => {
      const header = frames.parseHeader(bytes);
      return header.src === GATEWAY_MAC ? frames.parseFrame(bytes) : header;
    });
  }

  /** An IPv4 packet of this VM in its frame to the gateway. */
  packet(
    fields: Partial<frames.Ipv4Fields> & { protocol: number },
    payload: ArrayLike<number> & Iterable<number>,
  ): Uint8Array {
    const body = frames.ipv4({ src: this.ip, dst: OUTSIDE, ...fields }, payload);
    return frames.ethernet(GATEWAY_MAC, this.mac, 0x0800, body);
  }

  udp(
    dst: string,
    srcPort: number,
    dstPort: number,
    payload: ArrayLike<number> & Iterable<number>,
    ttl = 64,
  ): Uint8Array {
    return this.packet({ dst, protocol: 17, ttl }, frames.udp({ src: this.ip, dst, srcPort, dstPort }, payload));
  }

  tcp(dst: string, fields: Omit<frames.TcpFields, 'src' | 'dst'>, payload = ''): Uint8Array {
    return this.packet(
      { dst, protocol: 6 },
      frames.tcp({ src: this.ip, dst, ...fields }, new TextEncoder().encode(payload)),
    );
  }

  ping(dst: string, payload: ArrayLike<number> & Iterable<number> = [1, 2, 3], ttl = 64): Uint8Array {
    return this.packet({ dst, protocol: 1, ttl }, frames.icmp(8, 0, 0x0007_0001, payload));
  }

  arp(fields: Partial<frames.ArpFields> & { targetIp: string }, dst = frames.BROADCAST, src = this.mac): Uint8Array {
    return frames.ethernet(dst, src, 0x0806, frames.arp({ senderMac: this.mac, senderIp: this.ip, ...fields }));
  }
}

/** The stack, its shell and its clock. */
export class Rig {
  now = 1000;
  readonly slab: Slab;
  readonly stack: Stack;
  /** Packet memory for frames on their way in. */
  readonly inputBlock: number;
  readonly flows: FakeOwner[] = [];
  readonly heard: Heard[] = [];
  readonly bugs: unknown[] = [];
  readonly gone: number[] = [];
  turnsWanted = 0;
  /** What becomes of a guest's SYN. */
  onSyn: (owner: FakeOwner) => void = (owner) => owner.flow.accept(this.now);
  /** What the forwarder says of a datagram. */
  takesDatagram = true;

  constructor(options: RigOptions = {}) {
    this.slab = new Slab(new Uint8Array(options.slabBytes ?? 16 * 1024 * 1024));
    this.inputBlock = this.slab.alloc(128 * 1024);
    const heard = (meta: DatagramMeta, buf: Uint8Array, off: number, len: number): void => {
      const src = `${meta.src.toString()}:${meta.srcPort}`;
      const dst = `${meta.dst.toString()}:${meta.dstPort}`;
      this.heard.push({ vm: meta.vm.id, src, dst, payload: buf.slice(off, off + len) });
    };
    this.stack = new Stack(
      {
        network: Cidr4.parse(options.network ?? '192.168.65.0/24')!,
        gateway: ip(GATEWAY),
        hostAlias: options.hostAlias === false ? undefined : ip(ALIAS),
        mac: parseMac(GATEWAY_MAC)!,
        tcp: { ...DEFAULT_TCP_LIMITS, ...options.tcp },
      },
      this.slab,
      new SeededRandom(options.seed ?? 1),
      {
        onSyn: (flow) => {
          const owner = new FakeOwner(flow);
          this.flows.push(owner);
          this.onSyn(owner);
        },
      },
      {
        onDatagram: (meta, buf, off, len) => {
          heard(meta, buf, off, len);
          return this.takesDatagram;
        },
        onVmGone: (vm) => this.gone.push(vm.id),
      },
      {
        onTurnWanted: () => {
          this.turnsWanted++;
        },
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => this.bugs.push(error),
      },
    );
    this.stack.udp.serve(67, { onDatagram: heard });
  }

  vm(last = 3, info: Partial<LinkInfo> = {}): FakeVm {
    return new FakeVm(this, `02:00:00:00:00:${last.toString(16).padStart(2, '0')}`, `192.168.65.${last}`, info);
  }

  /** The turn that the stack has asked for. */
  turn(): void {
    if (this.turnsWanted === 0) return;
    this.turnsWanted = 0;
    this.stack.onEndTurn(this.now);
  }

  /** Lets `ms` pass, running what is due on the way. */
  advance(ms: number): void {
    const end = this.now + ms;
    this.turn();
    for (let steps = 0; ; steps++) {
      if (steps > 100_000) throw new Error('the stack names a deadline that never passes');
      const next = this.stack.nextDeadline();
      if (next > end) break;
      this.now = Math.max(this.now, next);
      this.stack.poll(this.now);
      this.turn();
    }
    this.now = end;
  }

  /** Every drop counted so far, by name; and from then on anew. */
  drops(): Record<string, number> {
    const { counts } = this.stack.stats.drops;
    const out: Record<string, number> = {};
    DROP_NAMES.forEach((name, i) => {
      if (counts[i]! > 0) out[name] = counts[i]!;
    });
    counts.fill(0);
    return out;
  }

  dropped(code: Drop): number {
    return this.stack.stats.drops.get(code);
  }
}

/** The guest's side of a handshake that the owner accepts; numbers as after it. */
export interface Talk {
  vm: FakeVm;
  owner: FakeOwner;
  dst: string;
  srcPort: number;
  dstPort: number;
  /** The guest's next sequence number. */
  seq: number;
  /** The stack's next sequence number. */
  ack: number;
}

export function segment(talk: Talk, flags: number, payload = '', more: Partial<frames.TcpFields> = {}): Uint8Array {
  const { srcPort, dstPort, seq, ack } = talk;
  return talk.vm.tcp(talk.dst, { srcPort, dstPort, seq, ack, flags, ...more }, payload);
}

/** Opens a flow of `vm` all the way. */
export function establish(vm: FakeVm, srcPort = 40_000, dst = OUTSIDE, dstPort = 80): Talk {
  const seq = 1000;
  const answers = vm.send(vm.tcp(dst, { srcPort, dstPort, seq, flags: frames.SYN, options: [2, 4, 5, 180] }));
  const synAck = answers.find((f) => f.tcp?.dstPort === srcPort && f.tcp.flags & frames.SYN);
  if (synAck?.tcp === undefined) throw new Error('no SYN-ACK');
  const owner = vm.rig.flows.at(-1)!;
  const talk: Talk = { vm, owner, dst, srcPort, dstPort, seq: seq + 1, ack: (synAck.tcp.seq + 1) | 0 };
  vm.send(segment(talk, frames.ACK));
  if (!owner.events.includes('established')) throw new Error('not established');
  return talk;
}
