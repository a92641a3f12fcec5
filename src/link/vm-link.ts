// One connection of a VM: socket, read block, frame reader and writer, handshake where there is one, and the stack's `LinkPort`.
// It owns their life together: from the first byte to the moment when the last block of memory is back in the slab.
//
// Reading never stops for the guest's sake: the TCP window holds guests back. Each read is one turn: every whole frame of it
// goes to the stack, then `endTurn`, which leaves in one write.
//
// Memory is given back at the sockets' 'close' event and not before: when the stack itself ends the link in the middle of a
// call, it may still read the frame or write its answer.

import type { Clock, Millis } from '../base/clock.ts';
import type { Timers } from '../host/host-clock.ts';
import type { PacketMemory } from '../host/packet-memory.ts';
import type { HostStream, StreamOwner } from '../host/stream.ts';
import type { LinkHost, LinkPort } from '../stack/ports.ts';
import { FrameWriter, keptBlockBytes } from './frame-writer.ts';
import { type FrameFormat, FrameReader, MAX_FRAME_BYTES, prefixBytes, readBlockBytes } from './framing.ts';
import { type Identities, VpnkitHandshake } from './handshake.ts';
import { LinkCounters } from './link-counters.ts';

/** How long a client may take for the handshake. */
export const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a refusal may take to leave before the socket is closed over it. */
const FAREWELL_MS = 1000;
/** What the kernel is to take from us before we wait for the VM: more gains little and makes small messages wait behind it. */
const SEND_BUFFER_BYTES = 512 * 1024;
/** Small packets cost the VM more, so that its queue lasts longer and may be longer. */
const LARGE_MTU = 16_384;
/** Pause before packet memory is asked for again. */
const MEMORY_RETRY_MS = 50;

/** Log lines; pino's shape. Events are stable names, e.g. `link.connected`. */
export interface LinkLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** What all links of a process share. */
export interface LinkContext {
  readonly memory: PacketMemory;
  readonly host: LinkHost;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly identities: Identities;
  readonly log: LinkLog;
}

/** Where one link reads and writes; mostly one stream twice. */
export interface LinkStreams {
  readonly input: HostStream;
  readonly output: HostStream;
}

/** A connection not opened yet: opening needs the read block, which may have to wait for memory. */
export interface LinkSource {
  open(owner: StreamOwner): LinkStreams;
  /** Closes it unopened. */
  discard(): void;
}

/** One VM's connection. */
export class VmLink implements StreamOwner {
  readonly name: string;
  readonly format: FrameFormat;
  readonly mtu: number;
  readonly counters: LinkCounters = new LinkCounters();
  readonly #context: LinkContext;
  readonly #source: LinkSource;
  readonly #onGone: (link: VmLink) => void;
  #reader: FrameReader | undefined;
  #writer: FrameWriter | undefined;
  #streams: LinkStreams | undefined;
  #whole: Uint8Array | undefined;
  #handshake: VpnkitHandshake | undefined;
  #port: LinkPort | undefined;
  #readBlock = -1;
  #openStreams = 0;
  #cancelTimer: (() => void) | undefined;
  #now: Millis = 0;
  #ended = false;
  /** The identity that the handshake told, to be given back. */
  #uuid = '';
  #mac: Uint8Array | undefined;

  /** @param onGone the link has ended and holds nothing any more. */
  constructor(
    name: string,
    format: FrameFormat,
    mtu: number,
    source: LinkSource,
    context: LinkContext,
    onGone: (link: VmLink) => void,
  ) {
    this.name = name;
    this.format = format;
    this.mtu = mtu;
    this.#source = source;
    this.#context = context;
    this.#onGone = onGone;
  }

