import fc from 'fast-check';
import t from 'tap';
import { Slab } from '../../src/base/slab.ts';
import {
  BATCH_BLOCK_BYTES,
  BATCH_LIMIT_BYTES,
  FrameWriter,
  keptBlockBytes,
  MAX_BATCHES,
} from '../../src/link/frame-writer.ts';
import type { FrameFormat } from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import { pattern, unframe } from './fake-host.ts';

/** A kernel: takes writes at once, or holds them until told. What it holds must not change under it. */
class Kernel {
  readonly stream: Buffer[] = [];
  readonly held: { bytes: Uint8Array; copy: Buffer; done: () => void }[] = [];
  readonly lateDones: (() => void)[] = [];
  stuck = false;
  broken = 0;

  write(bytes: Uint8Array, done: () => void): boolean {
    if (this.stuck) {
      this.held.push({ bytes, copy: Buffer.from(bytes), done });
      return false;
    }
    this.stream.push(Buffer.from(bytes));
    this.lateDones.push(done);
    return true;
  }

  /** The guest reads one held write. */
  drainOne(): void {
    this.tick();
    const next = this.held.shift();
    if (next === undefined) return;
    if (!next.copy.equals(next.bytes)) this.broken++;
    this.stream.push(next.copy);
    next.done();
  }

  /** Callbacks of writes that were complete at once come later. */
  tick(): void {
    for (const done of this.lateDones.splice(0)) done();
  }
}

function make(format: FrameFormat = 'qemu', mtu = 65_520, slabBytes = 4 * 1024 * 1024) {
  const mem = new Uint8Array(slabBytes);
  const slab = new Slab(mem);
  const kernel = new Kernel();
  const counters = new LinkCounters();
  const kept = slab.alloc(keptBlockBytes(format, mtu));
  const events = { drained: 0, closed: '' };
  const writer = new FrameWriter(
    format,
    mtu,
    slab,
    kept,
    kernel,
    counters,
    () => events.drained++,
    (reason) => {
      events.closed = reason;
    },
  );
  const send = (frame: Buffer, bulk = true): boolean => {
    const off = writer.reserve(frame.length, bulk);
    if (off < 0) return false;
    mem.set(frame, off);
    writer.commit(off, frame.length);
    return true;
  };
  const received = (): Buffer[] => unframe(format, Buffer.concat(kernel.stream)).frames;
  return { mem, slab, kernel, counters, writer, send, events, received, keptBytes: slab.usedBytes };
}

t.test('all frames of a turn leave in one contiguous write, and no batch memory is held after it', (t) => {
  for (const format of ['qemu', 'vpnkit'] as const) {
    const w = make(format, 1500);
    const frames = Array.from({ length: 100 }, (_, i) => pattern(14 + 15 * i, i));
    for (const frame of frames) t.ok(w.send(frame));
    t.equal(w.kernel.stream.length, 0, 'nothing before the flush');
    w.writer.flush();
    t.equal(w.kernel.stream.length, 1);
    t.ok(Buffer.concat(w.received()).equals(Buffer.concat(frames)));
    t.equal(w.slab.usedBytes, w.keptBytes);
    t.equal(w.counters.txFrames, 100);
    t.equal(w.counters.txWrites, 1);
    w.writer.flush();
    t.equal(w.kernel.stream.length, 1, 'an empty flush writes nothing');
  }
  t.end();
});

t.test('a frame may be committed shorter than reserved, or not at all', (t) => {
  const w = make();
  const off = w.writer.reserve(1514);
  w.mem.fill(7, off, off + 60);
  w.writer.commit(off, 60);
  w.writer.reserve(1514);
  w.writer.flush();
  t.same(w.received(), [Buffer.alloc(60, 7)]);
  w.writer.reserve(1514);
  w.writer.flush();
  t.equal(w.slab.usedBytes, w.keptBytes);
  t.equal(w.kernel.stream.length, 1);
  t.end();
});

