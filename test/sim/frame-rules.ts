// What must hold of every frame that leaves the stack, judged from outside: from the frame, and from what the link has delivered
// to the stack before (conformance reference 5, "assert always" 3 and 4). RFC 9293 3.8.6, RFC 7323, RFC 2018, RFC 5961.

import { ACK, FIN, RST, readIpv4, readTcp, type Segment, SYN, segmentText } from '../helpers/peer-frame.ts';
import { fail } from './ends.ts';

const diff = (a: number, b: number): number => (a - b) | 0;

interface Offer {
  isn: number;
  mss: number;
  shift: number;
  sack: boolean;
  ts: boolean;
}

/** One 4-tuple, in its current incarnation. */
class Flow {
  readonly name: string;
  /** The SYNs, ours and the guest's. */
  ours: Offer | undefined;
  theirs: Offer | undefined;
  /** Furthest right edge the guest has offered. */
  edge: number | undefined;
  /** End of what the guest has sent. */
  theirEnd: number | undefined;
  ack: number | undefined;
  ourEdge: number | undefined;
  tsVal: number | undefined;
  /** Highest sequence number sent, end. */
  sent: number | undefined;
  // Of the turn under way.
  resetsIn = 0;
  othersIn = 0;
  answersOut = 0;
  /** The window of the guest's SYN. */
  synWindow = 0;
  /** Something was acknowledged since the handshake. */
  acked = false;

  constructor(name: string) {
    this.name = name;
  }
}

/** Checks for one link; `batch` before the frames of one read, then `delivered` and `emitted` as they come. */
export class FrameRules {
  /** Sent again at the same place: data, SYN or FIN. */
  retransmits = 0;
  pureAcks = 0;
  /** Pure ACKs equal to the one before in number and window. */
  duplicateAcks = 0;
  resets = 0;
  frames = 0;
  /** Turns in which one flow sent more than one pure ACK. */
  doubleAcks = 0;
  readonly #mtu: number;
  readonly #flows = new Map<string, Flow>();
  readonly #touched = new Set<Flow>();
  readonly #trace: string[] = [];
  readonly #traceLines: number;

  constructor(mtu: number, traceLines: number) {
    this.#mtu = mtu;
    this.#traceLines = traceLines;
  }

  /** The last frames, for a failure's report. */
  get trace(): readonly string[] {
    return this.#trace;
  }

  /** A turn is over. */
  endTurn(): void {
    for (const f of this.#touched) {
      if (f.answersOut > 1) this.doubleAcks++;
      f.resetsIn = 0;
      f.othersIn = 0;
      f.answersOut = 0;
    }
    this.#touched.clear();
  }

