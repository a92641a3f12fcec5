// One TCP connection of the simple peer: RFC 9293 written the plain way, apart from src/tcp, to be right at a glance rather than
// fast. Both directions are counted in plain offsets from the ISN (SYN = 0, first byte = 1) that never wrap; the wire's 32 bits
// appear only where segments are read and written. It sends go-back-N with one retransmission timer, and reads data where it
// arrives: a byte at offset o is checked against the stream at once, whatever the order.

import { ACK, FIN, PSH, RST, type Segment, SYN } from '../helpers/peer-frame.ts';
import { fail, type Outcome, type Pair, type SimEnd } from './ends.ts';
import {
  checkSack,
  checkText,
  HeldRanges,
  type PeerMachine,
  type PeerTcpOptions,
  type SegmentFields,
  unwrap,
} from './simple-tcp.ts';
import { Alarm } from './timeline.ts';

const NONE = new Uint8Array(0);
const NEVER = Number.POSITIVE_INFINITY;
const MIN_RTO_MS = 200;
const MAX_RTO_MS = 8000;
const SYN_TRIES = 14;
const DELACK_MS = 40;

export class SimpleConnection implements SimEnd {
  readonly label: string;
  readonly localPort: number;
  readonly remoteIp: number;
  readonly remotePort: number;
  outcome: Outcome = 'opening';
  reason = '';
  established = false;
  written = 0;
  shut = false;
  sawEof = false;
  /** Segments retransmitted. */
  resent = 0;
  readonly #pair: Pair;
  readonly #o: PeerTcpOptions;
  readonly #machine: PeerMachine;
  readonly #active: boolean;
  readonly #alarm: Alarm;

  // Sending, in offsets.
  readonly #isn: number;
  #una = 0;
  #nxt = 1;
  #max = 1;
  #edge = 1;
  #wl1 = 0;
  #wl2 = 0;
  #sendShift = 0;
  #sendMss = 536;
  #cwnd: number;
  #dup = 0;
  #rto = 1000;
  #backoff = 0;
  #srtt = 0;
  #timed = -1;
  #timedAt = 0;
  #rtoAt = NEVER;
  #synTries = 0;

  // Receiving, in offsets.
  #irs = 0;
  #rcvNxt = 0;
  #advEdge = 0;
  #rcvShift = 0;
  #rcvBuf: number;
  readonly #held = new HeldRanges();
  #finAt = -1;
  #taken = 0;
  #allowance = NEVER;
  #discard = false;
  #ackWaits = 0;
  #ackAt = NEVER;
  #dsack: readonly [number, number] | undefined;

  // Options agreed upon.
  #sack = false;
  #ts = false;
  #tsRecent = 0;
  #lastAck = 0;

  constructor(
    label: string,
    pair: Pair,
    machine: PeerMachine,
    options: PeerTcpOptions,
    localPort: number,
    remoteIp: number,
    remotePort: number,
    isn: number,
    active: boolean,
  ) {
    this.label = label;
    this.#pair = pair;
    this.#machine = machine;
    this.#o = options;
    this.localPort = localPort;
    this.remoteIp = remoteIp;
    this.remotePort = remotePort;
    this.#isn = isn;
    this.#active = active;
    this.#rcvBuf = options.rcvBuf;
    this.#cwnd = options.cwnd;
    this.#alarm = new Alarm(machine.timeline, () => this.#onAlarm());
  }

  /** Nothing more is owed to the other side. */
  get finished(): boolean {
    return this.outcome !== 'open' && this.outcome !== 'opening';
  }

  get received(): number {
    return this.#taken;
  }

  // --- The application.

  open(): void {
    this.#sendSyn();
  }

  write(bytes: number): void {
    if (this.shut || this.finished) return;
    this.written += bytes;
    this.#pump();
  }

  read(bytes: number): void {
    this.#allowance = (this.#allowance === NEVER ? 0 : this.#allowance) + bytes;
    this.#take();
  }

  pause(): void {
    this.#allowance = 0;
  }

