import fc from 'fast-check';
import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import { Slab } from '../../src/base/slab.ts';
import { FragmentCursor } from '../../src/ip/fragmenter.ts';
import { emitIpv4Header, IPV4_MF, Ipv4View, PROTO_TCP, PROTO_UDP } from '../../src/ip/ipv4.ts';
import {
  Ipv4Reassembler,
  REASSEMBLY_COMPLETE,
  REASSEMBLY_HELD,
  type ReassemblyOptions,
} from '../../src/ip/reassembly.ts';

const SRC = 0x0a000003;
const DST = 0x0a000001;
const view = new Ipv4View();

function setup(options?: ReassemblyOptions, slabBytes = 8 * 1024 * 1024) {
  const slab = new Slab(new Uint8Array(slabBytes));
  const timeouts: { vm: number; quote: Uint8Array }[] = [];
  const r = new Ipv4Reassembler(
    slab,
    { i32: () => 0x1234567 },
    { onReassemblyTimeout: (vm, buf, off, len) => timeouts.push({ vm, quote: buf.slice(off, off + len) }) },
    options,
  );
  return { slab, r, timeouts };
}

interface Key {
  id?: number;
  src?: number;
  proto?: number;
  vm?: number;
  now?: number;
}

/** One fragment whose bytes are a function of their place. */
function frag(r: Ipv4Reassembler, start: number, len: number, more: boolean, key: Key = {}): number {
  const buf = new Uint8Array(20 + len);
  const flags = (more ? IPV4_MF : 0) | (start >>> 3);
  emitIpv4Header(buf, 0, buf.length, key.id ?? 1, flags, 61, key.proto ?? PROTO_UDP, key.src ?? SRC, DST);
  for (let i = 0; i < len; i++) buf[20 + i] = pattern(start + i);
  if (view.wrap(buf, 0, buf.length) !== Drop.None) throw new Error('bad test packet');
  return r.add(view, key.vm ?? 1, key.now ?? 0);
}

function pattern(i: number): number {
  return (i * 31 + (i >>> 8)) & 255;
}

/** The completed datagram parses again, and has the right bytes. */
function good(r: Ipv4Reassembler, slab: Slab, len: number): boolean {
  const v = new Ipv4View();
  if (v.wrap(slab.mem, r.off, r.off + r.len) !== Drop.None || v.isFragment || v.payloadLength !== len) return false;
  for (let i = 0; i < len; i++) if (slab.mem[v.payloadOff + i] !== pattern(i)) return false;
  return v.src === SRC && v.dst === DST && v.ttl === 61;
}

t.test('IP4-06 in order, reversed, interleaved with another ID, source, protocol and VM', (t) => {
  const { r, slab } = setup();
  t.equal(frag(r, 0, 1480, true), REASSEMBLY_HELD);
  for (const key of [{ id: 2 }, { src: SRC + 1 }, { proto: 1 }, { vm: 2 }]) {
    t.equal(frag(r, 1480, 20, false, key), REASSEMBLY_HELD);
  }
  t.equal(frag(r, 1480, 20, false), REASSEMBLY_COMPLETE);
  t.ok(good(r, slab, 1500));
  r.release();
  r.release();
  t.equal(frag(r, 16, 8, false, { id: 5 }), REASSEMBLY_HELD);
  t.equal(frag(r, 8, 8, true, { id: 5 }), REASSEMBLY_HELD);
  t.equal(frag(r, 0, 8, true, { id: 5 }), REASSEMBLY_COMPLETE);
  t.ok(good(r, slab, 24));
  r.release();
  t.equal(r.size, 4);
  r.dropVm(1);
  r.dropVm(2);
  t.same([r.size, r.bytes, slab.usedBytes], [0, 0, 0]);
  t.end();
});

