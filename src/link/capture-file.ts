// The file behind `--pcap`: frames of all links into one pcapng. A regular file gets every frame: a full chunk is written before
// the next frame is taken, so a slow disk slows the network down for as long as somebody captures. A pipe is written
// asynchronously through a bounded queue, for its reader may hang: what does not fit is left out and counted, and the counts stand
// in the file as interface statistics. A failed write ends the capture, not the daemon.

import { constants, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { ExitCode } from '../host/exit-code.ts';
import type { Timers } from '../host/host-clock.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import {
  type Direction,
  MAX_CONTROL_BLOCK_BYTES,
  packetBlockBytes,
  writeInterface,
  writePacket,
  writeSectionHeader,
  writeStatistics,
} from './pcapng.ts';
import type { LinkLog } from './vm-link.ts';

const CHUNK_BYTES = 512 * 1024;
/** A chunk that is not full leaves after this long, so that a reader of the growing file sees frames soon. */
const FLUSH_MS = 100;
/** How far the wall clock may drift from the monotonic one before it is read anew. */
const DRIFT_MS = 20;

/** Pause before a named pipe whose reader is behind is written to again. */
const PIPE_RETRY_MS = 10;
/** How long `close` waits for the disk, or for the reader of a pipe. */
const CLOSE_DEADLINE_MS = 500;
/**
 * Never blocking: a pipe without a reader is an error at once, and one whose reader hangs cannot hold a thread for ever (and with it
 * the end of the process). Regular files do not care.
 */
const OPEN_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NONBLOCK;

export const DEFAULT_CAPTURE_QUEUE_BYTES: number = 16 * 1024 * 1024;
/** Everything of every frame that a link can carry. */
export const DEFAULT_SNAP_BYTES = 262_144;

export interface CaptureOptions {
  readonly path: string;
  /** Bytes kept of each frame. */
  readonly snapBytes?: number;
  /** Bytes that may wait for the disk. */
  readonly queueBytes?: number;
}

/** One link in the file; its number there is given with its first frame. */
export interface CaptureInterface {
  readonly name: string;
  /** Number in the file, -1 before the first frame. */
  index: number;
  received: number;
  dropped: number;
}

interface Chunk {
  readonly bytes: Buffer;
  used: number;
}

/** An open capture file. */
export class CaptureFile {
  readonly path: string;
  /** Frames in the file. */
  frames = 0;
  /** Frames left out because the queue was full, or after a write failed. */
  dropped = 0;
  bytesWritten = 0;
  readonly #file: FileHandle;
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #log: LinkLog;
  readonly #snap: number;
  readonly #maxChunks: number;
  readonly #live: Set<CaptureInterface> = new Set();
  readonly #queue: Chunk[] = [];
  readonly #spare: Chunk[] = [];
  #chunks = 0;
  #current: Chunk | undefined;
  #interfaces = 0;
  #writing: Promise<void> | undefined;
  #cancelFlush: (() => void) | undefined;
  #wallOffsetMs: number;
  #closed = false;
  /** `close` has waited long enough. */
  #abandoned = false;

  /** A regular file: written in place. */
  readonly #regular: boolean;

  private constructor(
    file: FileHandle,
    regular: boolean,
    options: CaptureOptions,
    clock: Clock,
    timers: Timers,
    log: LinkLog,
  ) {
    this.path = options.path;
    this.#file = file;
    this.#regular = regular;
    this.#clock = clock;
    this.#timers = timers;
    this.#log = log;
    this.#snap = options.snapBytes ?? DEFAULT_SNAP_BYTES;
    this.#maxChunks = Math.max(2, Math.floor((options.queueBytes ?? DEFAULT_CAPTURE_QUEUE_BYTES) / CHUNK_BYTES));
    this.#wallOffsetMs = Date.now() - clock.now();
    const first = this.#room(MAX_CONTROL_BLOCK_BYTES);
    if (first !== undefined) first.used += writeSectionHeader(first.bytes, first.used, 'isthmus');
    this.#flush();
  }

  /**
   * Creates the file (mode 0600: it holds all that the guests say) or opens a named pipe.
   * @throws OperatorError ERR_PCAP (73) if that fails.
   */
  static async open(options: CaptureOptions, clock: Clock, timers: Timers, log: LinkLog): Promise<CaptureFile> {
    try {
      const file = await open(options.path, OPEN_FLAGS, 0o600);
      return new CaptureFile(file, (await file.stat()).isFile(), options, clock, timers, log);
    } catch (error) {
      const code = errnoOf(error) ?? String(error);
      const wrong =
        code === 'ENXIO'
          ? 'is a pipe that nobody reads; start the reader first'
          : `cannot be written (${code}); name a file in a directory of your own`;
      throw new OperatorError(`pcap: ${options.path} ${wrong}`, {
        code: 'ERR_PCAP',
        exitCode: ExitCode.CannotCreate,
        cause: error,
      });
    }
  }

  /** A link has come. */
  addInterface(name: string): CaptureInterface {
    const added: CaptureInterface = { name, index: -1, received: 0, dropped: 0 };
    this.#live.add(added);
    return added;
  }

