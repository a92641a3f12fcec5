// What must hold of every segment that leaves the stack, whatever the script: checked on the wire, against what the guest sent,
// with no look inside. RFC 9293 3.8.6 (edges), RFC 7323 (options, TSval), RFC 2018 (SACK), RFC 6691 (size).

import { ACK, FIN, FrameError, RST, type Segment, SYN } from './peer-frame.ts';
import { hostByte } from './stream-pattern.ts';

const diff = (a: number, b: number): number => (a - b) | 0;

export interface CheckOptions {
  mtu: number;
  /** False where the host writes bytes of its own choosing. */
  payload: boolean;
  /** True where the guest breaks its own word, so that only the form of what we send is checked. */
  wild: boolean;
}

/** Invariants of one flow. */
export class WireChecks {
  readonly #options: CheckOptions;
  /** What the guest's SYN offered; undefined before it. */
  #guestSyn: { ws: boolean; sack: boolean; ts: boolean; mss: number; shift: number } | undefined;
  #ourSyn: { ws: boolean; sack: boolean; ts: boolean; shift: number } | undefined;
  #ourIsn = 0;
  /** Furthest right edge the guest ever offered. */
  #guestEdge: number | undefined;
  /** Highest sequence number the guest ever sent, end. */
  #guestEnd: number | undefined;
  #ack: number | undefined;
  #edge: number | undefined;
  #tsVal: number | undefined;

  constructor(options: CheckOptions) {
    this.#options = options;
  }

  /** True once both SYNs agreed on timestamps. */
  get ts(): boolean {
    return this.#guestSyn?.ts === true && this.#ourSyn?.ts === true;
  }

  get sack(): boolean {
    return this.#guestSyn?.sack === true && this.#ourSyn?.sack === true;
  }

  /** Our window scale, once agreed upon. */
  get ourShift(): number {
    return this.#guestSyn?.ws && this.#ourSyn?.ws ? this.#ourSyn.shift : 0;
  }

  /** Forgets the connection: the 4-tuple is used anew. */
  reset(): void {
    this.#guestSyn = undefined;
    this.#ourSyn = undefined;
    this.#guestEdge = undefined;
    this.#guestEnd = undefined;
    this.#ack = undefined;
    this.#edge = undefined;
    this.#tsVal = undefined;
  }

