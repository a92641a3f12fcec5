// A capture that somebody reads while it runs: frames into pcapng blocks, blocks into a readable stream. It never holds the packet path
// up: beyond a bound of bytes that the reader has not taken frames are left out and counted, and once there is room again the counts
// stand in the stream as interface statistics.

import { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import {
  Direction,
  MAX_CONTROL_BLOCK_BYTES,
  packetBlockBytes,
  writeInterface,
  writePacket,
  writeSectionHeader,
  writeStatistics,
} from './pcapng.ts';

const CHUNK_BYTES = 256 * 1024;
/** A chunk that is not full leaves after this long. */
const FLUSH_MS = 50;
/** Bytes that may wait for the reader. */
export const LIVE_CAPTURE_QUEUE_BYTES: number = 4 * 1024 * 1024;

export interface LiveCaptureOptions {
  readonly clock: Clock;
  /** Bytes kept of each frame. */
  readonly snapBytes: number;
  readonly queueBytes?: number;
}

interface Interface {
  readonly index: number;
  received: number;
  dropped: number;
  /** Dropped ones that the stream has been told of. */
  told: number;
}

export class LiveCapture {
  readonly output: Readable;
  /** Frames in the stream. */
  frames = 0;
  /** Frames left out. */
  dropped = 0;
  readonly #clock: Clock;
  readonly #snap: number;
  readonly #queueBytes: number;
  readonly #wallOffsetMs: number;
  readonly #interfaces = new Map<number, Interface>();
  #chunk: Buffer | undefined;
  #used = 0;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(options: LiveCaptureOptions) {
    this.#clock = options.clock;
    this.#snap = options.snapBytes;
    this.#queueBytes = options.queueBytes ?? LIVE_CAPTURE_QUEUE_BYTES;
    this.#wallOffsetMs = Date.now() - options.clock.now();
    this.output = new Readable({ read: () => {}, highWaterMark: this.#queueBytes });
    this.output.on('error', () => {});
    this.#used = writeSectionHeader(this.#room(MAX_CONTROL_BLOCK_BYTES)!, 0, 'isthmus');
    this.#flush();
  }

  /** Takes one frame of a VM down; it is copied. @returns false if it was left out. */
  add(vm: number, name: string, toGuest: boolean, buf: Uint8Array, off: number, len: number): boolean {
    if (this.#ended) return true;
    const captured = Math.min(len, this.#snap);
    // Room for the interface and for its statistics, too.
    const chunk = this.#room(packetBlockBytes(captured) + 2 * MAX_CONTROL_BLOCK_BYTES);
    let from = this.#interfaces.get(vm);
    if (chunk === undefined) {
      this.dropped++;
      if (from !== undefined) {
        from.received++;
        from.dropped++;
      }
      return false;
    }
    if (from === undefined) {
      from = { index: this.#interfaces.size, received: 0, dropped: 0, told: 0 };
      this.#interfaces.set(vm, from);
      this.#used += writeInterface(chunk, this.#used, name, this.#snap);
    }
    from.received++;
    if (from.told < from.dropped) this.#statistics(chunk, from);
    const direction = toGuest ? Direction.Outbound : Direction.Inbound;
    this.#used += writePacket(chunk, this.#used, from.index, this.#micros(), direction, buf, off, captured, len);
    this.frames++;
    this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS).unref();
    return true;
  }

  /** The end of the stream, with the counts of all interfaces. Idempotent. */
  end(): void {
    if (this.#ended) return;
    for (const of of this.#interfaces.values()) {
      const chunk = this.#room(MAX_CONTROL_BLOCK_BYTES);
      if (chunk !== undefined) this.#statistics(chunk, of);
    }
    this.#flush();
    this.#ended = true;
    this.output.push(null);
  }

  #statistics(chunk: Buffer, of: Interface): void {
    this.#used += writeStatistics(chunk, this.#used, of.index, this.#micros(), of.received, of.dropped);
    of.told = of.dropped;
  }

  /** The chunk with `bytes` free, or undefined if the reader is too far behind. */
  #room(bytes: number): Buffer | undefined {
    if (this.#chunk !== undefined && this.#used + bytes > CHUNK_BYTES) this.#flush();
    if (this.#chunk === undefined) {
      if (this.output.readableLength + CHUNK_BYTES > this.#queueBytes) return undefined;
      this.#chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      this.#used = 0;
    }
    return this.#chunk;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const chunk = this.#chunk;
    if (chunk === undefined || this.#used === 0 || this.#ended) return;
    // A little of a chunk is copied, so that many small ones do not hold whole chunks each.
    const small = this.#used < CHUNK_BYTES / 8;
    this.output.push(small ? Buffer.from(chunk.subarray(0, this.#used)) : chunk.subarray(0, this.#used));
    this.#chunk = small ? chunk : undefined;
    this.#used = 0;
  }

  #micros(): number {
    return (this.#clock.now() + this.#wallOffsetMs) * 1000;
  }
}
