import t from 'tap';
import type { FrameFormat } from '../../src/link/framing.ts';
import {
  FrameReader,
  MAX_FRAME_BYTES,
  maxTxFrameBytes,
  prefixBytes,
  readBlockBytes,
  writePrefix,
} from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import { framed, pattern } from './fake-host.ts';

const CANARY = 4096;

/** A reader in the middle of a larger memory, with canaries on both sides. */
function makeReader(format: FrameFormat, size: number) {
  const mem = new Uint8Array(size + 2 * CANARY).fill(0xa5);
  const counters = new LinkCounters();
  const frames: Buffer[] = [];
  const reader = new FrameReader(format, mem, CANARY, size, counters, (off, len) => {
    frames.push(Buffer.from(mem.subarray(off, off + len)));
  });
  const minRoom = { value: size };
  /** Feeds a stream as a socket would: never more than there is room for. */
  const feed = (bytes: Uint8Array, chunk = Number.POSITIVE_INFINITY): boolean => {
    for (let at = 0; at < bytes.length; ) {
      minRoom.value = Math.min(minRoom.value, reader.room);
      const n = Math.min(reader.room, chunk, bytes.length - at);
      mem.set(bytes.subarray(at, at + n), reader.roomOffset);
      reader.received(n);
      at += n;
      if (!reader.parse()) return false;
    }
    return true;
  };
  const intact = () =>
    mem.subarray(0, CANARY).every((b) => b === 0xa5) && mem.subarray(CANARY + size).every((b) => b === 0xa5);
  return { reader, counters, frames, feed, intact, minRoom };
}

for (const format of ['qemu', 'vpnkit'] as const) {
  t.test(`${format}: a length split at any byte, and a frame split at any byte`, (t) => {
    const sent = [pattern(60, 1), pattern(1514, 2), pattern(14, 3)];
    const stream = Buffer.concat(sent.map((f) => framed(format, f)));
    for (let cut = 0; cut <= stream.length; cut++) {
      const { frames, feed } = makeReader(format, 128 * 1024);
      feed(stream.subarray(0, cut));
      feed(stream.subarray(cut));
      if (!Buffer.concat(frames).equals(Buffer.concat(sent)) || frames.length !== 3) t.fail(`cut at ${cut}`);
    }
    t.end();
  });

  t.test(`${format}: length 0 is skipped and counted, runts are handed on`, (t) => {
    const { frames, counters, feed } = makeReader(format, 128 * 1024);
    const empty = Buffer.alloc(0);
    const sent = [empty, pattern(1, 1), empty, empty, pattern(13, 2), pattern(14, 3)];
    t.ok(feed(Buffer.concat(sent.map((f) => framed(format, f))), 1));
    t.same(
      frames.map((f) => f.length),
      [1, 13, 14],
    );
    t.equal(counters.rxZeroLength, 3);
    t.equal(counters.rxFrames, 3);
    t.equal(counters.rxBytes, 28);
    t.end();
  });

  t.test(`${format}: largest frames of offload leaks pass, in sync, with a useful read each time`, (t) => {
    const largest = format === 'qemu' ? MAX_FRAME_BYTES : 0xffff;
    for (const size of [readBlockBytes(1500), readBlockBytes(65_520)]) {
      const { frames, feed, intact, minRoom } = makeReader(format, size);
      const sent = [pattern(largest, 1), pattern(60, 2), pattern(largest, 3), pattern(largest, 4), pattern(1514, 5)];
      for (let i = 0; i < 3; i++) sent.push(...sent.slice(0, 5));
      t.ok(feed(Buffer.concat(sent.map((f) => framed(format, f)))));
      t.equal(frames.length, sent.length);
      t.ok(Buffer.concat(frames).equals(Buffer.concat(sent)));
      t.ok(intact(), 'nothing outside the block is touched');
      t.ok(minRoom.value >= size - 4 - MAX_FRAME_BYTES, `a read is offered at least ${minRoom.value} bytes`);
    }
    t.end();
  });
}

t.test('qemu: an over-long length ends the reader after the frames before it', (t) => {
  for (const length of [MAX_FRAME_BYTES + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    const { reader, frames, counters, feed } = makeReader('qemu', 128 * 1024);
    const bad = Buffer.alloc(40);
    bad.writeUInt32BE(length);
    t.notOk(feed(Buffer.concat([framed('qemu', pattern(60, 1)), bad, framed('qemu', pattern(60, 2))])));
    t.equal(frames.length, 1);
    t.equal(reader.overlongBytes, length);
    t.equal(counters.rxOverlong, 1);
  }
  t.end();
});

t.test('vpnkit: every length up to 65,535 is read, as VPNKit does', (t) => {
  const { frames, feed } = makeReader('vpnkit', 128 * 1024);
  t.ok(feed(framed('vpnkit', pattern(65_535, 9))));
  t.equal(frames[0]?.length, 65_535);
  t.end();
});

t.test('stop() from inside a frame ends the loop', (t) => {
  const mem = new Uint8Array(128 * 1024);
  let seen = 0;
  const reader = new FrameReader('qemu', mem, 0, mem.length, new LinkCounters(), () => {
    seen++;
    reader.stop();
  });
  const stream = Buffer.concat([framed('qemu', pattern(60, 1)), framed('qemu', pattern(60, 2))]);
  mem.set(stream);
  reader.received(stream.length);
  t.ok(reader.parse());
  t.equal(seen, 1);
  t.end();
});

t.test('prefixes written are those read', (t) => {
  for (const format of ['qemu', 'vpnkit'] as const) {
    for (const len of [1, 14, 255, 256, 1514, 65_535]) {
      const out = Buffer.alloc(prefixBytes(format));
      writePrefix(format, out, 0, len);
      t.same(out, framed(format, Buffer.alloc(len)).subarray(0, out.length));
    }
  }
  t.equal(maxTxFrameBytes('qemu', 1500), 1518);
  t.equal(maxTxFrameBytes('vpnkit', 65_520), 65_535, 'a 2-byte length says no more');
  t.end();
});
