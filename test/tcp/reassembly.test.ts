// Segments out of order: rows TCP-ASM-*. RFC 9293 3.10.7.4, 3.8; RFC 2018; RFC 2883.

import { type Script, script } from '../helpers/script.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { guestByte } from '../helpers/stream-pattern.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

script('TCP-ASM-01 each segment beyond a hole draws a duplicate ACK with SACK, the newest block first', (s) => {
  s.establish();
  s.guest({ seq: 101, data: 100 });
  s.expect({ ack: 1, sack: [[101, 201]] });
  s.guest({ seq: 301, data: 100 });
  s.expect({
    ack: 1,
    sack: [
      [301, 401],
      [101, 201],
    ],
  });
  s.guest({ seq: 501, data: 100 });
  s.expect({
    ack: 1,
    sack: [
      [501, 601],
      [301, 401],
      [101, 201],
    ],
  });
  // An older block grows: it is the newest now.
  s.guest({ seq: 201, data: 50 });
  const grown = s.expect({ ack: 1 });
  must(
    ((grown.sack[0]![0] - s.flow.guestIsn) | 0) === 101 && ((grown.sack[0]![1] - s.flow.guestIsn) | 0) === 251,
    'first block',
  );
  must(grown.sack.length === 3, 'all blocks');
  s.host.expectRead(0);
});

script('TCP-ASM-01 without SACK: plain duplicate ACKs', (s) => {
  s.establish({ sackOk: false });
  for (let i = 1; i <= 3; i++) {
    s.guest({ seq: 1 + 100 * i, data: 100 });
    s.expect({ ack: 1, sack: [] });
  }
  s.guest({ seq: 1, data: 100 });
  s.expect({ ack: 401 });
  s.host.expectRead(400);
});

script('TCP-ASM-02 the hole is filled: one ACK over everything, at once', (s) => {
  s.establish();
  for (let i = 0; i < 40; i++) {
    s.guest({ data: 10 });
    s.advance(50);
    s.drain();
  }
  s.host.expectRead(400);
  s.guest({ seq: 501, data: 100 });
  s.expect({ ack: 401 });
  s.guest({ seq: 601, data: 100 });
  s.expect({ ack: 401 });
  s.guest({ seq: 401, data: 100 });
  s.expect({ ack: 701, sack: [] });
  s.expectSilence(100);
  s.host.expectRead(300);
});

script('TCP-ASM-02 one of two holes is filled: acknowledged up to the other', (s) => {
  s.establish();
  s.guest({ seq: 101, data: 100 });
  s.drain();
  s.guest({ seq: 301, data: 100 });
  s.drain();
  s.guest({ seq: 1, data: 100 });
  s.expect({ ack: 201, sack: [[301, 401]] });
  s.host.expectRead(200);
});

/** Sends `bytes[from, to)` of a stream of its own. */
function piece(s: Script, bytes: Uint8Array, from: number, to: number): void {
  s.guest({ seq: 1 + from, ack: 1, data: bytes.slice(from, to) });
  s.drain();
}

for (const [name, second] of [
  ['duplicate', [100, 200]],
  ['subset', [120, 180]],
  ['superset', [80, 220]],
  ['left overlap', [80, 150]],
  ['right overlap', [150, 220]],
] as const) {
  script(`TCP-ASM-03 ${name} with other bytes: the first arrival counts, each byte once`, (s) => {
    s.establish();
    s.host.keep = true;
    s.host.verify = false;
    const first = new Uint8Array(400).fill(0xaa);
    const later = new Uint8Array(400).fill(0xbb);
    piece(s, first, 100, 200);
    piece(s, later, second[0], second[1]);
    piece(s, later, 0, 300);
    s.host.expectRead(300);
    for (let i = 0; i < 300; i++) must(s.host.bytes[i] === (i >= 100 && i < 200 ? 0xaa : 0xbb), `byte ${i}`);
  });
}