  /** A segment of the guest's, before the stack sees it. */
  onGuest(s: Segment): void {
    const end = s.seq + s.payload.length + (s.flags & SYN ? 1 : 0) + (s.flags & FIN ? 1 : 0);
    if (s.flags & SYN && !(s.flags & (RST | FIN))) {
      const syn = {
        ws: s.ws !== undefined,
        sack: s.sackOk,
        ts: s.ts !== undefined,
        mss: Math.max(s.mss ?? 536, 88),
        shift: Math.min(s.ws ?? 0, 14),
      };
      // A SYN in the middle of a connection (a challenge is due) must not change what was agreed upon.
      if (this.#ack === undefined || this.#guestEnd === undefined) {
        this.#guestSyn = syn;
        this.#guestEnd = end;
      }
    }
    if (this.#guestEnd === undefined || diff(end, this.#guestEnd) > 0) this.#guestEnd = end;
    if (s.flags & ACK && !(s.flags & RST)) {
      const shift = s.flags & SYN ? 0 : this.#ourSyn?.ws && this.#guestSyn?.ws ? this.#guestSyn.shift : 0;
      this.#offer(s.ack + s.win * 2 ** shift);
    } else if (s.flags & SYN && this.#ourSyn) this.#offer(this.#ourIsn + 1 + s.win);
    else if (s.flags & SYN) this.#pendingWindow = s.win;
  }

  #pendingWindow = 0;

  #offer(edge: number): void {
    if (this.#guestEdge === undefined || diff(edge, this.#guestEdge) > 0) this.#guestEdge = edge | 0;
  }

  /** A segment of ours. @throws FrameError naming the invariant that does not hold. */
  onOurs(s: Segment, ourIsn: number): void {
    const fail = (what: string): never => {
      throw new FrameError(what);
    };
    if (s.flags & ~0x1f) fail(`flags 0x${s.flags.toString(16)}: URG, ECE or CWR is set`);
    if (s.urgent !== 0) fail('urgent pointer is set');
    const syn = (s.flags & SYN) !== 0;
    if (s.flags & RST) {
      if (s.optionBytes > 0) fail('RST with options');
      if (s.payload.length > 0) fail('RST with data');
      return;
    }
    if (syn) {
      if (s.flags & FIN) fail('SYN with FIN');
      if (s.payload.length > 0) fail('SYN with data');
      if (s.mss === undefined) fail('SYN without MSS');
      if (s.mss !== this.#options.mtu - 40) fail(`MSS ${s.mss} at MTU ${this.#options.mtu}`);
      if (s.flags & ACK) {
        const offered = this.#guestSyn;
        if (offered) {
          if ((s.ws !== undefined) !== offered.ws) fail('window scale in SYN-ACK does not follow the SYN');
          if (s.sackOk !== offered.sack) fail('SACK-permitted in SYN-ACK does not follow the SYN');
          if ((s.ts !== undefined) !== offered.ts) fail('timestamps in SYN-ACK do not follow the SYN');
        }
      } else if (s.ts && s.ts[1] !== 0) fail('TSecr in a SYN without ACK');
      this.#ourSyn = { ws: s.ws !== undefined, sack: s.sackOk, ts: s.ts !== undefined, shift: s.ws ?? 0 };
      this.#ourIsn = ourIsn;
      if (this.#guestSyn && s.flags & ACK) this.#offer(ourIsn + 1 + this.#pendingWindow);
    } else {
      if (s.mss !== undefined || s.ws !== undefined || s.sackOk)
        fail('MSS, window scale or SACK-permitted outside of a SYN');
      if (!(s.flags & ACK)) fail('no ACK');
      if (this.ts !== (s.ts !== undefined)) fail(this.ts ? 'timestamps missing' : 'timestamps not agreed upon');
      if (s.sack.length > 0 && !this.sack) fail('SACK not agreed upon');
    }
    if (s.ts) {
      if (this.#tsVal !== undefined && diff(s.ts[0], this.#tsVal) < 0)
        fail(`TSval went back from ${this.#tsVal} to ${s.ts[0]}`);
      this.#tsVal = s.ts[0];
    }
    if (this.#options.wild) return;
    if (s.flags & ACK) this.#acknowledgement(s, syn, fail);
    if (s.payload.length > 0) this.#data(s, ourIsn, fail);
  }

  #acknowledgement(s: Segment, syn: boolean, fail: (what: string) => never): void {
    if (this.#guestEnd !== undefined && diff(s.ack, this.#guestEnd) > 0) fail('acknowledges what the guest never sent');
    if (this.#ack !== undefined && diff(s.ack, this.#ack) < 0) fail('acknowledgement went back');
    this.#ack = s.ack;
    const edge = s.ack + s.win * 2 ** (syn ? 0 : this.ourShift);
    if (this.#edge !== undefined && diff(edge, this.#edge) < 0)
      fail(`right edge of the window went back by ${-diff(edge, this.#edge)}`);
    this.#edge = edge | 0;
    for (let i = 0; i < s.sack.length; i++) {
      const [l, r] = s.sack[i]!;
      if (diff(l, r) >= 0) fail('SACK block is empty or inverted');
      if (this.#guestEnd !== undefined && diff(r, this.#guestEnd) > 0) fail('SACK block of what the guest never sent');
      const duplicate =
        i === 0 && (diff(r, s.ack) <= 0 || s.sack.slice(1).some(([l2, r2]) => diff(l, l2) >= 0 && diff(r, r2) <= 0));
      if (!duplicate && diff(l, s.ack) <= 0) fail('SACK block at or below the acknowledgement');
      for (let j = 0; j < i; j++) {
        const [l2, r2] = s.sack[j]!;
        if (
          !(j === 0 && diff(l2, s.ack) < 0) &&
          diff(l, r2) < 0 &&
          diff(l2, r) < 0 &&
          !(j === 0 && diff(l2, l) >= 0 && diff(r2, r) <= 0)
        ) {
          fail('SACK blocks overlap');
        }
      }
    }
  }

  #data(s: Segment, ourIsn: number, fail: (what: string) => never): void {
    const limit = Math.min(this.#guestSyn?.mss ?? 536, this.#options.mtu - 40);
    if (s.payload.length + s.optionBytes > limit)
      fail(`${s.payload.length} bytes and ${s.optionBytes} of options exceed the MSS ${limit}`);
    // FIN has a place in the window as a byte has.
    const end = s.seq + s.payload.length + (s.flags & 1);
    if (this.#guestEdge !== undefined && diff(end, this.#guestEdge) > 0)
      fail(`data ${diff(end, this.#guestEdge)} bytes beyond the window`);
    if (!this.#options.payload) return;
    const from = diff(s.seq, ourIsn);
    for (let i = 0; i < s.payload.length; i++) {
      if (s.payload[i] !== hostByte(from + i)) fail(`byte ${from + i} is not the one the host wrote there`);
    }
  }
}
