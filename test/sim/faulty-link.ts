// One direction of a link that does to frames what networks do to them, seeded, on virtual time. Every decision is noted, so two
// runs of a seed can be compared. It knows just enough of TCP to single out frames (pure ACKs, FINs, window updates).

import type { SeededRandom } from '../helpers/seeded-random.ts';
import type { Timeline } from './timeline.ts';

/** A span of time, ms since the start of the run: [from, to). */
export type Span = readonly [number, number];

/** What goes wrong on one direction. Rates are probabilities per frame. */
export interface FaultProfile {
  delayMs: number;
  /** Added delay, uniform in [0, jitterMs); order is kept. */
  jitterMs: number;
  loss: number;
  /** Gilbert-Elliott: chance to enter and to leave the bad state, and the loss within. */
  burst: { enter: number; leave: number; loss: number } | undefined;
  /** Frames dropped by number, from 0. */
  dropNth: readonly number[];
  /** Loss of segments without data, SYN, FIN and RST. */
  dropAcks: number;
  /** The first so many segments with FIN. */
  dropFins: number;
  /** Loss of ACKs that change nothing but the window. */
  dropWindowUpdates: number;
  /** Everything is lost. */
  blackouts: readonly Span[];
  /** Chance of being held back, by up to `reorderMs`, while later frames pass. */
  reorder: number;
  reorderMs: number;
  /** Chance that a whole batch is turned round. */
  reverse: number;
  duplicate: number;
  /** Duplicates arrive within this time. */
  duplicateMs: number;
  /** Chance of another copy half a minute later. */
  lateDuplicate: number;
  /** Chance of a flipped bit, another byte, a cut or a padded tail. */
  corrupt: number;
  /** Bottleneck; 0: none. */
  bytesPerMs: number;
  /** Bytes that wait before the bottleneck; more are dropped. */
  queueBytes: number;
  /** The link takes nothing: the sender must wait. */
  stalls: readonly Span[];
  /** Frames arrive in batches of this time; 0: each by itself. */
  batchMs: number;
  /** End of all faults (but delay and bottleneck), ms since the start of the run. */
  untilMs: number;
}

export const CLEAN: FaultProfile = {
  delayMs: 0.1,
  jitterMs: 0,
  loss: 0,
  burst: undefined,
  dropNth: [],
  dropAcks: 0,
  dropFins: 0,
  dropWindowUpdates: 0,
  blackouts: [],
  reorder: 0,
  reorderMs: 0,
  reverse: 0,
  duplicate: 0,
  duplicateMs: 0,
  lateDuplicate: 0,
  corrupt: 0,
  bytesPerMs: 0,
  queueBytes: 0,
  stalls: [],
  batchMs: 0,
  untilMs: Number.POSITIVE_INFINITY,
};

/** What was decided about a frame; bits of the log. */
export const Decision = {
  Passed: 0,
  Lost: 1,
  HeldBack: 2,
  Duplicated: 4,
  DuplicatedLate: 8,
  Corrupted: 16,
  QueueFull: 32,
} as const;

const LATE_MS = 30_000;
const IN_SPAN = ([from, to]: Span, t: number): boolean => t >= from && t < to;

export class FaultyLink {
  readonly profile: FaultProfile;
  /** One entry a frame, of `Decision` bits. */
  readonly log: number[] = [];
  lost = 0;
  queueDrops = 0;
  corrupted = 0;
  readonly #timeline: Timeline;
  readonly #random: SeededRandom;
  readonly #deliver: (frames: Uint8Array[]) => void;
  readonly #start: number;
  readonly #due = new Map<number, Uint8Array[]>();
  /** Last ACK number of each flow, to tell window updates. */
  readonly #acks = new Map<number, number>();
  #bad = false;
  #fins = 0;
  #lastDue = 0;
  #busyUntil = 0;

  /** @param deliver frames that arrive at one moment, in order. */
  constructor(
    profile: FaultProfile,
    timeline: Timeline,
    random: SeededRandom,
    deliver: (frames: Uint8Array[]) => void,
  ) {
    this.profile = profile;
    this.#timeline = timeline;
    this.#random = random;
    this.#deliver = deliver;
    this.#start = timeline.now;
  }

  /** End of the stall that lasts now; 0 if there is none. */
  stalledUntil(): number {
    const t = this.#timeline.now - this.#start;
    if (t >= this.profile.untilMs) return 0;
    const span = this.profile.stalls.find((s) => IN_SPAN(s, t));
    return span === undefined ? 0 : this.#start + span[1];
  }