t.test('within a turn a batch leaves when a unix socket would take no more of it', (t) => {
  for (const len of [1514, 9014, 65_534]) {
    const w = make();
    for (let i = 0; i < 1000; i++) t.ok(w.send(pattern(len, i)) || 'room');
    for (const batch of w.kernel.stream) {
      if (batch.length > BATCH_LIMIT_BYTES) t.fail(`a write of ${batch.length} bytes`);
      if (batch.length < 190_000) t.fail(`a write of only ${batch.length} bytes`);
    }
    w.writer.flush();
    t.equal(w.received().length, 1000);
  }
  t.end();
});

t.test('with every batch under way bulk waits, and what cannot wait still has the kept block', (t) => {
  const w = make();
  w.kernel.stuck = true;
  while (w.send(pattern(1514, 1))) if (w.counters.txFrames % 10 === 9) w.writer.flush();
  t.ok(w.send(pattern(60, 2), false), 'an answer');
  t.notOk(w.send(pattern(1514, 3)), 'bulk does not follow it there');
  t.ok(w.send(pattern(60, 4), false));
  t.ok(w.slab.usedBytes <= w.keptBytes + MAX_BATCHES * BATCH_BLOCK_BYTES);
  let answers = 0;
  while (w.send(pattern(60, 5), false) && answers < 10_000) answers++;
  t.ok(answers > 100 && answers < 10_000, 'that room ends, too');
  w.kernel.stuck = false;
  while (w.kernel.held.length > 0) w.kernel.drainOne();
  t.ok(w.send(pattern(1514, 6)));
  t.end();
});

t.test('a VM that does not drain: bounded memory, refusal, one call when it drains, nothing lost or changed', (t) => {
  const w = make();
  w.kernel.stuck = true;
  const sent: Buffer[] = [];
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    const frame = pattern(1514, i);
    if (w.send(frame)) sent.push(frame);
    else refused++;
    if (i % 10 === 9) w.writer.flush();
  }
  t.ok(refused > 2000);
  t.equal(w.kernel.held.length, MAX_BATCHES);
  t.ok(w.slab.usedBytes <= w.keptBytes + MAX_BATCHES * BATCH_BLOCK_BYTES);
  t.ok(w.writer.waiting);
  t.equal(w.counters.txRefused, refused);
  t.equal(w.events.drained, 0);
  w.kernel.drainOne();
  t.equal(w.events.drained, 1);
  w.kernel.drainOne();
  t.equal(w.events.drained, 1, 'only once for each refusal');
  w.kernel.stuck = false;
  w.kernel.drainOne();
  t.equal(w.slab.usedBytes, w.keptBytes);
  t.equal(w.kernel.broken, 0);
  t.ok(Buffer.concat(w.received()).equals(Buffer.concat(sent)));
  t.ok(w.send(pattern(60, 1)));
  t.end();
});

t.test('with the slab full, frames still leave by the block that is kept', (t) => {
  for (const mtu of [1500, 65_520]) {
    const w = make('qemu', mtu);
    const all: number[] = [];
    for (let off = w.slab.alloc(4096); off >= 0; off = w.slab.alloc(4096)) all.push(off);
    for (let i = 0; i < 100; i++) {
      t.ok(w.send(pattern(mtu + 14, i)), 'a full frame');
      w.kernel.tick();
    }
    w.writer.flush();
    t.equal(w.received().length, 100);
    w.kernel.stuck = true;
    while (w.send(pattern(60, 1)));
    t.equal(w.kernel.held.length, 1, 'only the kept block is in flight');
    w.kernel.drainOne();
    t.equal(w.events.drained, 1);
    t.ok(w.send(pattern(60, 2)));
  }
  t.end();
});

t.test('a frame beyond the MTU is refused and counted, and nobody waits for room that will not come', (t) => {
  const w = make('vpnkit', 1500);
  t.equal(w.writer.reserve(1519), -1);
  t.notOk(w.writer.waiting);
  t.equal(w.counters.txTooBig, 1);
  t.ok(w.send(pattern(1518, 1)), 'with a VLAN tag it is not');
  t.end();
});