t.test('IP4-06 any cut in any order with duplicates gives the datagram, and its memory back', (t) => {
  const cursor = new FragmentCursor();
  const big = fc.constantFrom(65515, 65514, 65508, 4076, 4077, 9000);
  fc.assert(
    fc.property(
      fc.oneof(big, fc.integer({ min: 600, max: 65515 })),
      fc.integer({ min: 576, max: 9000 }),
      fc.array(fc.nat(), { minLength: 1, maxLength: 20 }),
      (len, mtu, shuffle) => {
        const { r, slab } = setup();
        const pieces: [number, number, boolean][] = [];
        cursor.start(len, mtu);
        while (cursor.next()) pieces.push([cursor.offset, cursor.length, cursor.more]);
        if (pieces.length < 2) return true;
        for (let i = 0; i < pieces.length; i++) {
          const j = shuffle[i % shuffle.length]! % pieces.length;
          [pieces[i], pieces[j]] = [pieces[j]!, pieces[i]!];
        }
        for (const [i, [start, n, more]] of pieces.entries()) {
          const last = i === pieces.length - 1;
          if (frag(r, start, n, more) !== (last ? REASSEMBLY_COMPLETE : REASSEMBLY_HELD)) return false;
          if (!last && frag(r, start, n, more) !== REASSEMBLY_HELD) return false;
        }
        if (!good(r, slab, len)) return false;
        r.release();
        return r.size === 0 && r.bytes === 0 && slab.usedBytes === 0;
      },
    ),
    { numRuns: 60 },
  );
  t.end();
});

t.test('IP4-07 an overlap discards the datagram and its late fragments; an exact duplicate is ignored', (t) => {
  const overlaps: [number, number, boolean][] = [
    [8, 8, true],
    [0, 8, true],
    [8, 24, true],
    [0, 40, true],
    [16, 16, true],
    [0, 24, false],
  ];
  for (const [start, len, more] of overlaps) {
    const { r, slab, timeouts } = setup();
    t.equal(frag(r, 0, 24, true), REASSEMBLY_HELD);
    t.equal(frag(r, 0, 24, true), REASSEMBLY_HELD, 'duplicate');
    t.equal(r.duplicates, 1);
    t.equal(frag(r, start, len, more), Drop.FragOverlap, `${start}+${len}`);
    t.equal(slab.usedBytes, 0);
    t.equal(frag(r, 24, 8, false), Drop.FragOverlap, 'late fragment');
    t.equal(frag(r, 0, 24, true), Drop.FragOverlap, 'late first fragment');
    r.poll(30_000);
    t.same(timeouts, [], 'no ICMP about it');
    t.equal(r.size, 0);
  }
  t.end();
});

t.test('IP4-08 impossible fragments: past 65,535, not in eights, empty, tiny TCP, an end that moves', (t) => {
  const { r, slab } = setup();
  t.equal(frag(r, 65512, 8, false), Drop.FragMalformed, 'ping of death');
  t.equal(frag(r, 65528, 1000, true), Drop.FragMalformed);
  t.equal(frag(r, 65512, 3, false), REASSEMBLY_HELD, 'the very end is fine');
  t.equal(frag(r, 0, 12, true, { id: 2 }), Drop.FragMalformed);
  t.equal(frag(r, 8, 0, false, { id: 2 }), Drop.FragMalformed);
  t.equal(frag(r, 8, 0, true, { id: 2 }), Drop.FragMalformed);
  t.equal(frag(r, 0, 16, true, { id: 2, proto: PROTO_TCP }), Drop.FragMalformed);
  t.equal(frag(r, 8, 16, true, { id: 2, proto: PROTO_TCP }), Drop.FragMalformed);
  t.equal(r.size, 1);
  t.equal(frag(r, 16, 8, false, { id: 3 }), REASSEMBLY_HELD);
  t.equal(frag(r, 24, 8, false, { id: 3 }), Drop.FragOverlap, 'a second end');
  t.equal(frag(r, 16, 8, false, { id: 4 }), REASSEMBLY_HELD);
  t.equal(frag(r, 24, 8, true, { id: 4 }), Drop.FragOverlap, 'past the end');
  t.equal(frag(r, 24, 8, true, { id: 5 }), REASSEMBLY_HELD);
  t.equal(frag(r, 8, 8, false, { id: 5 }), Drop.FragOverlap, 'an end before what is there');
  t.equal(r.conflicts, 3);
  r.dropVm(1);
  t.equal(slab.usedBytes, 0);
  t.end();
});

t.test('IP4-09 after 30 s memory is freed; only a datagram with fragment 0 is told of, with that quoted', (t) => {
  const { r, slab, timeouts } = setup();
  frag(r, 0, 16, true, { now: 0 });
  frag(r, 24, 16, true, { now: 100 });
  frag(r, 24, 16, true, { id: 2, vm: 3, now: 5000 });
  t.equal(r.nextDeadline(), 30_000);
  r.poll(29_999);
  t.equal(timeouts.length, 0);
  r.poll(30_000);
  t.equal(timeouts.length, 1);
  const quote = timeouts[0]!.quote;
  t.equal(view.wrap(quote, 0, quote.length), Drop.None);
  t.same([view.payloadLength, view.moreFragments, view.fragmentOffset, view.id], [16, true, 0, 1]);
  t.equal(view.buf[view.payloadOff + 5], pattern(5));
  t.equal(r.nextDeadline(), 35_000);
  r.poll(40_000);
  t.same(timeouts[1], { vm: 3, quote: new Uint8Array(0) });
  t.same([r.size, r.bytes, slab.usedBytes, r.timeouts, r.nextDeadline()], [0, 0, 0, 2, Number.POSITIVE_INFINITY]);
  t.end();
});

