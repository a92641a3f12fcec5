// The host's side of a scripted flow: what the forwarder and a socket would be, under the script's hand. It reads what comes at
// once unless told to pause, checks every byte against the guest's pattern, and keeps what it could not write yet.

import { CloseReason, type FlowOwner, type RefuseReason, type TcpFlow } from '../../src/tcp/flow.ts';
import { ScriptError } from './script-error.ts';
import { guestByte, hostByte, streamBytes } from './stream-pattern.ts';

/** What a host needs of its script. */
export interface HostWorld {
  readonly now: number;
  log(line: string): void;
  /** Runs the turns that the action caused. */
  settle(): void;
}

export class ScriptHost implements FlowOwner {
  /** The flow, once the guest's SYN has arrived (or a connection was opened to the guest). */
  flow: TcpFlow | undefined;
  /** Times a SYN was announced to the host for this 4-tuple. */
  dials = 0;
  established = 0;
  /** The guest's end of stream was seen. */
  eof = false;
  closed: CloseReason | undefined;
  /** Bytes read since the start. */
  received = 0;
  /** The bytes themselves, where `keep` is set. */
  readonly bytes: number[] = [];
  keep = false;
  /** False where the guest's bytes do not follow the pattern. */
  verify = true;
  /** Bytes written so far, taken by the flow or not. */
  written = 0;
  #world: HostWorld;
  #paused = false;
  #unsent: Uint8Array = new Uint8Array(0);
  #ending = false;
  #expected = 0;

  constructor(world: HostWorld) {
    this.#world = world;
  }

  /** A new incarnation of the 4-tuple: counters start anew, `dials` goes on. */
  adopt(flow: TcpFlow): void {
    this.flow = flow;
    flow.owner = this;
    this.dials++;
    this.established = 0;
    this.eof = false;
    this.closed = undefined;
    this.received = 0;
    this.written = 0;
    this.#expected = 0;
    this.#unsent = new Uint8Array(0);
    this.#ending = false;
    this.#paused = false;
  }

  get #live(): TcpFlow {
    if (!this.flow) throw new ScriptError('the host has no flow: no SYN has reached it');
    return this.flow;
  }

  #act(line: string, what: () => void): void {
    this.#world.log(`H  ${line}`);
    what();
    this.#world.settle();
  }

  // --- What a script does.

  /** The dial has succeeded. */
  accept(): void {
    this.#act('accept', () => this.#live.accept(this.#world.now));
  }

  /** The dial has failed. */
  refuse(reason: RefuseReason = 'refused'): void {
    this.#act(`refuse (${reason})`, () => {
      this.#live.refuse(reason, this.#world.now);
      this.#live.release();
    });
  }

  /** Writes `n` bytes of the pattern, or these very bytes; what does not fit is written when there is room. */
  write(data: number | Uint8Array): void {
    const bytes = typeof data === 'number' ? streamBytes(hostByte, this.written + 1, data) : data;
    this.#act(`write ${bytes.length}`, () => {
      this.written += bytes.length;
      const all = new Uint8Array(this.#unsent.length + bytes.length);
      all.set(this.#unsent);
      all.set(bytes, this.#unsent.length);
      this.#unsent = all;
      this.#push();
    });
  }

  /** End of stream after everything written. */
  end(): void {
    this.#act('end', () => {
      this.#ending = true;
      this.#push();
    });
  }

  /** The host's connection was reset. */
  reset(): void {
    this.#act('reset', () => {
      this.#live.abort(CloseReason.HostReset, this.#world.now);
      this.#live.release();
    });
  }

  /** The socket is gone for good after its end of stream: nobody reads any more. */
  gone(): void {
    this.#act('gone', () => this.#live.orphan(this.#world.now));
  }

  /** Stops reading. */
  pause(): void {
    this.#world.log('H  pause');
    this.#paused = true;
  }

  /** Reads everything there is, and goes on reading. */
  resume(): void {
    this.#act('resume', () => {
      this.#paused = false;
      this.#read(Number.POSITIVE_INFINITY);
    });
  }

  /** Reads up to `n` bytes while paused. */
  read(n: number): void {
    this.#act(`read ${n}`, () => this.#read(n));
  }

  /** Bytes written that the flow has not taken yet. */
  get backlog(): number {
    return this.#unsent.length;
  }

  // --- What a script expects.

  /** Exactly `n` bytes were read since the last time this was asked. */
  expectRead(n: number): void {
    const got = this.received - this.#expected;
    this.#expected = this.received;
    if (got !== n) throw new ScriptError(`the host should have read ${n} bytes more, and read ${got}`);
  }

  expectEstablished(): void {
    if (this.established !== 1)
      throw new ScriptError(`the host was told of an established flow ${this.established} times`);
  }

  expectEof(): void {
    if (!this.eof) throw new ScriptError('the host has not seen the end of the stream');
  }

  expectNoEof(): void {
    if (this.eof) throw new ScriptError('the host has seen the end of the stream');
  }

  expectOpen(): void {
    if (this.closed !== undefined) throw new ScriptError(`the flow is closed (${this.closed})`);
  }

  /** The host was told that the flow is over, for this reason. */
  expectClosed(reason: CloseReason): void {
    if (this.closed !== reason)
      throw new ScriptError(`the flow should be closed (${reason}), and is ${this.closed ?? 'open'}`);
  }

  // --- FlowOwner.

  onEstablished(_now: number): void {
    this.established++;
    this.#world.log('H  <- established');
    if (!this.#paused) this.#read(Number.POSITIVE_INFINITY);
  }

  onReadable(_now: number): void {
    if (!this.#paused) this.#read(Number.POSITIVE_INFINITY);
  }

  onWritable(_now: number): void {
    this.#push();
  }

  onClosed(reason: CloseReason, _now: number): void {
    this.closed = reason;
    // A clean end is the end of the stream too: every byte before it was read.
    if (reason === CloseReason.Done) this.eof = true;
    this.#world.log(`H  <- closed (${reason})`);
    this.flow?.release();
  }

  #push(): void {
    const flow = this.#live;
    while (this.#unsent.length > 0) {
      const n = flow.write(this.#unsent, 0, this.#unsent.length, this.#world.now);
      if (n === 0) break;
      this.#unsent = this.#unsent.subarray(n);
    }
    if (this.#unsent.length > 0) flow.awaitWritable();
    else if (this.#ending) {
      this.#ending = false;
      flow.shutdown(this.#world.now);
    }
  }

  #read(most: number): void {
    const flow = this.#live;
    let read = 0;
    while (read < most && flow.readable > 0) {
      const n = Math.min(flow.readable, most - read);
      const off = flow.readableOffset;
      for (let i = 0; i < n; i++) {
        const byte = flow.mem[off + i]!;
        this.received++;
        if (this.keep) this.bytes.push(byte);
        if (this.verify && byte !== guestByte(this.received)) {
          throw new ScriptError(`the host read a byte at ${this.received} that is not the guest's`);
        }
      }
      flow.consume(n, this.#world.now);
      read += n;
    }
    if (read > 0) this.#world.log(`H  <- ${read} bytes`);
    if (flow.ended && !this.eof) {
      this.eof = true;
      this.#world.log('H  <- end of stream');
    }
  }
}
