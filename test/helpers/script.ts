// Packet scripts: an exchange between a guest and the stack on a virtual clock, with the host's side under the script's hand.
// It owns the world around a flow: the real Stack, a fake link, time, the record of the exchange, and what is asserted in the
// end. docs/packet-scripts.md shows how to write one.

import t from 'tap';
import type { Millis } from '../../src/base/clock.ts';
import { Slab } from '../../src/base/slab.ts';
import { Cidr4, IpAddress, parseV4 } from '../../src/ip/address.ts';
import type { DatagramAcceptor, FlowAcceptor, LinkPort } from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import type { Connection } from '../../src/tcp/connection.ts';
import type { CloseReason, TcpFlow } from '../../src/tcp/flow.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { STATE_NAMES } from '../../src/tcp/state.ts';
import { ManualClock } from './manual-clock.ts';
import {
  arpRequest,
  checksum,
  FrameError,
  type IcmpMessage,
  icmpError,
  ipv4Frame,
  RST,
  readIpv4,
  readTcp,
} from './peer-frame.ts';
import { ScriptError } from './script-error.ts';
import {
  type Expectation,
  type FlowOptions,
  type FlowWorld,
  type GuestSegment,
  type Handshake,
  ScriptFlow,
} from './script-flow.ts';
import type { HostWorld, ScriptHost } from './script-host.ts';
import { ScriptLink } from './script-link.ts';
import { GATEWAY_IP, GUEST_IP, ISN_PAIRS, REMOTE_IP, type ScriptOptions } from './script-options.ts';
import { ScriptRecord } from './script-record.ts';
import { SeededRandom } from './seeded-random.ts';

const GUEST_MAC = Uint8Array.of(2, 0, 0, 0, 0, 3);
const STACK_MAC = Uint8Array.of(2, 0, 0, 0, 0, 1);

/** Runs `body` as one test, once for each pair of ISNs. */
export function script(title: string, body: (s: Script) => void): void;
export function script(title: string, options: ScriptOptions, body: (s: Script) => void): void;
export function script(title: string, a: ScriptOptions | ((s: Script) => void), b?: (s: Script) => void): void {
  const options = typeof a === 'function' ? {} : a;
  const body = typeof a === 'function' ? a : b!;
  t.test(title, (t) => {
    for (const pair of options.once ? ISN_PAIRS.slice(2) : ISN_PAIRS) {
      const s = new Script(options, pair[0], pair[1]);
      const name = `guest's ISN ${pair[0]}, ours ${pair[1]}`;
      try {
        body(s);
        s.finish();
        t.pass(name);
      } catch (error) {
        const what = error instanceof Error ? error : new Error(String(error));
        t.fail(`${what.message} (${name})`, { exchange: s.transcript(), stack: what.stack ?? '' });
        break;
      }
    }
    t.end();
  });
}

export class Script implements HostWorld, FlowWorld {
  readonly clock: ManualClock = new ManualClock();
  readonly stack: Stack;
  readonly mtu: number;
  readonly guestIp: number = GUEST_IP;
  readonly port: LinkPort;
  /** The first flow; `guest`, `expect`, `host` and so on are its own. */
  readonly flow: ScriptFlow;
  readonly icmp: IcmpMessage[] = [];
  /** SYNs announced to the host, of all flows. */
  dials = 0;
  readonly #flows = new Map<string, ScriptFlow>();
  readonly #options: ScriptOptions;
  readonly #isns: readonly [number, number];
  readonly #record = new ScriptRecord();
  readonly #slab: Slab;
  readonly #slabUsedAtStart: number;
  readonly #link: ScriptLink;
  readonly #in: number;
  #failure: Error | undefined;
  #turnWanted = false;
  #batching = false;
  #answeringRst = false;
  #active: ScriptFlow | undefined;
  #nextPort = 40_001;

