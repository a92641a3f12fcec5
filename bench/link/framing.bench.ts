// What a frame costs on its way through the link, without a socket: found in what was read, and put into a batch.
//
//   npm run bench -- link/framing

import { Slab } from '../../src/base/slab.ts';
import { FrameWriter, keptBlockBytes } from '../../src/link/frame-writer.ts';
import { type FrameFormat, FrameReader, prefixBytes, writePrefix } from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import { type BenchCase, runSuite } from '../suite.ts';
import { noise } from '../wire.ts';

const BLOCK_BYTES = 256 * 1024;
const MTU = 65_520;
const slab = new Slab(Buffer.alloc(4 * 1024 * 1024));
const cases: BenchCase[] = [];
noise(slab.mem);

function reading(format: FrameFormat, frameBytes: number, whole: boolean): BenchCase {
  const { mem } = slab;
  const block = slab.alloc(BLOCK_BYTES);
  const counters = new LinkCounters();
  let seen = 0;
  let last = 0;
  const reader = new FrameReader(format, mem, block, BLOCK_BYTES, counters, (off, len) => {
    // Small integers only: a larger sum would be an allocation of our own.
    seen = (seen + len) | 0;
    last = off;
  });
  const each = prefixBytes(format) + frameBytes;
  const count = Math.min(128, Math.floor((BLOCK_BYTES - each) / each));
  for (let i = 0; i < count; i++) writePrefix(format, mem, block + i * each, frameBytes);
  const bytes = count * each;
  // In two reads the second of which begins within a frame: its head moves to the front of the block.
  const cut = Math.floor(each * 0.5);
  const saved = mem.slice(block, block + bytes);
  const run = (): number => {
    if (whole) {
      reader.received(bytes);
      reader.parse();
    } else {
      mem.set(saved.subarray(0, cut), reader.roomOffset);
      reader.received(cut);
      reader.parse();
      mem.set(saved.subarray(cut), reader.roomOffset);
      reader.received(bytes - cut);
      reader.parse();
    }
    return seen ^ last;
  };
  const check = (): string | undefined => {
    run();
    return seen === count * frameBytes && counters.rxFrames === count && reader.held === 0
      ? undefined
      : 'frames were lost';
  };
  const how = whole ? '' : ', all copied in two reads';
  return { name: `read: a frame of ${frameBytes} B, ${format}${how}`, perRun: count, check, run };
}

for (const format of ['qemu', 'vpnkit'] as const) cases.push(reading(format, 66, true));
cases.push(reading('qemu', 1514, true), reading('qemu', 1514, false), reading('qemu', 65_534, true));

function writing(frameBytes: number, inRun: boolean): BenchCase {
  const counters = new LinkCounters();
  let written = 0;
  const sink = {
    write: (bytes: Uint8Array): boolean => {
      written = (written + bytes.length) | 0;
      return true;
    },
  };
  const kept = slab.alloc(keptBlockBytes('qemu', MTU));
  const none = (): void => {};
  const writer = new FrameWriter('qemu', MTU, slab, kept, sink, counters, none, none);
  const count = Math.min(64, Math.floor((200 * 1024) / (frameBytes + 4)));
  const oneByOne = (): number => {
    for (let i = 0; i < count; i++) writer.commit(writer.reserve(frameBytes), frameBytes);
    writer.flush();
    return written;
  };
  const together = (): number => {
    const n = writer.reserveRun(frameBytes, count);
    writer.commitRun(writer.runOffset, frameBytes, n);
    writer.flush();
    return written;
  };
  const run = inRun ? together : oneByOne;
  const check = (): string | undefined => {
    run();
    return written === count * (frameBytes + 4) && counters.txFrames === count ? undefined : 'frames are missing';
  };
  return { name: `write: a frame of ${frameBytes} B${inRun ? ', of a run' : ''}`, perRun: count, check, run };
}

for (const frameBytes of [66, 1514, 65_534]) cases.push(writing(frameBytes, false));
for (const frameBytes of [1514, 65_534]) cases.push(writing(frameBytes, true));

runSuite('framing', cases);