t.test('IP4-10 fragments per datagram, datagrams per source and in all: over the cap the oldest goes', (t) => {
  const { r } = setup({ maxFragments: 4, maxPerSource: 3, maxDatagrams: 5 });
  for (let i = 0; i < 4; i++) t.equal(frag(r, i * 16, 8, true), REASSEMBLY_HELD);
  t.equal(frag(r, 640, 8, true), Drop.FragLimit);
  r.dropVm(1);
  for (let id = 1; id <= 4; id++) t.equal(frag(r, 0, 8, true, { id }), REASSEMBLY_HELD);
  t.equal(r.size, 3);
  t.equal(frag(r, 8, 8, false, { id: 1 }), REASSEMBLY_HELD, 'id 1 was pushed out');
  t.equal(frag(r, 8, 8, false, { id: 4 }), REASSEMBLY_COMPLETE, 'the newest was not');
  r.release();
  t.equal(frag(r, 0, 8, true, { id: 9, vm: 2 }), REASSEMBLY_HELD);
  for (let src = 1; src < 50; src++) frag(r, 0, 8, true, { src });
  t.equal(r.size, 5);
  t.equal(frag(r, 8, 8, false, { id: 9, vm: 2 }), REASSEMBLY_COMPLETE, "another VM's flood did not push it out");
  t.ok(r.evicted > 40);
  t.end();
});

t.test('IP4-10 memory in all is capped, whoever floods; a full slab refuses and nothing leaks', (t) => {
  const { r, slab } = setup({ maxBytes: 256 * 1024 });
  t.equal(frag(r, 0, 8, true, { vm: 2 }), REASSEMBLY_HELD);
  for (let id = 1; id <= 200; id++) {
    t.equal(frag(r, 40_000, 8, true, { id, src: id }), REASSEMBLY_HELD);
    if (r.bytes > 256 * 1024 || r.bytes !== slab.usedBytes) t.fail('over the cap');
  }
  t.equal(frag(r, 8, 8, false, { vm: 2 }), REASSEMBLY_COMPLETE);
  t.ok(good(r, slab, 16));
  r.release();
  r.dropVm(1);
  t.same([r.size, r.bytes, slab.usedBytes], [0, 0, 0]);

  const small = setup({}, 64 * 1024);
  t.equal(frag(small.r, 0, 8, true), REASSEMBLY_HELD);
  t.equal(frag(small.r, 0, 8, true, { id: 2 }), REASSEMBLY_HELD);
  t.equal(frag(small.r, 40_000, 8, true), Drop.FragLimit, 'no block of 64 KiB');
  t.equal(small.slab.usedBytes, 4096);
  small.r.poll(30_000);
  t.equal(small.slab.usedBytes, 0);
  t.equal(small.timeouts.length, 1);
  t.end();
});

t.test('any fragments from several VMs: no throw, no leak, caps hold', (t) => {
  const op = fc.record({
    id: fc.integer({ min: 0, max: 3 }),
    vm: fc.integer({ min: 1, max: 2 }),
    start: fc.integer({ min: 0, max: 8191 }).map((n) => n * 8),
    len: fc.integer({ min: 0, max: 300 }),
    more: fc.boolean(),
    later: fc.integer({ min: 0, max: 9000 }),
  });
  fc.assert(
    fc.property(fc.array(op, { maxLength: 80 }), (ops) => {
      const { r, slab } = setup({ maxBytes: 128 * 1024, maxDatagrams: 4, maxPerSource: 3 });
      let now = 0;
      for (const o of ops) {
        now += o.later;
        frag(r, o.start, o.len, o.more, { id: o.id, vm: o.vm, now });
        if (r.bytes > 128 * 1024 || r.bytes !== slab.usedBytes || r.size > 4) return false;
        r.release();
      }
      r.poll(now + 30_000);
      return r.size === 0 && r.bytes === 0 && slab.usedBytes === 0;
    }),
    { numRuns: 60 },
  );
  t.end();
});
