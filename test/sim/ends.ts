// What a program of actions acts on: an application's end of a flow, whichever TCP lies below it; and what is expected of a pair
// of ends. Conformance reference 5, "assert always" 1: a prefix at every moment, all of it at a clean end, and an abort is never
// seen as one.

import type { Stream } from './stream.ts';

/** How a flow went, as its application sees it. */
export type Outcome = 'opening' | 'open' | 'clean' | 'reset' | 'refused' | 'aborted' | 'vanished';

export interface SimEnd {
  readonly label: string;
  readonly outcome: Outcome;
  /** Why, where there is more to say. */
  readonly reason: string;
  /** Handshake complete at some time. */
  readonly established: boolean;
  /** Bytes that the application has handed over for sending. */
  readonly written: number;
  /** Bytes that it has taken. */
  readonly received: number;
  /** It has said that nothing more comes. */
  readonly shut: boolean;
  readonly sawEof: boolean;
  write(bytes: number): void;
  /** Reads `bytes` more and then stops. */
  read(bytes: number): void;
  pause(): void;
  resume(): void;
  shutdown(): void;
  /** Neither reads nor writes any more. */
  close(): void;
  abort(): void;
  /** The machine stops without a word. */
  vanish(): void;
  /** The application is gone for good and waits for nothing more. */
  forsake(): void;
  /** The buffer's size from now on; a smaller one takes back window that was offered. */
  resize(bytes: number): void;
}

/** Where failures of a run go: the first one ends it. */
export class SimFailure extends Error {}

export function fail(what: string): never {
  throw new SimFailure(what);
}

/** The two streams of a flow and its ends. */
export class Pair {
  readonly id: number;
  readonly toHost: Stream;
  readonly toGuest: Stream;
  /** The guest's port, once known. */
  guestPort = 0;
  guest: SimEnd | undefined;
  host: SimEnd | undefined;

  constructor(id: number, toHost: Stream, toGuest: Stream) {
    this.id = id;
    this.toHost = toHost;
    this.toGuest = toGuest;
  }

  /** An end reads bytes: they must be what the other wrote, and no more than that. */
  check(reader: SimEnd, at: number, buf: Uint8Array, off: number, len: number): void {
    const host = reader === this.host;
    const stream = host ? this.toHost : this.toGuest;
    const bad = stream.differs(buf, off, len, at);
    if (bad >= 0) fail(`${reader.label}: byte ${bad} is not what was sent`);
    const writer = host ? this.guest : this.host;
    if (writer === undefined || at + len > writer.written) fail(`${reader.label}: more bytes than were written`);
  }

  /** An end reads end-of-stream: the other must have said so, and every byte must be there. */
  checkEof(reader: SimEnd): void {
    const writer = reader === this.host ? this.guest : this.host;
    if (writer === undefined || !writer.shut) fail(`${reader.label}: end of stream that nobody sent`);
    if (writer.written !== reader.received) {
      fail(`${reader.label}: end of stream after ${reader.received} of ${writer.written} bytes`);
    }
  }
}
