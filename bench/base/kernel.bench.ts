// The packet kernel, each of its calls beside its plain twin: what a byte and a segment cost with SIMD and without. Both work on the same
// bytes, and must come to the same.
//
//   npm run bench -- base/kernel

import { finish, fold, sumBytes } from '../../src/base/checksum.ts';
import { type PacketKernel, PlainKernel } from '../../src/base/packet-kernel.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';
import { writePrefix } from '../../src/link/framing.ts';
import { type BenchCase, runSuite } from '../suite.ts';
import { BELOW_TCP, HEADERS, noise, setAck, writeSegment } from '../wire.ts';

const MIB = 1024 * 1024;
const { mem, kernel: wasm } = createPacketMemory(8 * MIB);
if (wasm instanceof PlainKernel) throw new Error('this engine has no SIMD');
const KERNELS: readonly (readonly [string, PacketKernel])[] = [
  ['wasm', wasm],
  ['plain', new PlainKernel(mem)],
];
noise(mem);

/** Where things lie: the frames, where their payload goes to, and two places to compare. */
const MODEL = 1024;
const FRAMES = 64 * 1024;
const DATA = 4 * MIB;
const PREFIX = 4;
const FLOW = { src: 0xc0a84103 | 0, dst: 0x0a000007, srcPort: 40_000, dstPort: 80 };
const SEQ = 7_000_000;
const TCP_BYTES = HEADERS - BELOW_TCP;

const cases: BenchCase[] = [];
const add = (name: string, perRun: number, run: () => unknown, check: () => string | undefined): void => {
  cases.push({ name, perRun, run, check });
};

for (const len of [64, 1448, 65_468]) {
  for (const [name, kernel] of KERNELS) {
    const sum = (): number => kernel.sum(66, len);
    add(`checksum, ${len} B, ${name}`, 1, sum, () =>
      sum() === fold(sumBytes(mem, 66, len)) ? undefined : 'wrong sum',
    );
  }
  for (const [name, kernel] of KERNELS) {
    const run = (): number => kernel.copySum(DATA + 2, 66, len);
    add(`copySum, ${len} B, ${name}`, 1, run, () => {
      mem.fill(0, DATA, DATA + len);
      if (run() !== fold(sumBytes(mem, 66, len))) return 'wrong sum';
      return Buffer.compare(mem.subarray(66, 66 + len), mem.subarray(DATA + 2, DATA + 2 + len)) === 0
        ? undefined
        : 'wrong copy';
    });
  }
}

/** Segments out: from a ring with its end in the midst of them. */
for (const [mss, count] of [
  [1448, 32],
  [65_468, 3],
] as const) {
  const ringCap = 256 * 1024;
  const ringAt = ringCap - mss - 100;
  const headers = writeSegment(mem, FRAMES, { ...FLOW, seq: SEQ, ack: 1, payload: 0 });
  const header = mem.slice(FRAMES, FRAMES + headers);
  // Of the TCP header without sequence number and checksum, and the pseudo-header.
  header.fill(0, BELOW_TCP + 16, BELOW_TCP + 18);
  const tcp = header.slice(BELOW_TCP);
  tcp.fill(0, 4, 8);
  const tcpLen = TCP_BYTES + mss;
  const partial = fold(sumBytes(header, 26, 8) + 6 + tcpLen + sumBytes(tcp, 0, TCP_BYTES));
  const stride = PREFIX + HEADERS + mss;
  for (const [name, kernel] of KERNELS) {
    const run = (): number => {
      kernel.segmentize(FRAMES, stride, count, HEADERS, BELOW_TCP, mss, DATA, ringCap, ringAt, partial, 0x18);
      return mem[FRAMES + stride + BELOW_TCP + 16]!;
    };
    const check = (): string | undefined => {
      mem.set(header, FRAMES);
      run();
      for (let i = 0; i < count; i++) {
        const at = FRAMES + i * stride;
        const sum = sumBytes(mem, at + 26, 8) + 6 + tcpLen + sumBytes(mem, at + BELOW_TCP, tcpLen);
        if (fold(sum) !== 0xffff) return `segment ${i} has a wrong checksum`;
        for (const n of [0, 99, 100, mss - 1]) {
          if (mem[at + HEADERS + n] !== mem[DATA + ((ringAt + i * mss + n) % ringCap)])
            return `segment ${i} has wrong bytes`;
        }
      }
      return undefined;
    };
    add(`segmentize, a segment of ${mss} B, ${name}`, count, run, check);
  }
}