script('TCP-ASM-03 property: random pieces with random bytes against a byte oracle', { once: true }, (s) => {
  const random = new SeededRandom(3);
  for (let round = 0; round < 40; round++) {
    const f = s.newFlow();
    f.establish({ sackOk: round % 2 === 0 });
    f.host.keep = true;
    f.host.verify = false;
    const total = 2000;
    const oracle = new Int16Array(total).fill(-1);
    for (let n = 0; oracle.includes(-1) && n < 3000; n++) {
      const from = n % 7 === 0 ? Math.max(0, oracle.indexOf(-1) - random.below(30)) : random.below(total);
      const to = Math.min(total, from + 1 + random.below(120));
      const bytes = Uint8Array.from({ length: to - from }, () => random.below(256));
      f.guest({ seq: 1 + from, ack: 1, data: bytes });
      const known = f.drain().length;
      must(known <= 1, 'more than one answer');
      for (let i = from; i < to; i++) if (oracle[i] === -1) oracle[i] = bytes[i - from]!;
      const inOrder = oracle.indexOf(-1);
      must(
        f.host.received === (inOrder < 0 ? total : inOrder),
        `${f.host.received} bytes read, ${inOrder} are in order`,
      );
    }
    for (let i = 0; i < total; i++) must(f.host.bytes[i] === oracle[i], `byte ${i} of round ${round}`);
    f.guest({ rst: true, seq: 1 + total });
  }
});

script('TCP-ASM-04 FIN beyond a hole: the end is seen only after the hole is filled', (s) => {
  s.establish();
  s.guest({ seq: 101, data: 100, fin: true });
  s.expect({ ack: 1 });
  s.host.expectNoEof();
  s.expectState('ESTABLISHED');
  s.guest({ seq: 1, ack: 1, data: 100 });
  const answer = s.expect({});
  if (s.flow.ackOf(answer) === 201) {
    s.guest({ seq: 201, ack: 1, fin: true });
    s.expect({ ack: 202 });
  } else must(s.flow.ackOf(answer) === 202, `acknowledged ${s.flow.ackOf(answer)}`);
  s.host.expectRead(200);
  s.host.expectEof();
  s.expectState('CLOSE-WAIT');
});

script('TCP-ASM-04 a bare FIN beyond a hole', (s) => {
  s.establish();
  s.guest({ seq: 101, fin: true });
  s.expect({ ack: 1 });
  s.guest({ seq: 1, ack: 1, data: 100 });
  s.expect({ ack: 102 });
  s.host.expectRead(100);
  s.host.expectEof();
});

script("TCP-ASM-04 bytes beyond a FIN are nobody's", (s) => {
  s.establish();
  s.guest({ seq: 101, data: 100, fin: true });
  s.expect({ ack: 1 });
  s.guest({ seq: 201, ack: 1, data: 500 });
  s.drain();
  s.guest({ seq: 151, ack: 1, data: 500 });
  s.drain();
  s.guest({ seq: 1, ack: 1, data: 100 });
  s.expect({ ack: 202 });
  s.host.expectRead(200);
  s.host.expectEof();
  s.guest({ seq: 202, ack: 1, data: 50 });
  s.expect({ ack: 202 });
  s.host.expectRead(0);
});

script(
  'TCP-ASM-05 every second byte in a segment of its own: bounded in time, ranges and memory',
  { once: true },
  (s) => {
    s.establish();
    const start = process.cpuUsage();
    const window = 60_000;
    s.batch(() => {
      for (let i = 0; i < 200_000; i++) s.guest({ seq: 3 + 2 * (i % (window / 2)), ack: 1, data: 1 });
    });
    const used = process.cpuUsage(start);
    s.drain();
    const ms = (used.user + used.system) / 1000;
    must(ms < 6000, `${ms} ms of CPU for 200,000 frames, the guest's own included`);
    must((s.connection!.assembler?.count ?? 0) <= 128, 'ranges');
    must(s.heldBytes <= 4 * 1024 * 1024, `${s.heldBytes} bytes held`);
    s.host.expectRead(0);
  },
);

script('TCP-ASM-05 with the table of ranges full, what is next in order is still taken', { once: true }, (s) => {
  s.establish();
  // 128 ranges, none next to the place in order.
  for (let i = 0; i < 140; i++) s.guest({ seq: 401 + 200 * i, ack: 1, data: 100 });
  s.drain();
  must(s.connection!.assembler!.count === 128, `${s.connection!.assembler!.count} ranges`);
  s.guest({ seq: 1, ack: 1, data: 100 });
  s.expect({ ack: 101 });
  s.host.expectRead(100);
  // And the whole of it arrives by plain retransmission.
  for (let at = 101; at < 28_501; at += 100) s.guest({ seq: at, ack: 1, data: 100 });
  const last = s.drain().at(-1)!;
  must(s.flow.ackOf(last) === 28_501, `acknowledged ${s.flow.ackOf(last)}`);
  s.host.expectRead(28_400);
});

