// The packet kernel: WebAssembly and plain give the same bytes, and both give what the RFCs ask for.

import fc from 'fast-check';
import t from 'tap';
import { getI32, getU16, setU16, setU32 } from '../../src/base/bytes.ts';
import { finish, fold, sumBytes } from '../../src/base/checksum.ts';
import { type PacketKernel, PlainKernel } from '../../src/base/packet-kernel.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';
import { pseudoHeaderSumV4 } from '../../src/ip/ipv4.ts';

const SIZE = 1024 * 1024;
const SRC = (192 << 24) | (168 << 16) | (65 << 8) | 3;
const DST = (10 << 24) | 7;

interface Side {
  readonly mem: Uint8Array;
  readonly kernel: PacketKernel;
}

function sides(): readonly [Side, Side] {
  const wasm = createPacketMemory(SIZE);
  const mem = new Uint8Array(SIZE);
  return [
    { mem: wasm.mem, kernel: wasm.kernel },
    { mem, kernel: new PlainKernel(mem) },
  ];
}

function noise(mem: Uint8Array, seed: number, from = 0, to = mem.length): void {
  let x = seed | 1;
  for (let i = from; i < to; i++) {
    x = (Math.imul(x, 1_103_515_245) + 12_345) | 0;
    mem[i] = x >>> 16;
  }
}

/** Whether both memories hold the same bytes. */
const same = (a: Side, b: Side): boolean => Buffer.compare(a.mem, b.mem) === 0;

t.test('this engine has the WebAssembly one', async (t) => {
  t.notOk(sides()[0].kernel instanceof PlainKernel);
});

t.test('sum: all lengths up to 700 at all alignments, long ones, all ones', async (t) => {
  for (const side of sides()) {
    noise(side.mem, 5);
    side.mem.fill(255, 300_000, 400_000);
    let wrong = 0;
    for (let off = 0; off < 17; off++) {
      for (let len = 0; len < 700; len++) {
        if (side.kernel.sum(off, len) !== fold(sumBytes(side.mem, off, len))) wrong++;
      }
    }
    for (const [off, len] of [
      [66, 65_480],
      [67, 65_521],
      [300_001, 65_535],
      [300_000, 99_999],
      [1, 512 * 1024],
    ] as const) {
      if (side.kernel.sum(off, len) !== fold(sumBytes(side.mem, off, len))) wrong++;
    }
    t.equal(wrong, 0);
  }
});

t.test('copySum: the sum, the copy, and not a byte beside it', async () => {
  const [a, b] = sides();
  fc.assert(
    fc.property(fc.nat(100), fc.nat(100), fc.oneof(fc.nat(200), fc.nat(65_535)), fc.integer(), (off, to, len, seed) => {
      noise(a.mem, seed, 0, 150_000);
      b.mem.set(a.mem.subarray(0, 150_000));
      const dst = 70_000 + to;
      const sums = [a, b].map((s) => s.kernel.copySum(dst, off, len));
      const right = fold(sumBytes(a.mem, off, len));
      return sums[0] === right && sums[1] === right && same(a, b);
    }),
    { numRuns: 200 },
  );
});

interface Frame {
  readonly seq: number;
  readonly len: number;
  readonly flags?: number;
  readonly tsVal?: number;
}

/** Writes a frame as a guest would, with its length before it. @returns where the next one goes. */
function writeFrame(mem: Uint8Array, at: number, prefix: number, ts: boolean, f: Frame, seed: number): number {
  const tcpLen = (ts ? 32 : 20) + f.len;
  const len = 34 + tcpLen;
  if (prefix === 4) setU32(mem, at, len);
  else {
    mem[at] = len;
    mem[at + 1] = len >>> 8;
  }
  const off = at + prefix;
  for (let i = 0; i < 12; i++) mem[off + i] = i * 7;
  setU16(mem, off + 12, 0x0800);
  setU16(mem, off + 14, 0x4500);
  setU16(mem, off + 16, len - 14);
  setU16(mem, off + 18, seed);
  setU16(mem, off + 20, 0x4000);
  setU16(mem, off + 22, 0x4006);
  setU16(mem, off + 24, 0);
  setU32(mem, off + 26, SRC);
  setU32(mem, off + 30, DST);
  setU16(mem, off + 24, finish(sumBytes(mem, off + 14, 20)));
  const tcp = off + 34;
  setU16(mem, tcp, 40_000);
  setU16(mem, tcp + 2, 80);
  setU32(mem, tcp + 4, f.seq);
  setU32(mem, tcp + 8, 77_777);
  mem[tcp + 12] = (ts ? 8 : 5) << 4;
  mem[tcp + 13] = f.flags ?? 0x10;
  setU16(mem, tcp + 14, 501);
  setU32(mem, tcp + 16, 0);
  if (ts) {
    setU32(mem, tcp + 20, 0x0101080a);
    setU32(mem, tcp + 24, f.tsVal ?? 1000);
    setU32(mem, tcp + 28, 5);
  }
  noise(mem, seed, off + 34 + (ts ? 32 : 20), off + len);
  setU16(mem, tcp + 16, finish(pseudoHeaderSumV4(SRC, DST, 6, tcpLen) + sumBytes(mem, tcp, tcpLen)));
  return off + len;
}