  #flow(guestIp: number, guestPort: number, remoteIp: number, remotePort: number): Flow {
    const name = `${guestIp & 255}:${guestPort}-${remoteIp >>> 0}:${remotePort}`;
    let f = this.#flows.get(name);
    if (f === undefined) {
      f = new Flow(name);
      this.#flows.set(name, f);
    }
    this.#touched.add(f);
    return f;
  }

  #note(now: number, arrow: string, f: Flow, s: Segment, seqBase: number, ackBase: number): void {
    if (this.#traceLines === 0) return;
    if (this.#trace.length > this.#traceLines) this.#trace.splice(0, this.#traceLines >> 1);
    this.#trace.push(`${now.toFixed(3)} ${arrow} ${f.name} ${segmentText(s, seqBase, ackBase)}`);
  }

  /** The stack is given this frame. */
  delivered(frame: Uint8Array, now: number): void {
    let s: Segment;
    try {
      const padded = 14 + ((frame[16]! << 8) | frame[17]!);
      s = readTcp(padded < frame.length ? frame.subarray(0, padded) : frame, Number.POSITIVE_INFINITY, now);
    } catch {
      return;
    }
    const f = this.#flow(s.src, s.srcPort, s.dst, s.dstPort);
    this.#note(now, '>', f, s, f.theirs?.isn ?? s.seq, f.ours?.isn ?? s.ack);
    if (s.flags & RST) {
      f.resetsIn++;
      return;
    }
    f.othersIn++;
    if (s.flags & SYN) {
      const offer = { isn: s.seq, mss: s.mss ?? 536, shift: s.ws ?? -1, sack: s.sackOk, ts: s.ts !== undefined };
      // The answer to our SYN, or the first SYN: what a flow agrees upon. An old copy changes nothing.
      if (f.theirs === undefined) f.theirs = offer;
      if (f.theirEnd === undefined) f.theirEnd = s.seq + 1;
      if (f.edge === undefined && s.flags & ACK) f.edge = s.ack + s.win;
      if (f.ours !== undefined && f.edge === undefined) f.edge = f.ours.isn + 1 + s.win;
      f.synWindow = s.win;
      return;
    }
    if (f.theirs === undefined || f.ours === undefined || !(s.flags & ACK)) return;
    const end = s.seq + s.payload.length + (s.flags & FIN ? 1 : 0);
    if (diff(end, f.theirEnd!) > 0) f.theirEnd = end;
    const shift = f.ours.shift >= 0 && f.theirs.shift >= 0 ? Math.min(f.theirs.shift, 14) : 0;
    const edge = s.ack + (s.win << shift);
    if (f.sent === undefined || diff(s.ack, f.sent) > 0) return;
    if (f.edge === undefined || diff(edge, f.edge) > 0) f.edge = edge;
  }

  /** The stack hands this frame to the link. @throws SimFailure for a frame that must not be. */
  emitted(frame: Uint8Array, now: number): void {
    this.frames++;
    const type = (frame[12]! << 8) | frame[13]!;
    if (type === 0x0806) return;
    const ip = readIpv4(frame, this.#mtu);
    if (ip.protocol !== 6) return;
    const s = readTcp(frame, this.#mtu, now);
    const f = this.#flow(s.dst, s.dstPort, s.src, s.srcPort);
    this.#note(now, '  <', f, s, f.ours?.isn ?? s.seq, f.theirs?.isn ?? s.ack);
    if (s.flags & RST) {
      this.resets++;
      if (f.resetsIn > 0 && f.othersIn === 0) fail(`${f.name}: RST in answer to RST`);
      if (s.payload.length > 0) fail(`${f.name}: RST with data`);
      return;
    }
    if (s.flags & SYN) return this.#syn(f, s);
    const { ours, theirs } = f;
    if (ours === undefined || theirs === undefined) fail(`${f.name}: segment before the handshake`);
    if (!(s.flags & ACK)) fail(`${f.name}: no ACK bit`);
    this.#options(f, s, ours.ts && theirs.ts, ours.sack && theirs.sack);
    const end = s.seq + s.payload.length + (s.flags & FIN ? 1 : 0);
    const most = Math.min(Math.max(theirs.mss, 88), this.#mtu - 40);
    if (s.payload.length + s.optionBytes > most) fail(`${f.name}: ${s.payload.length} bytes with MSS ${theirs.mss}`);
    if (f.edge !== undefined && end !== s.seq && diff(end, f.edge) > 0) {
      fail(`${f.name}: ${diff(end, f.edge)} bytes beyond the guest's window`);
    }
    this.#acknowledgement(f, s, ours.shift >= 0 && theirs.shift >= 0 ? ours.shift : 0);
    if (end === s.seq) return;
    if (f.sent !== undefined && diff(s.seq, f.sent) < 0) this.retransmits++;
    if (f.sent === undefined || diff(end, f.sent) > 0) f.sent = end;
  }

  #syn(f: Flow, s: Segment): void {
    const offer = { isn: s.seq, mss: s.mss ?? 536, shift: s.ws ?? -1, sack: s.sackOk, ts: s.ts !== undefined };
    if (s.mss !== this.#mtu - 40) fail(`${f.name}: MSS ${s.mss} at MTU ${this.#mtu}`);
    if (f.ours !== undefined && f.ours.isn === s.seq) {
      this.retransmits++;
    } else {
      // A new incarnation.
      f.ack = undefined;
      f.ourEdge = undefined;
      f.tsVal = undefined;
      f.edge = undefined;
      if (!(s.flags & ACK)) {
        f.theirs = undefined;
        f.theirEnd = undefined;
      } else f.edge = s.seq + 1 + f.synWindow;
      f.sent = s.seq + 1;
      f.ours = offer;
    }
    const { theirs } = f;
    if (!(s.flags & ACK)) return;
    if (theirs === undefined) fail(`${f.name}: SYN-ACK without SYN`);
    if (offer.ts && !theirs.ts) fail(`${f.name}: timestamps not offered`);
    if (offer.sack && !theirs.sack) fail(`${f.name}: SACK not offered`);
    if (offer.shift >= 0 && theirs.shift < 0) fail(`${f.name}: window scale not offered`);
    f.ack = s.ack;
    f.ourEdge = s.ack + s.win;
    if (s.ts !== undefined) f.tsVal = s.ts[0];
  }

  #options(f: Flow, s: Segment, ts: boolean, sack: boolean): void {
    if (s.mss !== undefined || s.ws !== undefined || s.sackOk) fail(`${f.name}: SYN option outside of a SYN`);
    if ((s.ts !== undefined) !== ts) fail(`${f.name}: timestamps ${ts ? 'missing' : 'not agreed upon'}`);
    if (s.ts !== undefined) {
      if (f.tsVal !== undefined && diff(s.ts[0], f.tsVal) < 0) fail(`${f.name}: TSval goes back`);
      f.tsVal = s.ts[0];
    }
    if (s.sack.length === 0) return;
    if (!sack) fail(`${f.name}: SACK not agreed upon`);
    s.sack.forEach(([left, right], i) => {
      if (diff(right, left) <= 0) fail(`${f.name}: empty SACK block`);
      if (diff(right, f.theirEnd!) > 0) fail(`${f.name}: SACK of what never arrived`);
      const inside = s.sack[1] !== undefined && diff(left, s.sack[1][0]) >= 0 && diff(right, s.sack[1][1]) <= 0;
      const dsack = i === 0 && (diff(right, s.ack) <= 0 || inside);
      if (!dsack && diff(left, s.ack) <= 0) fail(`${f.name}: SACK block at or below the acknowledgement`);
      for (const [l, r] of s.sack.slice(i + 1)) {
        if (!dsack && diff(left, r) < 0 && diff(l, right) < 0) fail(`${f.name}: SACK blocks overlap`);
      }
    });
  }

  #acknowledgement(f: Flow, s: Segment, shift: number): void {
    const edge = s.ack + (s.win << shift);
    if (diff(s.ack, f.theirEnd!) > 0) fail(`${f.name}: acknowledges what never arrived`);
    if (f.ack !== undefined && diff(s.ack, f.ack) < 0) fail(`${f.name}: acknowledgement goes back`);
    if (f.ourEdge !== undefined && diff(edge, f.ourEdge) < 0) {
      fail(`${f.name}: right edge moves left by ${diff(f.ourEdge, edge)}`);
    }
    if (s.payload.length === 0 && !(s.flags & FIN)) {
      this.pureAcks++;
      const same = f.ack !== undefined && diff(s.ack, f.ack) === 0 && diff(edge, f.ourEdge!) === 0;
      if (same && f.acked) this.duplicateAcks++;
      f.answersOut++;
      // One that stands for the turn, one for each segment that must be answered by itself, and one for a timer.
      if (f.answersOut > f.othersIn + f.resetsIn + 2) fail(`${f.name}: ${f.answersOut} ACKs in one turn`);
    }
    f.acked = true;
    f.ack = s.ack;
    f.ourEdge = edge;
  }
}
