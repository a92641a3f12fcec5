// One scripted flow: segments of the guest's with relative sequence numbers and sensible defaults, and what is expected of ours.
// Each side's SYN is 0, its first byte 1. docs/packet-scripts.md shows how it reads.

import {
  ACK,
  CWR,
  ECE,
  FIN,
  PSH,
  RST,
  type Segment,
  SYN,
  segmentText,
  tcpOptions,
  tcpSegment,
  URG,
} from './peer-frame.ts';
import { ScriptError } from './script-error.ts';
import { ScriptHost } from './script-host.ts';
import { guestByte, streamBytes } from './stream-pattern.ts';
import { WireChecks } from './wire-checks.ts';

/** A segment of the guest's. Every field is optional. */
export interface GuestSegment {
  /** Default: behind what the guest sent last. */
  seq?: number;
  /** Default: everything received so far is acknowledged (but for SYN and RST); false: no ACK bit. */
  ack?: number | false;
  syn?: boolean;
  fin?: boolean;
  rst?: boolean;
  psh?: boolean;
  /** Urgent bit, with this pointer. */
  urg?: number;
  ece?: boolean;
  cwr?: boolean;
  /** All flags at once, instead of the above. */
  flags?: number;
  /** Window field as on the wire; default: the last one. */
  win?: number;
  /** Bytes of the pattern, or these very bytes. */
  data?: number | Uint8Array;
  mss?: number;
  ws?: number;
  sackOk?: boolean;
  /** [TSval, TSecr]; true: by the virtual clock; false: none. Default: true once agreed upon. */
  ts?: readonly [number, number] | boolean;
  /** Blocks relative to our ISN. */
  sack?: readonly (readonly [number, number])[];
  /** Raw option bytes in front of the others. */
  options?: readonly number[];
  reserved?: number;
  dataOffset?: number;
  /** Changes the finished frame (checksums are done). */
  mutate?: (frame: Uint8Array) => void;
  /** Bytes of Ethernet padding. */
  padding?: number;
}

/** What is expected of one segment of ours. SYN, FIN, RST and payload must be as said; other fields only where named. */
export interface Expectation {
  syn?: boolean;
  synAck?: boolean;
  fin?: boolean;
  rst?: boolean;
  psh?: boolean;
  seq?: number;
  /** As on the wire, for a RST with sequence number 0. */
  rawSeq?: number;
  /** false: no ACK bit. */
  ack?: number | false;
  /** Payload bytes; default 0. */
  data?: number;
  /** Window field as on the wire. */
  win?: number;
  /** Window in bytes. */
  window?: number;
  mss?: number;
  /** false: absent. */
  ws?: number | false;
  sackOk?: boolean;
  /** false: absent; a number: TSecr. */
  ts?: number | boolean;
  /** Blocks relative to the guest's ISN, all of them in order; [] for none. */
  sack?: readonly (readonly [number, number])[];
}

/** What a flow needs of its script. */
export interface FlowWorld {
  readonly now: number;
  readonly mtu: number;
  readonly guestIp: number;
  log(line: string): void;
  settle(): void;
  /** Sends a TCP segment of the guest's to `dst`. `rst`: nothing may answer it with a RST. */
  send(segment: Uint8Array, dst: number, rst: boolean, padding: number, mutate?: (frame: Uint8Array) => void): void;
  /** Lets time pass until `until` or the first frame of ours. */
  run(until: number, stop: () => boolean): void;
}

export interface FlowOptions {
  guestPort: number;
  remotePort: number;
  /** uint32. */
  remote: number;
  guestIsn: number;
  ourIsn: number;
  verifyPayload: boolean;
  /** The guest breaks its own word: only the form of what we send is checked. */
  wild: boolean;
}

/** What a handshake by `establish` offers. */
export interface Handshake {
  mss?: number | false;
  ws?: number | false;
  sackOk?: boolean;
  ts?: boolean;
  /** Raw window of the SYN and of what follows. */
  win?: number;
}

export class ScriptFlow {
  readonly host: ScriptHost;
  readonly guestPort: number;
  remotePort: number;
  readonly remote: number;
  guestIsn: number;
  ourIsn: number;
  /** Frames that no expectation has taken yet. */
  readonly pending: Segment[] = [];
  readonly checks: WireChecks;
  /** Relative number of the guest's next byte. */
  guestNext = 0;
  /** Relative number up to which the guest has everything: what it acknowledges by default. */
  received = 0;
  lastWin = 64_240;
  #lastTsVal = 0;
  #tsBase: number;
  readonly #world: FlowWorld;

  constructor(world: FlowWorld, o: FlowOptions) {
    this.#world = world;
    this.guestPort = o.guestPort;
    this.remotePort = o.remotePort;
    this.remote = o.remote;
    this.guestIsn = o.guestIsn;
    this.ourIsn = o.ourIsn;
    this.#tsBase = 0xffff_ff00 - Math.floor(world.now);
    this.host = new ScriptHost(world);
    this.checks = new WireChecks({ mtu: world.mtu, payload: o.verifyPayload, wild: o.wild });
  }