interface Run {
  readonly frames: number;
  readonly used: number;
  readonly payload: number;
  readonly longest: number;
  readonly last: number;
}

const MODEL = 1024;
const DATA = 400_000;

function receive(
  s: Side,
  at: number,
  end: number,
  prefix: number,
  ts: boolean,
  seq: number,
  room: number,
  max = 1000,
): Run {
  const header = ts ? 66 : 54;
  // The answer stands where the input was.
  const kept = Uint8Array.from(s.mem.subarray(at, at + 16));
  const frames = s.kernel.receiveRun(at, end, prefix, MODEL + prefix, header, seq, 1000, DATA, room, max);
  const word = (i: number): number => (frames === 0 ? 0 : getI32(s.mem, at + 4 * i));
  const run = { frames, used: word(0), payload: word(1), longest: word(2), last: word(3) };
  s.mem.set(kept, at);
  return run;
}

for (const prefix of [4, 2]) {
  for (const ts of [true, false]) {
    const name = `receiveRun, ${prefix}-byte lengths, ${ts ? 'with' : 'without'} timestamps`;
    const header = ts ? 66 : 54;

    t.test(`${name}: takes a run to the byte`, async (t) => {
      const lens = [1448, 1448, 1, 31, 32, 33, 8948, 65_000, 700];
      for (const s of sides()) {
        writeFrame(s.mem, MODEL, prefix, ts, { seq: 4, len: 100 }, 9);
        let at = 10_001;
        let seq = -5000;
        const want: Buffer[] = [];
        for (const [i, len] of lens.entries()) {
          const end = writeFrame(
            s.mem,
            at,
            prefix,
            ts,
            { seq, len, flags: i % 2 ? 0x18 : 0x10, tsVal: 1000 + i },
            i + 3,
          );
          want.push(Buffer.from(s.mem.subarray(end - len, end)));
          at = end;
          seq += len;
        }
        const payload = lens.reduce((a, b) => a + b);
        const run = receive(s, 10_001, at, prefix, ts, -5000, 200_000);
        t.same(run, { frames: lens.length, used: at - 10_001, payload, longest: 65_000 + header, last: 700 });
        t.ok(Buffer.concat(want).equals(s.mem.subarray(DATA, DATA + payload)));
        // The head of a frame at the end stays; so does a run beyond the frames asked for.
        t.equal(receive(s, 10_001, at - 1, prefix, ts, -5000, 200_000).frames, lens.length - 1);
        t.equal(receive(s, 10_001, at, prefix, ts, -5000, 200_000, 3).frames, 3);
        t.equal(receive(s, 10_001, at, prefix, ts, -5000, 1448 + 1447).frames, 1, 'no room for the second');
        t.equal(receive(s, 10_001, 10_001 + prefix - 1, prefix, ts, -5000, 200_000).frames, 0);
        t.equal(receive(s, 10_001, at, prefix, ts, -4999, 200_000).frames, 0, 'another place in the sequence');
      }
    });

    t.test(`${name}: any change of any header bit that matters ends it, in both kernels alike`, async (t) => {
      const all = sides();
      // What may differ from the model: identification and DF, TTL, PSH, sequence number, timestamps, lengths, checksums.
      const free = new Set([18, 19, 22, 24, 25, 50, 51, 52, 53]);
      let taken = 0;
      for (let byte = 0; byte < header; byte++) {
        for (let bit = 0; bit < 8; bit++) {
          const runs = all.map((s) => {
            writeFrame(s.mem, MODEL, prefix, ts, { seq: 4, len: 100 }, 9);
            const end = writeFrame(s.mem, 10_000, prefix, ts, { seq: 104, len: 200 }, 3);
            const f = 10_000 + prefix;
            s.mem[f + byte] = s.mem[f + byte]! ^ (1 << bit);
            // With checksums that are right again, so that only the field itself can be what ends the run.
            if (byte >= 14 && byte < 34 && byte !== 24 && byte !== 25) {
              setU16(s.mem, f + 24, 0);
              setU16(s.mem, f + 24, finish(sumBytes(s.mem, f + 14, 20)));
            }
            if (byte !== 50 && byte !== 51) {
              setU16(s.mem, f + 50, 0);
              const src = getI32(s.mem, f + 26);
              const dst = getI32(s.mem, f + 30);
              setU16(
                s.mem,
                f + 50,
                finish(pseudoHeaderSumV4(src, dst, 6, end - f - 34) + sumBytes(s.mem, f + 34, end - f - 34)),
              );
            }
            return receive(s, 10_000, end, prefix, ts, 104, 200_000).frames;
          });
          if (runs[0] !== runs[1]) t.fail(`byte ${byte} bit ${bit}: ${runs}`);
          taken += runs[0]!;
          const psh = byte === 47 && bit === 3;
          const df = byte === 20 && bit >= 6;
          const tsByte = ts && byte >= 58;
          if (runs[0] === 1 && !free.has(byte) && !psh && !df && !tsByte)
            t.fail(`byte ${byte} bit ${bit} was not looked at`);
        }
      }
      t.ok(taken > 20, 'some may differ');
    });

    t.test(`${name}: random damage gives both kernels the same run, and none that is unsound`, async () => {
      const [a, b] = sides();
      fc.assert(
        fc.property(
          fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 12 }),
          fc.nat(40_000),
          fc.nat(255),
          fc.nat(16),
          (lens, hit, xor, shift) => {
            for (const s of [a, b]) {
              s.mem.fill(0, DATA - 64, DATA + 50_000);
              writeFrame(s.mem, MODEL, prefix, ts, { seq: 4, len: 100 }, 9);
            }
            const start = 10_000 + shift;
            let at = start;
            let seq = 104;
            for (const [i, len] of lens.entries()) {
              at = writeFrame(a.mem, at, prefix, ts, { seq, len }, i + 1);
              seq += len;
            }
            a.mem[start + (hit % (at - start))]! ^= xor;
            b.mem.set(a.mem.subarray(start, at), start);
            const runs = [a, b].map((s) => receive(s, start, at, prefix, ts, 104, 60_000));
            if (JSON.stringify(runs[0]) !== JSON.stringify(runs[1])) return false;
            const { payload } = runs[0]!;
            return (
              Buffer.compare(a.mem.subarray(DATA - 64, DATA + payload), b.mem.subarray(DATA - 64, DATA + payload)) === 0
            );
          },
        ),
        { numRuns: 300 },
      );
    });
  }
}