  /** Takes a frame over. */
  send(frame: Uint8Array): void {
    const p = this.profile;
    const now = this.#timeline.now;
    const t = now - this.#start;
    const faulty = t < p.untilMs;
    const n = this.log.length;
    if (faulty && this.#isLost(frame, n, t)) {
      this.lost++;
      this.log.push(Decision.Lost);
      return;
    }
    let at = now + p.delayMs;
    if (p.bytesPerMs > 0) {
      const start = Math.max(now, this.#busyUntil);
      if (p.queueBytes > 0 && (start - now) * p.bytesPerMs > p.queueBytes) {
        this.queueDrops++;
        this.log.push(Decision.QueueFull);
        return;
      }
      this.#busyUntil = start + frame.length / p.bytesPerMs;
      at = this.#busyUntil + p.delayMs;
    }
    let decision: number = Decision.Passed;
    if (faulty) {
      const r = this.#random;
      if (p.jitterMs > 0) at += (r.below(1000) / 1000) * p.jitterMs;
      for (const [, to] of p.stalls) if (this.stalledUntil() === this.#start + to) at = Math.max(at, this.#start + to);
      if (p.corrupt > 0 && r.chance(p.corrupt)) {
        decision |= Decision.Corrupted;
        this.corrupted++;
        frame = this.#corrupt(frame);
      }
      if (p.duplicate > 0 && r.chance(p.duplicate)) {
        decision |= Decision.Duplicated;
        for (let c = 1 + r.below(3); c > 0; c--) this.#arrive(at + (r.below(1000) / 1000) * p.duplicateMs, frame);
      }
      if (p.lateDuplicate > 0 && r.chance(p.lateDuplicate)) {
        decision |= Decision.DuplicatedLate;
        this.#arrive(at + LATE_MS * (0.5 + r.below(1000) / 1000), frame);
      }
      if (p.reorder > 0 && r.chance(p.reorder)) {
        decision |= Decision.HeldBack;
        this.#arrive(at + (r.below(1000) / 1000) * p.reorderMs, frame);
        this.log.push(decision);
        return;
      }
    }
    this.#lastDue = Math.max(this.#lastDue, at);
    this.#arrive(this.#lastDue, frame);
    this.log.push(decision);
  }

  #isLost(frame: Uint8Array, n: number, t: number): boolean {
    const p = this.profile;
    const r = this.#random;
    if (p.blackouts.some((s) => IN_SPAN(s, t))) return true;
    if (p.dropNth.includes(n)) return true;
    if (p.burst !== undefined) {
      if (r.chance(this.#bad ? p.burst.leave : p.burst.enter)) this.#bad = !this.#bad;
      if (this.#bad && r.chance(p.burst.loss)) return true;
    }
    if (p.loss > 0 && r.chance(p.loss)) return true;
    if (p.dropAcks === 0 && p.dropFins === 0 && p.dropWindowUpdates === 0) return false;
    if (frame.length < 54 || frame[12] !== 8 || frame[13] !== 0 || frame[23] !== 6) return false;
    const view = new DataView(frame.buffer, frame.byteOffset);
    const flags = frame[47]!;
    if (flags & 1 && this.#fins < p.dropFins) {
      this.#fins++;
      return true;
    }
    const payload = view.getUint16(16) - 20 - (frame[46]! >>> 4) * 4;
    const bare = payload === 0 && (flags & 0x17) === 0x10;
    const flow = view.getUint32(34);
    const ack = view.getUint32(42);
    const sameAck = this.#acks.get(flow) === ack;
    this.#acks.set(flow, ack);
    if (!bare) return false;
    return r.chance(p.dropAcks) || (sameAck && r.chance(p.dropWindowUpdates));
  }

  /** Damage behind the Ethernet header (a link's own checksum guards that one). */
  #corrupt(frame: Uint8Array): Uint8Array {
    const r = this.#random;
    const copy = frame.slice();
    const at = 14 + r.below(copy.length - 14);
    switch (r.below(4)) {
      case 0:
        copy[at] = copy[at]! ^ (1 << r.below(8));
        return copy;
      case 1:
        copy[at] = copy[at]! ^ (1 + r.below(255));
        return copy;
      case 2:
        return copy.subarray(0, at);
      default: {
        const padded = new Uint8Array(copy.length + 1 + r.below(40));
        padded.fill(0xee);
        padded.set(copy);
        return padded;
      }
    }
  }

  #arrive(at: number, frame: Uint8Array): void {
    const { batchMs } = this.profile;
    if (batchMs > 0) at = Math.ceil(at / batchMs) * batchMs;
    const due = this.#due.get(at);
    if (due !== undefined) {
      due.push(frame);
      return;
    }
    const frames = [frame];
    this.#due.set(at, frames);
    this.#timeline.at(at, () => {
      this.#due.delete(at);
      const t = this.#timeline.now - this.#start;
      if (this.profile.reverse > 0 && t < this.profile.untilMs && this.#random.chance(this.profile.reverse)) {
        frames.reverse();
      }
      this.#deliver(frames);
    });
  }
}