script('TCP-ASM-06 many one-byte segments hold no more than the window', { once: true }, (s) => {
  s.establish();
  s.host.pause();
  for (let i = 0; i < 3000; i++) s.guest({ data: 1 });
  s.drain();
  must(s.heldBytes <= 65_536, `${s.heldBytes} bytes held for 3000`);
  s.host.resume();
  s.drain();
  s.host.expectRead(3000);
  must(s.heldBytes === 0, 'an empty ring is given back');
});

for (const ts of [false, true]) {
  script(
    `TCP-ASM-07 at most ${ts ? 3 : 4} SACK blocks${ts ? ' beside timestamps' : ''}, in 40 bytes of options`,
    (s) => {
      s.establish({ ts });
      for (let i = 1; i <= 8; i++) {
        s.guest({ seq: 200 * i, data: 50 });
        const a = s.expect({ ack: 1 });
        must(a.optionBytes <= 40, 'options too long');
        must(a.sack.length === Math.min(i, ts ? 3 : 4), `${a.sack.length} blocks`);
      }
    },
  );
}

script('TCP-ASM-07 property: blocks are disjoint, above the ACK and really held', { once: true }, (s) => {
  const random = new SeededRandom(7);
  s.establish();
  const have = new Uint8Array(30_000);
  for (let i = 0; i < 3000; i++) {
    const from = random.below(8000);
    const len = 1 + random.below(200);
    s.guest({ seq: 1 + from, ack: 1, data: len });
    have.fill(1, from, from + len);
    // Disjointness, order and limits are checked for every frame; here, that nothing is claimed that was not sent.
    for (const a of s.drain()) {
      for (const [l, r] of a.sack) {
        const left = ((l - s.flow.guestIsn) | 0) - 1;
        const right = ((r - s.flow.guestIsn) | 0) - 1;
        for (let k = left; k < right; k++) must(have[k] === 1, `byte ${k} is claimed and was never sent`);
      }
    }
  }
});

script(
  'TCP-ASM-08 data that was refused for want of memory is taken when it comes again',
  { memory: 2 * 1024 * 1024 },
  (s) => {
    s.establish();
    // All of the packet memory is taken.
    const { slab } = s.stack;
    const hoard: number[] = [];
    for (let size = 1024 * 1024; size >= 4096; size /= 2) {
      for (let off = slab.alloc(size); off >= 0; off = slab.alloc(size)) hoard.push(off);
    }
    s.guest({ data: 100 });
    s.expect({ ack: 1 });
    s.guest({ seq: 101, data: 100 });
    s.expect({ ack: 1, sack: [] });
    s.host.expectRead(0);
    must(s.stack.stats.tcp.noMemory === 2, 'not counted');
    for (const off of hoard) slab.free(off);
    s.guest({ seq: 1, data: 100 });
    s.expect({ ack: 101 });
    s.guest({ seq: 101, data: 100 });
    s.expect({ ack: 201 });
    s.host.expectRead(200);
  },
);

script('TCP-ASM-09 D-SACK: duplicates below the ACK, and inside what is held', (s) => {
  s.establish();
  s.guest({ data: 500 });
  s.expect({ ack: 501, sack: [] });
  s.guest({ seq: 1, data: 500 });
  s.expect({ ack: 501, sack: [[1, 501]] });
  s.guest({ seq: 401, data: 300 });
  s.expect({ ack: 701, sack: [[401, 501]] });
  s.guest({ seq: 801, data: 100 });
  s.expect({ ack: 701, sack: [[801, 901]] });
  s.guest({ seq: 821, data: 30 });
  s.expect({
    ack: 701,
    sack: [
      [821, 851],
      [801, 901],
    ],
  });
  // It is said once.
  s.guest({ seq: 1001, data: 100 });
  s.expect({
    ack: 701,
    sack: [
      [1001, 1101],
      [801, 901],
    ],
  });
});

for (const psh of [false, true]) {
  script(`TCP-ASM-10 data reaches the host at once ${psh ? 'with' : 'without'} PSH`, (s) => {
    s.establish();
    for (let i = 0; i < 50; i++) {
      s.guest({ data: 7, psh });
      s.host.expectRead(7);
      s.advance(60);
      s.drain();
    }
  });
}

script('the pattern of scripted streams repeats nowhere near', { once: true }, () => {
  for (let shift = 1; shift < 3000; shift++) {
    let same = 0;
    for (let i = 1; i < 400; i++) if (guestByte(i) === guestByte(i + shift)) same++;
    must(same < 300, `shift ${shift}`);
  }
});
