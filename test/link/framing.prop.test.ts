import fc from 'fast-check';
import t from 'tap';
import { FrameReader, MAX_FRAME_BYTES } from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import { framed, pattern } from './fake-host.ts';

const SIZE = 128 * 1024;
const CANARY = 256;

const formats = fc.constantFrom('qemu' as const, 'vpnkit' as const);
const length = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 80 }) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 9100 }) },
  { weight: 1, arbitrary: fc.integer({ min: 60_000, max: 65_535 }) },
);
const chunk = fc.oneof(
  fc.integer({ min: 1, max: 7 }),
  fc.integer({ min: 1, max: 3000 }),
  fc.integer({ min: 1, max: 219_264 }),
);

t.test('every chunking gives the same frames', (t) => {
  fc.assert(
    fc.property(
      formats,
      fc.array(length, { maxLength: 24 }),
      fc.array(chunk, { minLength: 1, maxLength: 40 }),
      (format, lengths, chunks) => {
        const sent = lengths.map((len, i) => pattern(len, i));
        const stream = Buffer.concat(sent.map((f) => framed(format, f)));
        const mem = new Uint8Array(SIZE + 2 * CANARY).fill(0x5a);
        const counters = new LinkCounters();
        const got: Buffer[] = [];
        const reader = new FrameReader(format, mem, CANARY, SIZE, counters, (off, len) => {
          got.push(Buffer.from(mem.subarray(off, off + len)));
        });
        for (let at = 0, i = 0; at < stream.length; i++) {
          const n = Math.min(chunks[i % chunks.length] ?? 1, reader.room, stream.length - at);
          if (n === 0) return false;
          mem.set(stream.subarray(at, at + n), reader.roomOffset);
          reader.received(n);
          at += n;
          if (!reader.parse()) return false;
          if (reader.room < SIZE - MAX_FRAME_BYTES - 4) return false;
        }
        const wanted = sent.filter((f) => f.length > 0);
        return (
          got.length === wanted.length &&
          got.every((f, i) => f.equals(wanted[i] ?? Buffer.alloc(0))) &&
          counters.rxZeroLength === sent.length - wanted.length &&
          reader.held === 0 &&
          mem.subarray(0, CANARY).every((b) => b === 0x5a) &&
          mem.subarray(CANARY + SIZE).every((b) => b === 0x5a)
        );
      },
    ),
    { numRuns: 150 },
  );
  t.end();
});

t.test('arbitrary bytes never throw, never leave the block, and end in frames or an over-long length', (t) => {
  fc.assert(
    fc.property(
      formats,
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 4000 }), { maxLength: 30 }),
      (format, parts) => {
        const mem = new Uint8Array(SIZE + 2 * CANARY).fill(0x5a);
        let inside = true;
        const reader = new FrameReader(format, mem, CANARY, SIZE, new LinkCounters(), (off, len) => {
          inside &&= off >= CANARY && off + len <= CANARY + SIZE && len > 0 && len <= MAX_FRAME_BYTES;
        });
        for (const part of parts) {
          mem.set(part, reader.roomOffset);
          reader.received(part.length);
          if (!reader.parse()) return inside && reader.overlongBytes > MAX_FRAME_BYTES;
        }
        return inside;
      },
    ),
  );
  t.end();
});