t.test('receiveRun: a timestamp older than the last one ends it', async (t) => {
  for (const s of sides()) {
    writeFrame(s.mem, MODEL, 4, true, { seq: 4, len: 100 }, 9);
    const mid = writeFrame(s.mem, 10_000, 4, true, { seq: 104, len: 200, tsVal: 1000 }, 3);
    const end = writeFrame(s.mem, mid, 4, true, { seq: 304, len: 200, tsVal: 999 }, 3);
    t.equal(receive(s, 10_000, end, 4, true, 104, 200_000).frames, 1);
  }
});

t.test('segmentize: every segment checks, carries its piece of the ring, and its own sequence number', async () => {
  const [a, b] = sides();
  const frame = 20_000;
  fc.assert(
    fc.property(
      fc.integer({ min: 16, max: 9000 }),
      fc.integer({ min: 1, max: 20 }),
      fc.integer(),
      fc.nat(262_143),
      fc.boolean(),
      fc.nat(3),
      (mss, count, seq, ringAt, ts, shift) => {
        const header = ts ? 66 : 54;
        const stride = header + mss + 4;
        const at = frame + shift;
        noise(a.mem, seq, 0, SIZE);
        writeFrame(a.mem, at - 4, 4, ts, { seq, len: 0 }, 7);
        const tcpLen = header - 34 + mss;
        const tcp = at + 34;
        setU16(a.mem, tcp + 16, 0);
        const partial = fold(
          pseudoHeaderSumV4(SRC, DST, 6, tcpLen) + sumBytes(a.mem, tcp, 4) + sumBytes(a.mem, tcp + 8, header - 42),
        );
        b.mem.set(a.mem);
        const ring = 524_288;
        const cap = 262_144;
        for (const s of [a, b])
          s.kernel.segmentize(at, stride, count, header, 34, mss, ring, cap, ringAt, partial, 0x18);
        for (let i = 0; i < count; i++) {
          const f = at + i * stride;
          const sum = pseudoHeaderSumV4(SRC, DST, 6, tcpLen) + sumBytes(a.mem, f + 34, tcpLen);
          if (fold(sum) !== 0xffff || getI32(a.mem, f + 38) !== ((seq + i * mss) | 0)) return false;
          if (a.mem[f + 47] !== (i === count - 1 ? 0x18 : 0x10) || getU16(a.mem, f + 12) !== 0x0800) return false;
          for (let n = 0; n < mss; n += 7) {
            if (a.mem[f + header + n] !== a.mem[ring + ((ringAt + i * mss + n) % cap)]) return false;
          }
          // Between frames nothing is touched but what the next length takes.
          if (Buffer.compare(a.mem.subarray(f, f + header + mss), b.mem.subarray(f, f + header + mss)) !== 0)
            return false;
        }
        const end = at + count * stride - 4;
        return Buffer.compare(a.mem.subarray(end), b.mem.subarray(end)) === 0;
      },
    ),
    { numRuns: 150 },
  );
});