  constructor(options: ScriptOptions, guestIsn: number, ourIsn: number) {
    this.#options = options;
    this.#isns = [guestIsn, ourIsn];
    this.mtu = options.mtu ?? 1500;
    this.#slab = new Slab(new Uint8Array(options.memory ?? 16 * 1024 * 1024));
    this.#link = new ScriptLink(
      this.#slab,
      (frame) => this.#onFrame(frame),
      (error) => this.#fail(error),
    );
    this.#in = this.#slab.alloc(65_536 * 2);
    this.#slabUsedAtStart = this.#slab.usedBytes;
    const flows: FlowAcceptor = { onSyn: (flow, now) => this.#onSyn(flow, now) };
    const datagrams: DatagramAcceptor = { onDatagram: () => false, onVmGone: () => {} };
    this.stack = new Stack(
      {
        network: Cidr4.parse('192.168.65.0/24')!,
        gateway: GATEWAY_IP | 0,
        hostAlias: parseV4('192.168.65.254'),
        mac: STACK_MAC,
        tcp: { ...DEFAULT_TCP_LIMITS, ...options.limits },
      },
      this.#slab,
      new SeededRandom(options.seed ?? 1),
      flows,
      datagrams,
      {
        onTurnWanted: () => {
          this.#turnWanted = true;
        },
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => this.#fail(error),
      },
    );
    if (!options.realIsn) this.stack.tcp.isn = (c) => this.#ourIsn(c);
    this.port = this.stack.attach(this.#link, { name: 'script', mtu: this.mtu, mtuTold: true }, this.now);
    this.flow = this.newFlow({ guestPort: 40_000, remotePort: 80 });
    // The guest makes itself known.
    this.#input(arpRequest(GUEST_MAC, GUEST_IP, GATEWAY_IP));
  }

  get now(): number {
    return this.clock.time;
  }

  get tcp(): Stack['tcp'] {
    return this.stack.tcp;
  }

  /** The connection of the first flow, for what has no place on the wire; undefined once it is gone. */
  get connection(): Connection | undefined {
    return this.connectionOf(this.flow);
  }

  connectionOf(f: ScriptFlow): Connection | undefined {
    return this.tcp.table.find(IpAddress.v4(GUEST_IP), f.guestPort, IpAddress.v4(f.remote), f.remotePort);
  }

  // --- The first flow's own.

  get host(): ScriptHost {
    return this.flow.host;
  }

  guest(g: GuestSegment): void {
    this.flow.guest(g);
  }

  expect(e: Expectation): ReturnType<ScriptFlow['expect']> {
    return this.flow.expect(e);
  }

  lose(e: Expectation): ReturnType<ScriptFlow['lose']> {
    return this.flow.lose(e);
  }

  expectRst(e: Expectation = {}): ReturnType<ScriptFlow['expect']> {
    return this.flow.expectRst(e);
  }

  expectAfter(ms: number, e: Expectation, tolerance?: number): ReturnType<ScriptFlow['expect']> {
    return this.flow.expectAfter(ms, e, tolerance);
  }

  expectWithin(ms: number, e: Expectation): ReturnType<ScriptFlow['expect']> {
    return this.flow.expectWithin(ms, e);
  }

  drain(): ReturnType<ScriptFlow['drain']> {
    return this.flow.drain();
  }

  establish(h: Handshake = {}): void {
    this.flow.establish(h);
  }

  // --- More flows.

  /** Another flow; ports and ISNs are chosen unless given. */
  newFlow(o: Partial<FlowOptions> = {}): ScriptFlow {
    const f = new ScriptFlow(this, {
      guestPort: o.guestPort ?? this.#nextPort++,
      remotePort: o.remotePort ?? 80,
      remote: o.remote ?? REMOTE_IP,
      guestIsn: o.guestIsn ?? this.#isns[0],
      ourIsn: o.ourIsn ?? this.#isns[1],
      verifyPayload: o.verifyPayload ?? this.#options.verifyPayload ?? true,
      wild: o.wild ?? false,
    });
    this.#flows.set(key(f.guestPort, f.remote, f.remotePort), f);
    return f;
  }

  /** The host opens a connection to a guest's port, from the gateway's address: our SYN goes out. */
  connect(guestPort = 8080): ScriptFlow {
    // Our port is known only when the SYN has left: until then the frame finds the flow here.
    const f = new ScriptFlow(this, {
      guestPort,
      remotePort: 0,
      remote: GATEWAY_IP,
      guestIsn: this.#isns[0],
      ourIsn: this.#isns[1],
      verifyPayload: true,
      wild: false,
    });
    this.#active = f;
    this.log('H  connect');
    const flow = this.stack.connect(IpAddress.v4(GATEWAY_IP), IpAddress.v4(GUEST_IP), guestPort, this.now);
    this.#active = undefined;
    if (!flow) throw new ScriptError('the stack opened no connection');
    f.remotePort = flow.remotePort;
    this.#flows.set(key(guestPort, GATEWAY_IP, flow.remotePort), f);
    f.host.adopt(flow);
    this.settle();
    return f;
  }

  // --- Time.

  /** Lets `ms` pass; everything due happens when it is due. */
  advance(ms: number): void {
    this.log(`-- ${ms} ms`);
    this.run(this.now + ms, () => false);
  }

  /** The clock jumps: what was due in between happens late, once. */
  jump(ms: number): void {
    this.log(`-- jump ${ms} ms`);
    this.clock.advance(ms);
    this.stack.poll(this.now);
    this.settle();
  }

  run(until: number, stop: () => boolean): void {
    for (let steps = 0; !stop(); steps++) {
      if (steps > 2_000_000) throw new ScriptError('deadlines without end');
      const next = this.stack.nextDeadline();
      if (next > until) {
        this.clock.advance(until - this.now);
        return;
      }
      this.clock.advance(next - this.now);
      this.stack.poll(this.now);
      this.settle();
    }
  }

  /** Nothing at all is sent for `ms` from now on, and nothing is left that was not expected. */
  expectSilence(ms = 0): void {
    this.#expectNothing();
    if (ms > 0) this.log(`-- silence for ${ms} ms`);
    this.run(this.now + ms, () => this.#anyPending());
    this.#expectNothing();
  }

  /** Frames of the guest's inside `what` arrive in one read. */
  batch(what: () => void): void {
    this.#batching = true;
    try {
      what();
    } finally {
      this.#batching = false;
    }
    this.port.endTurn(this.now);
    this.settle();
  }

  /** The link stops, or goes on, taking frames. */
  link(draining: boolean): void {
    this.log(draining ? '-- link drains' : '-- link blocked');
    this.#link.draining = draining;
    if (draining) this.port.writable(this.now);
    this.settle();
  }

  // --- ICMP.

  /** The guest reports an error about a segment of ours with relative sequence number `seq`. */
  guestIcmp(o: {
    type: number;
    code: number;
    mtu?: number;
    seq: number;
    totalLength?: number;
    flow?: ScriptFlow;
    guestPort?: number;
  }): void {
    const f = o.flow ?? this.flow;
    const p = icmpError({
      type: o.type,
      code: o.code,
      mtu: o.mtu ?? 0,
      src: f.remote,
      dst: GUEST_IP,
      srcPort: f.remotePort,
      dstPort: o.guestPort ?? f.guestPort,
      seq: f.ourIsn + o.seq,
      ...(o.totalLength !== undefined && { totalLength: o.totalLength }),
    });
    this.log(`V> ICMP ${o.type}/${o.code} about ${o.seq}${o.mtu === undefined ? '' : ` mtu ${o.mtu}`}`);
    this.#input(
      ipv4Frame({ dstMac: STACK_MAC, srcMac: GUEST_MAC, src: GUEST_IP, dst: GATEWAY_IP, protocol: 1, payload: p }),
    );
  }

  /** The next ICMP message of ours. */
  expectIcmp(type: number, code: number): IcmpMessage {
    const m = this.icmp.shift();
    if (!m) throw new ScriptError(`no ICMP was sent; expected ${type}/${code}`);
    if (m.type !== type || m.code !== code) throw new ScriptError(`ICMP ${m.type}/${m.code}; expected ${type}/${code}`);
    return m;
  }

  // --- The end.

  /** The state of the first flow, by name; `gone` when there is none. */
  expectState(name: string, f: ScriptFlow = this.flow): void {
    const c = this.connectionOf(f);
    const state = c ? STATE_NAMES[c.state]! : 'gone';
    if (state !== name) throw new ScriptError(`the flow is ${state}, not ${name}`);
  }

  expectFlows(n: number): void {
    if (this.tcp.table.size !== n) throw new ScriptError(`${this.tcp.table.size} flows, expected ${n}`);
  }

  /** No flow, no timer, no open in progress, no packet memory; hosts were told. */
  expectClean(): void {
    this.#expectNothing();
    this.expectFlows(0);
    if (this.tcp.opening !== 0) throw new ScriptError(`${this.tcp.opening} opens in progress`);
    if (this.tcp.timeWaits !== 0) throw new ScriptError(`${this.tcp.timeWaits} flows in TIME-WAIT`);
    if (this.tcp.deadlines.size !== 0) throw new ScriptError(`${this.tcp.deadlines.size} timers left`);
    const held = this.#slab.usedBytes - this.#slabUsedAtStart;
    if (held !== 0) throw new ScriptError(`${held} bytes of packet memory are still held`);
  }

  /** Packet memory held by flows now. */
  get heldBytes(): number {
    return this.#slab.usedBytes - this.#slabUsedAtStart;
  }

  /** The flow has ended by itself: TIME-WAIT passes, and nothing is left. */
  expectClosedCleanly(reason: CloseReason = 'done'): void {
    this.host.expectClosed(reason);
    this.expectSilence(61_000);
    this.expectClean();
  }

  /** What every script ends with: nothing unexpected was sent, and stopping leaves nothing behind. */
  finish(): void {
    this.#expectNothing();
    this.log('-- stop');
    this.stack.stop(this.now);
    for (const f of this.#flows.values()) f.pending.length = 0;
    this.icmp.length = 0;
    this.expectClean();
    if (this.stack.stats.bugs > 0) throw new ScriptError(`${this.stack.stats.bugs} bugs were counted`);
  }

  // --- The record.

  log(line: string): void {
    this.#record.add(this.now, line);
  }

  /** The exchange; the line it failed at is marked. */
  transcript(): string {
    let left = 0;
    for (const f of this.#flows.values()) left += f.pending.length;
    return this.#record.text(left);
  }

  // --- Inside.

  settle(): void {
    for (let rounds = 0; this.#turnWanted && !this.#batching; rounds++) {
      if (rounds > 1000) throw new ScriptError('turns without end');
      this.#turnWanted = false;
      this.stack.onEndTurn(this.now);
    }
    if (this.#failure) {
      const failure = this.#failure;
      this.#failure = undefined;
      throw failure;
    }
  }

  send(segment: Uint8Array, dst: number, rst: boolean, padding: number, mutate?: (frame: Uint8Array) => void): void {
    const frame = ipv4Frame({
      dstMac: STACK_MAC,
      srcMac: GUEST_MAC,
      src: GUEST_IP,
      dst,
      protocol: 6,
      payload: segment,
      padding,
    });
    mutate?.(frame);
    this.#answeringRst = rst && !this.#batching;
    this.#input(frame);
    this.#answeringRst = false;
  }

  /** One frame, as it is. */
  raw(frame: Uint8Array): void {
    this.log(`V> frame of ${frame.length} bytes`);
    this.#input(frame);
  }

  #input(frame: Uint8Array): void {
    // As the link does: frames lie in the packet memory, at any offset.
    const { mem } = this.#slab;
    const off = this.#in + 2 + (frame.length & 7);
    mem.set(frame, off);
    this.port.input(mem, off, frame.length, this.now);
    if (this.#batching) return;
    this.port.endTurn(this.now);
    this.settle();
  }

  #onSyn(flow: TcpFlow, now: Millis): void {
    this.dials++;
    const f = this.#flows.get(key(flow.guestPort, flow.remote.v4 >>> 0, flow.remotePort));
    if (!f) {
      flow.refuse('refused', now);
      return;
    }
    f.host.adopt(flow);
    this.log('H  <- dial');
    const { dial = 'hold' } = this.#options;
    if (dial === 'accept') flow.accept(now);
    else if (dial !== 'hold') flow.refuse(dial, now);
  }

  #ourIsn(c: Connection): number {
    const f = this.#active ?? this.#flows.get(key(c.guestPort, c.remote.v4 >>> 0, c.remotePort));
    return (f?.ourIsn ?? this.#isns[1]) | 0;
  }

  #onFrame(frame: Uint8Array): void {
    try {
      if (((frame[12]! << 8) | frame[13]!) !== 0x0800) return;
      const ip = readIpv4(frame, this.mtu);
      if (ip.dst !== GUEST_IP) throw new FrameError('sent to somebody else');
      if (ip.protocol === 1) return this.#onIcmp(ip.src, ip.payload);
      const s = readTcp(frame, this.mtu, this.now);
      const f = this.#flows.get(key(s.dstPort, s.src, s.srcPort)) ?? this.#active;
      if (!f) throw new FrameError(`segment of an unknown flow, from port ${s.srcPort} to ${s.dstPort}`);
      f.onOurs(s);
      if (s.flags & RST && this.#answeringRst) throw new FrameError('a RST in answer to a RST');
    } catch (error) {
      this.#fail(error);
    }
  }

  #onIcmp(src: number, p: Uint8Array): void {
    if (checksum(p) !== 0) throw new FrameError('ICMP checksum is wrong');
    const mtu = (p[6]! << 8) | p[7]!;
    this.log(`S> ICMP ${p[0]}/${p[1]}`);
    this.icmp.push({ at: this.now, src, type: p[0]!, code: p[1]!, mtu, quote: p.slice(8) });
  }

  #fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
  }

  #anyPending(): boolean {
    if (this.icmp.length > 0) return true;
    for (const f of this.#flows.values()) if (f.pending.length > 0) return true;
    return false;
  }

  #expectNothing(): void {
    if (this.icmp.length > 0) throw new ScriptError('ICMP was sent, and not expected');
    for (const f of this.#flows.values()) f.expectNothing();
  }
}

function key(guestPort: number, remote: number, remotePort: number): string {
  return `${guestPort}-${remote}-${remotePort}`;
}