  resume(): void {
    this.#allowance = NEVER;
    this.#take();
  }

  shutdown(): void {
    if (this.finished || this.shut) return;
    this.shut = true;
    this.#pump();
  }

  /** As a socket's close: bytes unread, or that come later, are answered with a reset (RFC 9293 3.6.1, RFC 2525 2.17). */
  close(): void {
    if (this.finished) return;
    this.#discard = true;
    if (this.outcome === 'opening' || this.#inOrder > this.#taken) this.abort();
    else this.shutdown();
  }

  abort(): void {
    if (this.finished) return;
    if (this.#rcvNxt > 0) this.#send(RST | ACK, this.#max, NONE);
    this.#end('aborted', 'own');
  }

  vanish(): void {
    if (!this.finished) this.#end('vanished', '');
  }

  resize(bytes: number): void {
    this.#rcvBuf = bytes;
    if (!this.established || this.finished) return;
    this.#advEdge = this.#rcvNxt + this.#window();
    this.#sendAck();
  }

  // --- Segments.

  onSegment(s: Segment): void {
    if (this.outcome === 'vanished') return;
    if (this.outcome === 'opening' && this.#active) return this.#inSynSent(s);
    if (!this.#active && this.#irs === 0 && this.#rcvNxt === 0) return this.#firstSyn(s);
    if (s.ts !== undefined && this.#ts && !(s.flags & RST) && ((s.ts[0] - this.#tsRecent) | 0) < 0)
      return this.#sendAck();
    const off = unwrap(s.seq, this.#irs, this.#rcvNxt);
    const fin = s.flags & FIN ? 1 : 0;
    const end = off + s.payload.length;
    if (s.flags & RST) {
      // Both FINs are acknowledged: TIME-WAIT, or over (RFC 1337).
      if (this.finished || (this.#finTaken && this.#una === this.written + 2)) return;
      if (off === this.#rcvNxt) this.#end('reset', 'peer');
      else if (off > this.#rcvNxt && off < this.#advEdge) this.#sendAck();
      return;
    }
    if (s.flags & SYN) {
      // Our acknowledgement was lost (their SYN-ACK again) or theirs is an old one: RFC 5961 4 either way.
      if (this.outcome === 'opening') this.#sendSyn();
      else this.#sendAck();
      return;
    }
    if (!(s.flags & ACK)) return;
    const ack = unwrap(s.ack, this.#isn, this.#una);
    if (ack > this.#max) {
      if (this.outcome === 'opening') fail(`${this.label}: acknowledgement ${ack} of what was never sent`);
      return this.#sendAck();
    }
    if (this.#ts && s.ts !== undefined && off <= this.#lastAck) this.#tsRecent = s.ts[0];
    if (this.outcome === 'opening') {
      if (ack < 1) return;
      this.#una = 1;
      this.#isOpen();
    }
    if (s.sack.length > 0 && !this.#sack) fail(`${this.label}: SACK without agreement`);
    checkSack(this.label, s, this.#isn, ack, this.#max);
    this.#onAck(s, off, end + fin - off, ack);
    if (s.payload.length > 0 || fin) this.#onText(s, off, end, fin);
    else if (off < this.#rcvNxt) this.#sendAck();
    this.#pump();
  }

  #inSynSent(s: Segment): void {
    const ackOk = (s.flags & ACK) !== 0 && ((s.ack - this.#isn) | 0) === 1;
    if (s.flags & RST) {
      if (ackOk) this.#end('refused', 'reset');
      return;
    }
    if (s.flags & ACK && !ackOk) return this.#machine.transmit(this, RST, s.ack, 0, { win: 0 });
    if (!(s.flags & SYN) || !ackOk) return;
    this.#takeSyn(s);
    this.#una = 1;
    this.#edge = 1 + s.win;
    this.#wl1 = 0;
    this.#wl2 = 1;
    this.#isOpen();
    this.#sendAck();
    this.#pump();
  }

  #firstSyn(s: Segment): void {
    this.#takeSyn(s);
    this.#edge = 1 + s.win;
    this.#sendSyn();
  }

  #takeSyn(s: Segment): void {
    this.#irs = s.seq;
    this.#rcvNxt = 1;
    this.#lastAck = 1;
    this.#sendMss = Math.min(s.mss ?? 536, this.#o.mss);
    this.#sack = this.#o.sack && s.sackOk;
    this.#ts = this.#o.ts && s.ts !== undefined;
    if (s.ts !== undefined) this.#tsRecent = s.ts[0];
    const scaled = this.#o.shift >= 0 && s.ws !== undefined;
    this.#sendShift = scaled ? Math.min(s.ws!, 14) : 0;
    this.#rcvShift = scaled ? this.#o.shift : 0;
  }

  #isOpen(): void {
    this.established = true;
    this.outcome = 'open';
    this.#rtoAt = NEVER;
    this.#backoff = 0;
  }

  readonly forsake = (): void => this.abort();

  /** A refusal by ICMP. */
  unreachable(): void {
    if (this.outcome === 'opening' && this.#active) this.#end('refused', 'unreachable');
  }

  #onAck(s: Segment, off: number, segLen: number, ack: number): void {
    const now = this.#machine.timeline.now;
    const edge = ack + (s.win << this.#sendShift);
    if (ack > this.#una) {
      this.#una = ack;
      this.#nxt = Math.max(this.#nxt, ack);
      this.#dup = 0;
      this.#backoff = 0;
      this.#cwnd = Math.min(this.#o.cwnd, this.#cwnd + this.#sendMss);
      if (this.#timed >= 0 && ack >= this.#timed) {
        const r = now - this.#timedAt;
        this.#srtt = this.#srtt === 0 ? r : 0.75 * this.#srtt + 0.25 * r;
        this.#rto = Math.min(Math.max(3 * this.#srtt, MIN_RTO_MS), MAX_RTO_MS);
        this.#timed = -1;
      }
      this.#rtoAt = this.#una < this.#max ? now + this.#rto : NEVER;
    } else if (ack === this.#una && segLen === 0 && this.#una < this.#nxt && edge === this.#edge) {
      if (++this.#dup === 3 && this.#o.fastRetransmit) this.#resendFirst();
    }
    if (off > this.#wl1 || (off === this.#wl1 && ack >= this.#wl2)) {
      this.#edge = edge;
      this.#wl1 = off;
      this.#wl2 = ack;
    }
    if (this.#una === this.written + 2 && this.sawEof && this.outcome === 'open') this.#end('clean', '');
  }

  #onText(s: Segment, off: number, end: number, fin: number): void {
    checkText(this.label, this.#pair, s, off);
    if (this.#discard && end > this.#rcvNxt && s.payload.length > 0) {
      this.abort();
      return;
    }
    const before = this.#rcvNxt;
    const lo = Math.max(off, this.#rcvNxt);
    const hi = Math.min(end, this.#advEdge);
    if (s.payload.length > 0) {
      if (off < this.#rcvNxt) this.#dsack = [off, Math.min(end, this.#rcvNxt)];
      else if (this.#held.has(lo, hi)) this.#dsack = [lo, hi];
    }
    if (hi > lo) this.#held.add(lo, hi);
    if (fin === 1 && (end <= this.#advEdge || end === this.#rcvNxt)) this.#finAt = end;
    this.#rcvNxt = this.#held.takeFrom(this.#rcvNxt);
    if (this.#finAt === this.#rcvNxt) this.#rcvNxt++;
    const inOrder = off <= before && this.#rcvNxt > before && this.#held.list.length === 0 && fin === 0;
    this.#take(false);
    if (!inOrder || ++this.#ackWaits >= this.#o.ackEvery) this.#sendAck();
    else if (this.#ackAt === NEVER) {
      this.#ackAt = this.#machine.timeline.now + DELACK_MS;
      this.#arm();
    }
  }

  /** SACK reneging (RFC 2018 8): what is held out of order is forgotten. */
  renege(): void {
    this.#held.clear();
  }

  // --- Reading.

  get #finTaken(): boolean {
    return this.#finAt >= 0 && this.#rcvNxt > this.#finAt;
  }

  /** Data bytes that arrived in order. */
  get #inOrder(): number {
    return this.#rcvNxt - 1 - (this.#finTaken ? 1 : 0);
  }

  #take(tell = true): void {
    if (this.finished) return;
    const n = Math.min(this.#inOrder - this.#taken, this.#allowance);
    if (n > 0) {
      this.#taken += n;
      if (this.#allowance !== NEVER) this.#allowance -= n;
    }
    if (this.#finTaken && this.#taken === this.#inOrder && !this.sawEof) {
      this.sawEof = true;
      this.#pair.checkEof(this);
    }
    if (tell && this.established && this.#window() - (this.#advEdge - this.#rcvNxt) >= this.#worthwhile())
      this.#sendAck();
    if (this.#una === this.written + 2 && this.sawEof && this.outcome === 'open') this.#end('clean', '');
  }

  #worthwhile(): number {
    return Math.max(1, Math.min(2 * this.#o.mss, this.#rcvBuf >> 1));
  }

  #window(): number {
    return Math.max(0, this.#rcvBuf - (this.#inOrder - this.#taken));
  }

  /** The window field; moves the right edge by worthwhile steps, never back. */
  #windowField(): number {
    const offered = Math.max(0, this.#advEdge - this.#rcvNxt);
    let w = this.#window();
    if (w < offered || w - offered < Math.min(this.#o.mss, this.#rcvBuf >> 1)) w = offered;
    const step = 1 << this.#rcvShift;
    const field = Math.min(0xffff, Math.ceil(w / step));
    this.#advEdge = this.#rcvNxt + field * step;
    return field;
  }

  // --- Sending.

  #sendSyn(): void {
    if (++this.#synTries > SYN_TRIES) return this.#end('refused', 'no answer');
    const o = this.#o;
    const echo = this.#rcvNxt > 0;
    this.#rtoAt = this.#machine.timeline.now + Math.min(1000 * 2 ** (this.#synTries - 1), MAX_RTO_MS);
    this.#arm();
    const fields: SegmentFields = { win: Math.min(this.#rcvBuf, 0xffff), mss: o.mss };
    if (o.shift >= 0 && (!echo || this.#rcvShift === o.shift)) fields.ws = o.shift;
    if (echo ? this.#sack : o.sack) fields.sackOk = true;
    if (echo ? this.#ts : o.ts) fields.ts = [this.#tsVal(), echo ? this.#tsRecent : 0];
    if (echo) this.#advEdge = this.#rcvNxt + fields.win;
    this.#machine.transmit(this, echo ? SYN | ACK : SYN, this.#isn, this.#irs + this.#rcvNxt, fields);
  }

  #tsVal(): number {
    return (Math.floor(this.#machine.timeline.now) + this.#isn) >>> 0;
  }

  #send(flags: number, off: number, payload: Uint8Array): void {
    const fields: SegmentFields = { win: flags & RST ? 0 : this.#windowField(), payload };
    if (this.#ts && !(flags & RST)) fields.ts = [this.#tsVal(), this.#tsRecent];
    if (this.#sack && payload.length === 0 && !(flags & RST)) fields.sack = this.#sackBlocks();
    this.#machine.transmit(this, flags, this.#isn + off, this.#irs + this.#rcvNxt, fields);
    this.#lastAck = this.#rcvNxt;
    this.#ackWaits = 0;
    this.#ackAt = NEVER;
  }

  #sackBlocks(): [number, number][] {
    const blocks: (readonly [number, number])[] = this.#held.list.slice(-3).reverse();
    if (this.#dsack !== undefined && this.#o.dsack && this.#dsack[1] > this.#dsack[0]) blocks.unshift(this.#dsack);
    this.#dsack = undefined;
    return blocks.slice(0, 3).map(([l, r]) => [this.#irs + l, this.#irs + r]);
  }

  /** With RFC 9293's SND.NXT: the highest, also while older data is being sent again. */
  readonly #sendAck = (): void => this.#send(ACK, this.#max, NONE);

  /** Sends what the windows allow from #nxt on. */
  #pump(): void {
    if (this.outcome !== 'open') return this.#arm();
    const now = this.#machine.timeline.now;
    const end = 1 + this.written;
    const mss = this.#sendMss - (this.#ts ? 12 : 0);
    const limit = Math.min(this.#una + Math.max(this.#cwnd, mss), this.#edge);
    while (this.#nxt < end || (this.shut && this.#nxt === end)) {
      const n = Math.min(mss, end - this.#nxt, limit - this.#nxt);
      const fin = this.shut && this.#nxt + n === end && limit - this.#nxt > n;
      if (n < 0 || (n === 0 && !fin)) break;
      if (n < mss && n < end - this.#nxt && this.#nxt > this.#una) break;
      this.#sendData(this.#nxt, n, fin);
      this.#nxt += n + (fin ? 1 : 0);
      this.#max = Math.max(this.#max, this.#nxt);
    }
    const waits = this.#nxt < end || (this.shut && this.#una < end + 1);
    if (this.#una < this.#max || waits) {
      if (this.#rtoAt === NEVER) this.#rtoAt = now + Math.min(this.#rto * 2 ** this.#backoff, MAX_RTO_MS);
    } else this.#rtoAt = NEVER;
    this.#arm();
  }

  #sendData(off: number, n: number, fin: boolean): void {
    const payload = new Uint8Array(n);
    this.#pair.toHost.fill(payload, 0, n, off - 1);
    if (off < this.#max) {
      this.resent++;
      this.#timed = -1;
    } else if (this.#timed < 0 && n > 0) {
      this.#timed = off + n;
      this.#timedAt = this.#machine.timeline.now;
    }
    this.#send(ACK | (n > 0 ? PSH : 0) | (fin ? FIN : 0), off, payload);
  }

  #resendFirst(): void {
    const end = 1 + this.written;
    const mss = this.#sendMss - (this.#ts ? 12 : 0);
    const n = Math.max(0, Math.min(mss, end - this.#una, this.#max - this.#una));
    this.#sendData(this.#una, n, this.shut && this.#una + n === end && this.#max > end);
  }

  #onAlarm(): void {
    const now = this.#machine.timeline.now;
    if (this.#ackAt <= now) this.#sendAck();
    if (this.#rtoAt <= now) {
      this.#rtoAt = NEVER;
      if (this.outcome === 'opening') this.#sendSyn();
      else if (this.outcome === 'open') this.#onTimeout();
    }
    this.#arm();
  }

  #onTimeout(): void {
    this.#backoff = Math.min(this.#backoff + 1, 6);
    this.#timed = -1;
    const end = 1 + this.written;
    if (this.#edge <= this.#una) {
      // The window is closed: a probe, of the next byte or of none.
      if (this.#o.probeByte && this.#una < end) {
        this.#max = Math.max(this.#max, this.#una + 1);
        this.#sendData(this.#una, 1, false);
      } else if (this.#o.probeByte && this.shut) {
        this.#max = end + 1;
        this.#sendData(end, 0, true);
      } else this.#send(ACK, this.#una - 1, NONE);
      this.#nxt = this.#una;
    } else {
      this.#nxt = this.#una;
      this.#cwnd = this.#sendMss;
    }
    this.#pump();
    this.#rtoAt = this.#machine.timeline.now + Math.min(this.#rto * 2 ** this.#backoff, MAX_RTO_MS);
  }

  readonly #arm = (): void => this.#alarm.set(Math.min(this.#rtoAt, this.#ackAt));

  #end(outcome: Outcome, reason: string): void {
    this.outcome = outcome;
    this.reason = reason;
    this.#rtoAt = NEVER;
    this.#ackAt = NEVER;
  }
}