  /** The guest starts anew on the same 4-tuple, with other ISNs. */
  renew(guestIsn: number, ourIsn = this.ourIsn): void {
    this.guestIsn = guestIsn >>> 0;
    this.ourIsn = ourIsn >>> 0;
    this.guestNext = 0;
    this.received = 0;
    this.checks.reset();
  }

  /** The guest's TSval now: milliseconds. It wraps a quarter of a second after a script's start, unless the script sets one. */
  get tsVal(): number {
    return (this.#tsBase + Math.floor(this.#world.now)) >>> 0;
  }

  /** Our last TSval that the guest has seen. */
  get tsSeen(): number {
    return this.#lastTsVal;
  }

  // --- The guest speaks.

  guest(g: GuestSegment): void {
    const flags =
      g.flags ??
      (g.syn ? SYN : 0) |
        (g.fin ? FIN : 0) |
        (g.rst ? RST : 0) |
        (g.psh ? PSH : 0) |
        (g.urg !== undefined ? URG : 0) |
        (g.ece ? ECE : 0) |
        (g.cwr ? CWR : 0) |
        (typeof g.ack === 'number' || (g.ack === undefined && !g.syn && !g.rst) ? ACK : 0);
    const rel = g.seq ?? this.guestNext;
    const payload = typeof g.data === 'number' ? streamBytes(guestByte, rel, g.data) : (g.data ?? new Uint8Array(0));
    const ack = typeof g.ack === 'number' ? g.ack : this.received;
    if (g.win !== undefined) this.lastWin = g.win;
    let ts: readonly [number, number] | undefined;
    if (typeof g.ts === 'object') {
      ts = g.ts;
      if (g.syn) this.#tsBase = g.ts[0] - Math.floor(this.#world.now);
    }
    if (typeof g.ts !== 'object' && (g.ts ?? (this.checks.ts && !(flags & RST))))
      ts = [this.tsVal, flags & ACK ? this.#lastTsVal : 0];
    const our = (n: number): number => (this.ourIsn + n) >>> 0;
    const segment: Segment = {
      at: this.#world.now,
      src: this.#world.guestIp,
      dst: this.remote,
      srcPort: this.guestPort,
      dstPort: this.remotePort,
      seq: (this.guestIsn + rel) >>> 0,
      ack: flags & ACK ? our(ack) : 0,
      flags,
      win: this.lastWin,
      urgent: g.urg ?? 0,
      sackOk: g.sackOk ?? false,
      sack: (g.sack ?? []).map(([l, r]): [number, number] => [our(l), our(r)]),
      optionBytes: 0,
      payload,
      frame: new Uint8Array(0),
    };
    if (g.mss !== undefined) segment.mss = g.mss;
    if (g.ws !== undefined) segment.ws = g.ws;
    if (ts) segment.ts = [ts[0], ts[1]];
    const { mss, ws, sackOk, sack } = segment;
    const options = tcpOptions({
      ...(mss !== undefined && { mss }),
      ...(ws !== undefined && { ws }),
      ...(ts && { ts }),
      ...(g.options && { raw: g.options }),
      sackOk,
      sack,
    });
    const wire = tcpSegment({
      src: segment.src,
      dst: segment.dst,
      srcPort: segment.srcPort,
      dstPort: segment.dstPort,
      seq: segment.seq,
      ack: segment.ack,
      flags,
      win: segment.win,
      options,
      payload,
      urgent: segment.urgent,
      ...(g.dataOffset !== undefined && { dataOffset: g.dataOffset }),
      ...(g.reserved !== undefined && { reserved: g.reserved }),
    });
    this.#world.log(`V> ${segmentText(segment, this.guestIsn, this.ourIsn)}${g.mutate ? ' (changed)' : ''}`);
    if (!g.mutate) this.checks.onGuest(segment);
    const end = rel + payload.length + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0);
    if (!(flags & RST) && !g.mutate && end > this.guestNext) this.guestNext = end;
    this.#world.send(wire, this.remote, (flags & RST) !== 0, g.padding ?? 0, g.mutate);
  }

  /** `bytes` of the guest's stream in segments of `size`, each in a read of its own. */
  guestSends(bytes: number, size = 1460): void {
    for (let left = bytes; left > 0; left -= size) this.guest({ data: Math.min(left, size) });
  }

  // --- We answer.

  /** A frame of ours has left. */
  onOurs(s: Segment): void {
    if (s.flags & SYN) this.ourIsn = s.seq;
    this.#world.log(`S> ${segmentText(s, this.ourIsn, this.guestIsn)}`);
    this.pending.push(s);
    this.checks.onOurs(s, this.ourIsn);
  }

  /** The next segment of ours, which must have left already, is this one; the guest receives it. */
  expect(e: Expectation): Segment {
    const s = this.#take(e);
    this.#receive(s);
    return s;
  }

  /** As `expect`, but the segment is lost on its way: the guest does not have it. */
  lose(e: Expectation): Segment {
    return this.#take(e);
  }

  /** A RST. */
  expectRst(e: Expectation = {}): Segment {
    return this.expect({ ...e, rst: true });
  }

  /** Silence for `ms` less 10 %, then this segment before `ms` plus 10 %. */
  expectAfter(ms: number, e: Expectation, tolerance = 0.1): Segment {
    this.expectNothing();
    const start = this.#world.now;
    this.#world.run(start + ms * (1 + tolerance) + 1, () => this.pending.length > 0);
    const early = this.pending[0];
    if (early && early.at < start + ms * (1 - tolerance) - 1) {
      throw new ScriptError(`came after ${early.at - start} ms, not after ${ms}`);
    }
    return this.expect(e);
  }

  /** This segment, within `ms` from now. */
  expectWithin(ms: number, e: Expectation): Segment {
    const end = this.#world.now + ms;
    this.#world.run(end, () => this.pending.length > 0);
    return this.expect(e);
  }

  /** No segment of this flow is left that nobody expected. */
  expectNothing(): void {
    if (this.pending.length > 0) throw new ScriptError('sent, and not expected');
  }

  /** Takes every frame that has left; the guest receives them. For bulk transfers: look at them afterwards. */
  drain(): Segment[] {
    const all = this.pending.splice(0);
    for (const s of all) this.#receive(s);
    return all;
  }

  /** Relative sequence number of a segment of ours. */
  seqOf(s: Segment): number {
    return (s.seq - this.ourIsn) | 0;
  }

  /** Relative acknowledgement number of a segment of ours. */
  ackOf(s: Segment): number {
    return (s.ack - this.guestIsn) | 0;
  }

  /** Window of ours in bytes. */
  windowOf(s: Segment): number {
    return s.win * 2 ** (s.flags & SYN ? 0 : this.checks.ourShift);
  }

  #receive(s: Segment): void {
    if (s.flags & RST) return;
    if (s.ts) this.#lastTsVal = s.ts[0];
    const from = this.seqOf(s);
    const end = from + s.payload.length + (s.flags & SYN ? 1 : 0) + (s.flags & FIN ? 1 : 0);
    if (from <= this.received && end > this.received) this.received = end;
  }

