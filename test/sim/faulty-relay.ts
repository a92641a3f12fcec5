// The faults of `FaultyLink` in real time, between two stream sockets that carry frames behind 4-byte lengths (qemu framing): a
// Linux namespace and the daemon, or two namespaces.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { type FaultProfile, FaultyLink } from './faulty-link.ts';
import { Timeline } from './timeline.ts';

/** A timeline that follows the clock. */
class RealTime {
  readonly timeline = new Timeline();
  readonly #zero: number;
  #timer: NodeJS.Timeout | undefined;

  constructor() {
    this.#zero = this.timeline.now - performance.now();
  }

  /** Runs what is due, and comes back for the next event. */
  pump(): void {
    const { timeline } = this;
    const now = this.#zero + performance.now();
    while (timeline.next <= now) timeline.step();
    timeline.now = Math.max(timeline.now, now);
    clearTimeout(this.#timer);
    if (timeline.next < Number.POSITIVE_INFINITY) this.#timer = setTimeout(() => this.pump(), timeline.next - now);
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}

/** Calls `onFrame` for each whole frame of a stream. */
function readFrames(socket: Socket, onFrame: (frame: Uint8Array) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (rest.length - at >= 4) {
      const len = rest.readUInt32BE(at);
      if (rest.length - at - 4 < len) break;
      onFrame(rest.subarray(at + 4, at + 4 + len));
      at += 4 + len;
    }
    rest = rest.subarray(at);
  });
}

/** @param split decides where the stream is cut into writes, at any byte; without it frames leave whole. */
function writeFrames(socket: Socket, frames: readonly Uint8Array[], split: SeededRandom | undefined): void {
  if (socket.destroyed) return;
  const parts: Uint8Array[] = [];
  for (const frame of frames) {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(frame.length);
    parts.push(header, frame);
  }
  const bytes = Buffer.concat(parts);
  let at = 0;
  while (split?.chance(0.3) && at < bytes.length) {
    const len = 1 + split.below(Math.min(bytes.length - at, split.chance(0.5) ? 6 : 2000));
    socket.write(bytes.subarray(at, at + len));
    at += len;
  }
  if (at < bytes.length) socket.write(bytes.subarray(at));
}

/** Where a side of the relay is: a socket that it dials, or one on which it waits for one connection. */
export interface RelaySide {
  readonly path: string;
  readonly listen: boolean;
}

/** One relay: each direction has the same faults, with seeds of its own. */
export class FaultyRelay {
  readonly #real = new RealTime();
  readonly #sockets: Socket[] = [];
  readonly #servers: Server[] = [];
  readonly #waiting: Promise<Socket>[] = [];
  readonly #split: boolean;

  private constructor(split: boolean) {
    this.#split = split;
  }

  /** The sides that listen do so when this resolves; frames move once both are there. */
  static async start(
    a: RelaySide,
    b: RelaySide,
    profile: FaultProfile,
    seed: number,
    split: boolean = false,
  ): Promise<FaultyRelay> {
    const relay = new FaultyRelay(split);
    for (const side of [a, b]) await relay.#open(side);
    void Promise.all(relay.#waiting).then(([one, other]) => {
      relay.#join(one!, other!, profile, seed * 2);
      relay.#join(other!, one!, profile, seed * 2 + 1);
    });
    return relay;
  }

  async #open(side: RelaySide): Promise<void> {
    const keep = (socket: Socket): Socket => {
      this.#sockets.push(socket);
      socket.on('error', () => socket.destroy());
      return socket;
    };
    if (!side.listen) {
      const socket = keep(connect(side.path));
      this.#waiting.push(new Promise((resolve) => socket.once('connect', () => resolve(socket))));
      return;
    }
    const server = createServer();
    this.#servers.push(server);
    this.#waiting.push(new Promise((resolve) => server.once('connection', (socket) => resolve(keep(socket)))));
    await new Promise<void>((resolve) => server.listen(side.path, resolve));
  }

  #join(from: Socket, to: Socket, profile: FaultProfile, seed: number): void {
    const random = new SeededRandom(seed);
    const split = this.#split ? new SeededRandom(seed) : undefined;
    const deliver = (frames: Uint8Array[]): void => writeFrames(to, frames, split);
    const link = new FaultyLink(profile, this.#real.timeline, random, deliver);
    readFrames(from, (frame) => {
      this.#real.pump();
      link.send(frame);
      this.#real.pump();
    });
  }

  close(): void {
    this.#real.close();
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
  }
}
