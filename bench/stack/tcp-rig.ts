// A stack with one VM on a link that counts, an owner of flows that takes and forgets, and a guest that speaks the least TCP there is: its
// frames lie in packet memory as a link reads them.

import { createPacketMemory } from '../../src/host/packet-memory.ts';
import { Cidr4, parseV4 } from '../../src/ip/address.ts';
import { FrameReader, prefixBytes, writePrefix } from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import type { Egress, FlowOwner, TcpFlow } from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import type { VmPort } from '../../src/stack/vm-port.ts';
import type { Connection } from '../../src/tcp/connection.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { FLAG_ACK, FLAG_FIN, FLAG_SYN } from '../../src/tcp/segment.ts';
import { SeededRandom } from '../../test/helpers/seeded-random.ts';
import { GATEWAY_MAC, noise, type SegmentFields, setAck, setSeq, writeSegment } from '../wire.ts';

const MEMORY_BYTES = 64 * 1024 * 1024;
const BATCH_BYTES = 256 * 1024;
const READ_BYTES = 256 * 1024;
const PREFIX = prefixBytes('qemu');
const GUEST = parseV4('192.168.65.3')!;
const REMOTE = parseV4('203.0.113.9')!;
const REMOTE_PORT = 80;
const FIRST_SEQ = 1000;

/** A link whose VM takes everything. */
class CountingEgress implements Egress {
  frames = 0;
  bytes = 0;
  runOffset = 0;
  runStride = 0;
  readonly #base: number;
  #fill = 0;

  constructor(base: number) {
    this.#base = base;
  }