/** Writes frames back to back as a link reads them. @returns the end */
function writeFrames(count: number, payload: number, each: (i: number) => { seq: number; ack: number }): number {
  let at = FRAMES;
  for (let i = 0; i < count; i++) {
    const len = writeSegment(mem, at + PREFIX, { ...FLOW, ...each(i), payload });
    writePrefix('qemu', mem, at, len);
    at += PREFIX + len;
  }
  return at;
}

for (const [payload, count] of [
  [1448, 64],
  [65_468, 3],
] as const) {
  for (const [name, kernel] of KERNELS) {
    let end = 0;
    const head = new Uint8Array(16);
    const run = (): number => {
      mem.set(head, FRAMES);
      return kernel.receiveRun(FRAMES, end, PREFIX, MODEL, HEADERS, SEQ, 0, DATA, 256 * 1024, 1000);
    };
    const check = (): string | undefined => {
      writeSegment(mem, MODEL, { ...FLOW, seq: SEQ - 1, ack: 1, payload: 1 });
      end = writeFrames(count, payload, (i) => ({ seq: SEQ + i * payload, ack: 1 }));
      head.set(mem.subarray(FRAMES, FRAMES + 16));
      mem.fill(0, DATA, DATA + count * payload);
      const at = FRAMES + PREFIX + HEADERS;
      if (run() !== count) return 'not all were taken';
      return Buffer.compare(mem.subarray(at, at + payload), mem.subarray(DATA, DATA + payload)) === 0
        ? undefined
        : 'wrong bytes';
    };
    add(`receiveRun, a frame of ${payload} B, ${name}`, count, run, check);
  }
}

{
  const count = 64;
  for (const [name, kernel] of KERNELS) {
    let end = 0;
    const run = (): number => kernel.skipAcks(FRAMES, end, PREFIX, MODEL, HEADERS, SEQ, 1, 0x4000_0000, 0);
    const check = (): string | undefined => {
      writeSegment(mem, MODEL, { ...FLOW, seq: SEQ, ack: 1 });
      end = writeFrames(count, 0, (i) => ({ seq: SEQ, ack: 1000 + i * 1448 }));
      // The last of them is not passed over.
      return run() === (count - 1) * (PREFIX + HEADERS) ? undefined : 'not all were passed over';
    };
    add(`skipAcks, an acknowledgement, ${name}`, count, run, check);
  }
}

{
  // What the other benchmarks do to each of their frames before a run.
  const at = DATA;
  let ack = 0;
  const run = (): number => {
    ack = (ack + 1448) | 0;
    setAck(mem, at, ack);
    return mem[at + BELOW_TCP + 16]!;
  };
  const check = (): string | undefined => {
    writeSegment(mem, at, { ...FLOW, seq: SEQ, ack: 1, payload: 0 });
    run();
    const had = mem[at + BELOW_TCP + 16]! * 256 + mem[at + BELOW_TCP + 17]!;
    mem.fill(0, at + BELOW_TCP + 16, at + BELOW_TCP + 18);
    const right = finish(sumBytes(mem, at + 26, 8) + 6 + TCP_BYTES + sumBytes(mem, at + BELOW_TCP, TCP_BYTES));
    return had === right ? undefined : 'the numbered frame has a wrong checksum';
  };
  add('for reference: a frame numbered anew', 1, run, check);
}

runSuite('packet kernel', cases);