t.test('close, shut, dispose: the reason goes out, no frame goes in, all memory comes back', (t) => {
  const w = make();
  w.send(pattern(60, 1));
  w.kernel.stuck = true;
  w.writer.flush();
  w.send(pattern(60, 2));
  w.writer.close('operator');
  t.equal(w.events.closed, 'operator');
  const off = w.writer.reserve(60);
  w.writer.shut();
  w.writer.commit(off, 60);
  t.equal(w.writer.reserve(60), -1);
  t.ok(w.slab.usedBytes > 0, 'a call under way may still write to its block');
  w.writer.dispose();
  t.equal(w.slab.usedBytes, 0);
  w.kernel.drainOne();
  t.equal(w.events.drained, 0);
  w.writer.dispose();
  t.end();
});

t.test('property: whatever the order of sends, flushes, jams and drains, the stream is what was accepted', (t) => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ op: fc.constant('send' as const), len: fc.integer({ min: 1, max: 65_538 }) }) },
    { weight: 3, arbitrary: fc.record({ op: fc.constantFrom('flush', 'jam', 'go', 'drain', 'tick', 'eat', 'spit') }) },
  );
  fc.assert(
    fc.property(
      fc.constantFrom('qemu' as const, 'vpnkit' as const),
      fc.array(step, { maxLength: 120 }),
      (format, steps) => {
        const w = make(format, 65_520, 1024 * 1024);
        const accepted: Buffer[] = [];
        const eaten: number[] = [];
        steps.forEach((s, i) => {
          if (s.op === 'send') {
            const frame = pattern((s as { len: number }).len, i);
            if (w.send(frame)) accepted.push(frame);
          } else if (s.op === 'flush') w.writer.flush();
          else if (s.op === 'jam') w.kernel.stuck = true;
          else if (s.op === 'go') w.kernel.stuck = w.kernel.held.length > 0;
          else if (s.op === 'drain') w.kernel.drainOne();
          else if (s.op === 'tick') w.kernel.tick();
          else if (s.op === 'eat') {
            const off = w.slab.alloc(128 * 1024);
            if (off >= 0) eaten.push(off);
          } else for (const off of eaten.splice(0)) w.slab.free(off);
        });
        w.writer.flush();
        for (let n = w.kernel.held.length; n > 0; n = w.kernel.held.length) w.kernel.drainOne();
        w.kernel.tick();
        for (const off of eaten) w.slab.free(off);
        const got = w.received();
        return (
          w.kernel.broken === 0 &&
          got.length === accepted.length &&
          got.every((f, i) => f.equals(accepted[i] ?? Buffer.alloc(0))) &&
          w.slab.usedBytes === w.keptBytes &&
          !w.writer.waiting
        );
      },
    ),
    { numRuns: 150 },
  );
  t.end();
});

t.test('a frame that could wait is not refused while a batch is free and nothing is under way', async (t) => {
  const slab = new Slab(new Uint8Array(8 << 20));
  const held: (() => void)[] = [];
  let stuck = true;
  let drained = 0;
  const sink = {
    write: (_bytes: Uint8Array, done: () => void): boolean => {
      if (stuck) held.push(done);
      return !stuck;
    },
  };
  const kept = slab.alloc(keptBlockBytes('qemu', 1500));
  const writer = new FrameWriter(
    'qemu',
    1500,
    slab,
    kept,
    sink,
    new LinkCounters(),
    () => drained++,
    () => {},
  );
  const put = (bulk: boolean): boolean => {
    const off = writer.reserve(1000, bulk);
    if (off >= 0) writer.commit(off, 1000);
    return off >= 0;
  };
  for (let i = 0; i < MAX_BATCHES; i++) {
    t.ok(put(true));
    writer.flush();
  }
  // Between turns a datagram takes the kept block; then the link drains, and nobody was refused.
  t.ok(put(false));
  stuck = false;
  for (const done of held.splice(0)) done();
  t.equal(drained, 0);
  t.ok(put(true), 'nothing would tell later that there is room');
  writer.flush();
  t.equal(writer.waiting, false);
  writer.dispose();
});