  reserve(len: number): number {
    if (this.#fill + PREFIX + len > BATCH_BYTES) this.flush();
    return this.#base + this.#fill + PREFIX;
  }

  commit(_off: number, len: number): void {
    this.frames++;
    this.bytes += len;
    this.#fill += PREFIX + len;
  }

  reserveRun(len: number, count: number): number {
    this.runOffset = this.reserve(len);
    this.runStride = PREFIX + len;
    return Math.min(count, Math.floor((BATCH_BYTES - this.#fill) / this.runStride));
  }

  commitRun(_off: number, len: number, count: number): void {
    this.frames += count;
    this.bytes += count * len;
    this.#fill += count * this.runStride;
  }

  flush(): void {
    this.#fill = 0;
  }

  close(): void {}
}

/** The host's side of a flow: takes what comes, ends when the guest does. */
class Taker implements FlowOwner {
  readonly flow: TcpFlow;
  taken = 0;
  closed: string | undefined;

  constructor(flow: TcpFlow) {
    this.flow = flow;
  }

  onEstablished(): void {}

  onReadable(now: number): void {
    const { flow } = this;
    while (flow.readable > 0) {
      const len = flow.readable;
      this.taken += len;
      flow.consume(len, now);
    }
    if (flow.ended) flow.shutdown(now);
  }

  onWritable(): void {}

  onClosed(reason: string): void {
    this.closed = reason;
    this.flow.release();
  }
}

/** One flow that stands, with where the guest's numbers are. */
export interface Talk {
  readonly c: Connection;
  readonly owner: Taker;
  readonly fields: SegmentFields;
  seq: number;
}

export class TcpRig {
  now = 1000;
  readonly mem: Buffer;
  readonly stack: Stack;
  readonly port: VmPort;
  readonly egress: CountingEgress;
  /** What the host would write: any bytes. */
  readonly data: number;
  readonly #block: number;
  readonly #reader: FrameReader;
  readonly #mss: number;
  /** Heads of frames that runs write over. */
  readonly #heads: number[] = [];
  #end = 0;
  #owner: Taker | undefined;

  constructor(mtu: number) {
    const { slab, mem, kernel } = createPacketMemory(MEMORY_BYTES);
    this.mem = mem;
    this.#mss = mtu - 40;
    this.#block = slab.alloc(READ_BYTES);
    this.egress = new CountingEgress(slab.alloc(BATCH_BYTES));
    this.data = slab.alloc(READ_BYTES);
    noise(mem, this.#block, this.#block + READ_BYTES);
    noise(mem, this.data, this.data + READ_BYTES);
    this.stack = new Stack(
      {
        network: Cidr4.parse('192.168.65.0/24')!,
        gateway: parseV4('192.168.65.1')!,
        hostAlias: undefined,
        mac: GATEWAY_MAC,
        tcp: { ...DEFAULT_TCP_LIMITS },
        kernel,
      },
      slab,
      new SeededRandom(1),
      {
        onSyn: (flow, now) => {
          this.#owner = new Taker(flow);
          flow.owner = this.#owner;
          flow.accept(now);
        },
      },
      { onDatagram: () => false, onVmGone: () => {} },
      {
        onTurnWanted: () => {},
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => {
          throw error;
        },
      },
    );
    this.port = this.stack.attach(this.egress, { name: 'bench', mtu, mtuTold: true }, this.now) as VmPort;
    const counters = new LinkCounters();
    this.#reader = new FrameReader(
      'qemu',
      mem,
      this.#block,
      READ_BYTES,
      counters,
      (off, len) => this.port.input(mem, off, len, this.now),
      (frame, at, end) => this.port.inputRun(frame, at, end, PREFIX, this.now),
    );
  }

  /** Frames that `write` puts side by side. */
  fits(payload: number): number {
    return Math.floor(READ_BYTES / (PREFIX + 66 + payload)) - 1;
  }

  /** Writes a flow's segments as one read brings them. */
  write(talk: Pick<Talk, 'fields' | 'seq'>, count: number, payload: number, flags = FLAG_ACK): void {
    let at = this.#block;
    this.#heads.length = 0;
    for (let i = 0; i < count; i++) {
      const fields = { ...talk.fields, seq: (talk.seq + i * payload) | 0, payload, flags };
      const len = writeSegment(this.mem, at + PREFIX, fields);
      writePrefix('qemu', this.mem, at, len);
      this.#heads.push(at);
      at += PREFIX + len;
    }
    this.#end = at;
  }

  /** Numbers what was written anew. A run leaves its results where its first frame began: that is mended, too. */
  number(seq: number, payload: number, ack: number, ackStep = 0): void {
    const { mem } = this;
    const heads = this.#heads;
    const first = heads[0]!;
    for (let i = 0; i < heads.length; i++) {
      const at = heads[i]!;
      if (i === 1) {
        // One length for all of them.
        mem.copyWithin(at, first, first + 16);
      }
      setSeq(mem, at + PREFIX, (seq + i * payload) | 0);
      setAck(mem, at + PREFIX, (ack + i * ackStep) | 0);
    }
  }

  /** One read of the link: what was written, and the turn behind it. */
  read(): void {
    this.#reader.received(this.#end - this.#block);
    this.#reader.parse();
    this.port.endTurn(this.now);
  }

  /** Opens a flow all the way. */
  open(srcPort: number): Talk {
    const addresses = { src: GUEST, dst: REMOTE, srcPort, dstPort: REMOTE_PORT, seq: FIRST_SEQ };
    this.write({ fields: { ...addresses, mss: this.#mss }, seq: FIRST_SEQ }, 1, 0, FLAG_SYN);
    this.read();
    const c = this.stack.tcp.table.find4(GUEST, srcPort, REMOTE, REMOTE_PORT);
    const owner = this.#owner;
    if (c === undefined || owner === undefined) throw new Error('no flow after a SYN');
    const talk: Talk = { c, owner, fields: { ...addresses, ack: c.sndNxt, wnd: 0xffff }, seq: FIRST_SEQ + 1 };
    this.write(talk, 1, 0);
    this.read();
    return talk;
  }

  /** The guest ends a flow, and hears the end of the host's side. */
  close(talk: Talk): void {
    this.write({ ...talk, fields: { ...talk.fields, ack: talk.c.sndNxt } }, 1, 0, FLAG_ACK | FLAG_FIN);
    this.read();
    this.write({ seq: talk.seq + 1, fields: { ...talk.fields, ack: talk.c.sndNxt } }, 1, 0);
    this.read();
  }
}