  #take(e: Expectation): Segment {
    const s = this.pending[0];
    if (!s) throw new ScriptError(`nothing was sent; expected ${expectationText(e)}`);
    const wrong = this.#mismatch(s, e);
    if (wrong.length > 0) throw new ScriptError(`expected ${expectationText(e)}: ${wrong.join(', ')}`);
    this.pending.shift();
    return s;
  }

  #mismatch(s: Segment, e: Expectation): string[] {
    const wrong: string[] = [];
    const same = (name: string, got: unknown, want: unknown): void => {
      if (want !== undefined && got !== want) wrong.push(`${name} is ${String(got)}`);
    };
    const syn = e.syn === true || e.synAck === true;
    same('SYN', (s.flags & SYN) !== 0, syn);
    same('FIN', (s.flags & FIN) !== 0, e.fin === true);
    same('RST', (s.flags & RST) !== 0, e.rst === true);
    same('PSH', (s.flags & PSH) !== 0, e.psh);
    const ackBit = e.ack === false ? false : typeof e.ack === 'number' || e.synAck ? true : e.rst ? undefined : !e.syn;
    same('ACK', (s.flags & ACK) !== 0, ackBit);
    same('seq', this.seqOf(s), e.seq ?? (syn ? 0 : undefined));
    same('raw seq', s.seq, e.rawSeq);
    if (typeof e.ack === 'number') same('ack', this.ackOf(s), e.ack);
    same('data', s.payload.length, e.data ?? 0);
    same('win', s.win, e.win);
    same('window', this.windowOf(s), e.window);
    same('mss', s.mss, e.mss);
    if (e.ws === false) same('ws', s.ws, undefined);
    else same('ws', s.ws, e.ws);
    if (e.ws === false && s.ws !== undefined) wrong.push(`ws is ${s.ws}`);
    same('sackOk', s.sackOk, e.sackOk);
    if (typeof e.ts === 'boolean') same('ts', s.ts !== undefined, e.ts);
    else same('TSecr', s.ts?.[1], e.ts === undefined ? undefined : e.ts >>> 0);
    if (e.sack) {
      const got = s.sack.map(([l, r]) => `${(l - this.guestIsn) | 0}:${(r - this.guestIsn) | 0}`).join(' ');
      same('sack', got, e.sack.map(([l, r]) => `${l}:${r}`).join(' '));
    }
    return wrong;
  }

  // --- Ready-made states.

  /** The handshake of a usual guest, up to ESTABLISHED. */
  establish(h: Handshake = {}): void {
    const { mss = 1460, ws = 7, sackOk = true, ts = false, win = 64_240 } = h;
    this.guest({
      syn: true,
      seq: 0,
      win,
      ...(mss !== false && { mss }),
      ...(ws !== false && { ws }),
      sackOk,
      ts,
    });
    this.host.accept();
    this.expect({ synAck: true, ack: 1 });
    this.guest({ ack: 1 });
    this.host.expectEstablished();
    this.expectNothing();
  }
}

function expectationText(e: Expectation): string {
  return JSON.stringify(e);
}