  /** The stack's number of this VM, 0 before it is attached. */
  get id(): number {
    return this.#port?.id ?? 0;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Starts reading as soon as there is memory for it. @throws what `source.open` throws, unless it had to wait. */
  start(): void {
    if (this.#ended) return;
    const { slab } = this.#context.memory;
    const size = readBlockBytes(this.mtu);
    const block = slab.alloc(size);
    const kept = block < 0 ? -1 : slab.alloc(keptBlockBytes(this.format, this.mtu));
    if (kept < 0) {
      if (block >= 0) slab.free(block);
      if (this.counters.memoryWaits++ === 0) {
        this.#context.log.warn({ event: 'link.memory', link: this.name }, 'no packet memory for a new VM: it waits');
      }
      this.#cancelTimer = this.#context.timers.after(MEMORY_RETRY_MS, () => this.#restart());
      return;
    }
    this.#readBlock = block;
    this.#open(size, kept);
  }

  /** Ends the connection: its flows end at once, its memory is free a moment later (`onGone`). Idempotent. */
  close(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#reader?.stop();
    this.#writer?.shut();
    this.#cancelTimer?.();
    const c = this.counters;
    this.#context.log.info(
      { event: 'link.closed', link: this.name, reason, rxFrames: c.rxFrames, txFrames: c.txFrames },
      'VM disconnected',
    );
    if (this.#streams === undefined) {
      this.#source.discard();
      this.#free();
    } else {
      this.#streams.input.destroy();
      if (this.#streams.output !== this.#streams.input) this.#streams.output.destroy();
    }
    this.#port?.close(this.#context.clock.now());
    if (this.#uuid !== '') this.#context.identities.disconnected(this.#uuid);
  }

  #restart(): void {
    try {
      this.start();
    } catch (error) {
      this.close(String(error));
    }
  }

  #open(size: number, kept: number): void {
    const { slab, mem } = this.#context.memory;
    const format = this.format;
    const reader = new FrameReader(
      format,
      mem,
      this.#readBlock,
      size,
      this.counters,
      (off, len) => this.#port?.input(mem, off, len, this.#now),
      (frame, at, end) => this.#onRun(frame, at, end),
    );
    this.#reader = reader;
    this.#writer = new FrameWriter(
      format,
      this.mtu,
      slab,
      kept,
      { write: (bytes, done) => this.#write(bytes, done) },
      this.counters,
      () => this.#port?.writable(this.#context.clock.now()),
      (reason) => this.#closeByStack(reason),
    );
    this.#whole = mem.subarray(reader.roomOffset, reader.roomOffset + size);
    let streams: LinkStreams;
    try {
      streams = this.#source.open(this);
    } catch (error) {
      this.#ended = true;
      this.#free();
      throw error;
    }
    this.#streams = streams;
    const { input, output } = streams;
    this.#openStreams = input === output ? 1 : 2;
    output.wantSendBuffer(this.mtu > LARGE_MTU ? SEND_BUFFER_BYTES : 2 * SEND_BUFFER_BYTES);
    this.#context.log.info({ event: 'link.connected', link: this.name, mtu: this.mtu }, 'VM connected');
    if (format === 'qemu') this.#attach();
    else this.#beginHandshake(output);
    input.resume();
  }

  #onRun(frame: number, at: number, end: number): number {
    const port = this.#port;
    if (port?.inputRun === undefined) return 0;
    const prefix = prefixBytes(this.format);
    const used = port.inputRun(frame, at, end, prefix, this.#now);
    if (used === 0) return 0;
    const frames = port.runFrames ?? 0;
    this.counters.rxFrames += frames;
    this.counters.rxBytes += used - frames * prefix;
    return used;
  }

  // --- The streams' events.

  onConnect(): void {}

  readBuffer(): Uint8Array {
    const { mem } = this.#context.memory;
    const reader = this.#reader;
    const whole = this.#whole;
    if (reader === undefined || whole === undefined) return mem.subarray(0, 0);
    return reader.room === whole.length ? whole : mem.subarray(reader.roomOffset, reader.roomOffset + reader.room);
  }

  onRead(bytes: number): boolean {
    return this.#received(bytes);
  }

  onEnd(): void {
    this.close('closed by the VM');
  }

  onError(errno: string): void {
    this.close(errno);
  }

  onClose(): void {
    this.close('closed');
    if (--this.#openStreams === 0) this.#free();
  }

  #attach(): void {
    const writer = this.#writer;
    if (writer === undefined || this.#ended) return;
    const mtuTold = this.format === 'vpnkit';
    const now = this.#context.clock.now();
    this.#now = now;
    const identity = this.#mac === undefined ? {} : { mac: this.#mac };
    this.#port = this.#context.host.attach(writer, { name: this.name, mtu: this.mtu, mtuTold, ...identity }, now);
    // The stack may have turned the VM away at once.
    if (this.#ended) this.#port.close(now);
  }

  #beginHandshake(output: HostStream): void {
    this.#handshake = new VpnkitHandshake(this.#context.identities, this.mtu, (bytes) => output.write(bytes, nothing));
    this.#cancelTimer = this.#context.timers.after(HANDSHAKE_TIMEOUT_MS, () => {
      this.#handshakeFailed('it took longer than 10 s');
      this.close('handshake timed out');
    });
  }

  /** One read. @returns false to stop reading (the link says goodbye). */
  #received(n: number): boolean {
    const reader = this.#reader;
    if (reader === undefined || this.#ended) return true;
    this.counters.rxReads++;
    this.#now = this.#context.clock.now();
    reader.received(n);
    if (this.#handshake !== undefined && !this.#shakeHands(this.#handshake, reader))
      return this.#handshake?.state !== 'failed';
    if (!reader.parse()) {
      const length = reader.overlongBytes;
      this.#context.log.warn(
        { event: 'link.overlong', link: this.name, length },
        `frame length ${length} is beyond ${MAX_FRAME_BYTES}: the stream is out of step or no ${this.format} stream, the link ends`,
      );
      this.close('over-long frame');
    } else if (!this.#ended) {
      this.#port?.endTurn(this.#now);
    }
    return true;
  }

  /** @returns true once frames follow. */
  #shakeHands(handshake: VpnkitHandshake, reader: FrameReader): boolean {
    reader.skip(handshake.input(this.#context.memory.mem, reader.heldOffset, reader.held));
    if (handshake.state === 'done') {
      this.#cancelTimer?.();
      this.#uuid = handshake.uuid;
      this.#mac = handshake.mac;
      this.#handshake = undefined;
      this.#attach();
      return !this.#ended;
    }
    reader.compact();
    if (handshake.state === 'failed') {
      this.#handshakeFailed(handshake.failure);
      this.#cancelTimer?.();
      this.#cancelTimer = this.#context.timers.after(FAREWELL_MS, () => this.close('handshake failed'));
      this.#streams?.output.end();
    }
    return false;
  }

  #handshakeFailed(why: string): void {
    this.counters.handshakeFailures++;
    this.#context.log.warn({ event: 'link.handshake.failed', link: this.name, reason: why }, 'VPNKit handshake failed');
  }

  #write(bytes: Uint8Array, done: () => void): boolean {
    const output = this.#streams?.output;
    if (output !== undefined && !this.#ended) return output.write(bytes, done);
    queueMicrotask(done);
    return false;
  }

  /** The stack is in the middle of something: no more frames now, the rest when it has returned. */
  #closeByStack(reason: string): void {
    this.#reader?.stop();
    this.#writer?.shut();
    queueMicrotask(() => this.close(reason));
  }

  #free(): void {
    if (this.#readBlock >= 0) this.#context.memory.slab.free(this.#readBlock);
    this.#readBlock = -1;
    this.#writer?.dispose();
    this.#writer = undefined;
    this.#onGone(this);
  }
}

function nothing(): void {}