  /** A link has gone: its counts go into the file. */
  endInterface(gone: CaptureInterface): void {
    if (this.#live.delete(gone)) this.#statistics(gone);
  }

  /** Takes one frame down; it is copied. */
  add(from: CaptureInterface, direction: Direction, buf: Uint8Array, off: number, len: number): void {
    from.received++;
    const captured = Math.min(len, this.#snap);
    const need = packetBlockBytes(captured) + (from.index < 0 ? MAX_CONTROL_BLOCK_BYTES : 0);
    const chunk = this.#room(need);
    if (chunk === undefined) {
      from.dropped++;
      this.dropped++;
      return;
    }
    if (from.index < 0) {
      from.index = this.#interfaces++;
      chunk.used += writeInterface(chunk.bytes, chunk.used, from.name, this.#snap);
    }
    chunk.used += writePacket(chunk.bytes, chunk.used, from.index, this.#micros(), direction, buf, off, captured, len);
    this.frames++;
    this.#cancelFlush ??= this.#timers.after(FLUSH_MS, () => this.#flush());
  }

  /** Writes what waits, with the counts of all links, and closes the file; gives up after half a second. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    for (const live of this.#live) this.#statistics(live);
    this.#live.clear();
    this.#flush();
    this.#closed = true;
    const giveUp = new AbortController();
    const deadline = sleep(CLOSE_DEADLINE_MS, undefined, { signal: giveUp.signal }).then(
      () => {
        this.#abandoned = true;
      },
      () => {},
    );
    await Promise.race([this.#finish(), deadline]);
    giveUp.abort();
  }

  async #finish(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    await this.#file.close().catch(() => {});
  }

  #statistics(of: CaptureInterface): void {
    if (of.index < 0) return;
    const chunk = this.#room(MAX_CONTROL_BLOCK_BYTES);
    if (chunk === undefined) return;
    chunk.used += writeStatistics(chunk.bytes, chunk.used, of.index, this.#micros(), of.received, of.dropped);
    this.#cancelFlush ??= this.#timers.after(FLUSH_MS, () => this.#flush());
  }

  /** The chunk with `bytes` free, or undefined if the queue is at its bound. */
  #room(bytes: number): Chunk | undefined {
    if (this.#closed || bytes > CHUNK_BYTES) return undefined;
    if (this.#current !== undefined && this.#current.used + bytes > CHUNK_BYTES) this.#flush();
    if (this.#current === undefined) {
      const spare = this.#spare.pop();
      if (spare !== undefined) {
        this.#current = spare;
      } else if (this.#chunks < this.#maxChunks) {
        this.#chunks++;
        this.#current = { bytes: Buffer.allocUnsafeSlow(CHUNK_BYTES), used: 0 };
      }
    }
    return this.#current;
  }

  #flush(): void {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    const chunk = this.#current;
    if (chunk === undefined || chunk.used === 0) return;
    if (this.#regular) this.#writeNow(chunk);
    else {
      this.#current = undefined;
      this.#queue.push(chunk);
      this.#writing ??= this.#drain();
    }
    // Laptops sleep and clocks are set: the monotonic clock is tied to the wall clock again now and then.
    const offset = Date.now() - this.#clock.now();
    if (Math.abs(offset - this.#wallOffsetMs) > DRIFT_MS) this.#wallOffsetMs = offset;
  }

  #writeNow(chunk: Chunk): void {
    try {
      for (let at = 0; at < chunk.used; ) {
        const written = writeSync(this.#file.fd, chunk.bytes, at, chunk.used - at);
        at += written;
        this.bytesWritten += written;
      }
      chunk.used = 0;
    } catch (error) {
      this.#fail(error);
    }
  }

  async #drain(): Promise<void> {
    for (let chunk = this.#queue.shift(); chunk !== undefined; chunk = this.#queue.shift()) {
      try {
        await this.#write(chunk);
      } catch (error) {
        this.#fail(error);
        break;
      }
      chunk.used = 0;
      // One spare is enough for a disk that keeps up; after a jam the rest goes back to the heap.
      if (this.#spare.length === 0) this.#spare.push(chunk);
      else this.#chunks--;
    }
    this.#writing = undefined;
  }

  async #write(chunk: Chunk): Promise<void> {
    let at = 0;
    while (at < chunk.used) {
      try {
        const { bytesWritten } = await this.#file.write(chunk.bytes, at, chunk.used - at);
        at += bytesWritten;
        this.bytesWritten += bytesWritten;
      } catch (error) {
        // The pipe is full.
        if (errnoOf(error) !== 'EAGAIN' || this.#abandoned) throw error;
        await sleep(PIPE_RETRY_MS);
      }
    }
  }

  #fail(error: unknown): void {
    this.#closed = true;
    this.#queue.length = 0;
    this.#spare.length = 0;
    this.#current = undefined;
    this.#cancelFlush?.();
    this.#log.warn(
      { event: 'capture.failed', path: this.path, reason: errnoOf(error) ?? String(error) },
      'the capture file cannot be written: the capture ends here',
    );
    this.#file.close().catch(() => {});
  }

  #micros(): number {
    return (this.#clock.now() + this.#wallOffsetMs) * 1000;
  }
}
