// Flow control towards us: rows TCP-FCR-*. RFC 9293 3.8.6; RFC 7323 2.

import { type Script, script } from '../helpers/script.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

const edge = (s: Script): number => (s.connection!.rcvAdv - s.connection!.irs) | 0;

/** The guest sends until our window is shut. @returns bytes sent. */
function fill(s: Script, size = 1460): number {
  const start = s.flow.guestNext;
  for (let i = 0; i < 5000 && edge(s) > s.flow.guestNext; i++) {
    s.guest({ data: Math.min(size, edge(s) - s.flow.guestNext) });
    s.drain();
  }
  s.advance(60);
  s.drain();
  return s.flow.guestNext - start;
}

for (const ws of [7, false] as const) {
  script(
    `TCP-FCR-01 the host stops reading: the window falls to 0, the buffer is bounded${ws === false ? ' (no window scale)' : ''}`,
    (s) => {
      s.establish({ ws });
      s.host.pause();
      const got = fill(s);
      // Rounding by the window scale may add up to 63 bytes an acknowledgement, and no more than a segment in all.
      must(got >= 60_000 && got <= 65_536 + 1460, `${got} bytes until the window closed`);
      s.guest({ seq: s.flow.guestNext - 1 });
      const last = s.expect({ ack: 1 + got });
      must(last.win === 0, `window ${last.win}`);
      must(s.heldBytes <= 131_072, `${s.heldBytes} bytes held`);
      s.host.resume();
      s.expect({ ack: 1 + got });
      s.host.expectRead(got);
    },
  );
}

script(
  'TCP-FCR-02 the right edge never goes back, whatever the host reads and the guest sends',
  { once: true },
  (s) => {
    // The edge is checked for every frame; this walks through odd sizes.
    s.establish();
    s.host.pause();
    for (let i = 0; i < 1500; i++) {
      const room = edge(s) - s.flow.guestNext;
      if (room > 0) s.guest({ data: Math.min(room, 1 + (((i * 7919) % 3000) % 1460)) });
      if (i % 3 === 0) s.host.read(1 + ((i * 104_729) % 2500));
      s.drain();
    }
  },
);

script('TCP-FCR-03 after zero, nothing before a worthwhile piece is free; then an update unprompted', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  const over = Math.max(0, got - s.connection!.rcv.target);
  s.host.read(over + 500);
  s.expectSilence(100);
  s.host.read(900);
  s.expectSilence(100);
  s.host.read(60);
  const update = s.expect({ ack: 1 + got });
  must(s.flow.windowOf(update) >= 1390 && s.flow.windowOf(update) <= 1460, `window ${s.flow.windowOf(update)}`);
  s.expectSilence(1000);
  s.guest({ data: s.flow.windowOf(update) });
  s.advance(50);
  s.drain();
  s.host.resume();
  s.drain();
  s.host.expectRead(s.flow.guestNext - 1);
});

script('TCP-FCR-04 the update is lost: the probe is answered with the true window', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  s.host.resume();
  s.lose({ ack: 1 + got });
  s.expectSilence(200);
  s.guest({ seq: got });
  const answer = s.expect({ ack: 1 + got });
  must(s.flow.windowOf(answer) >= 60_000, `window ${s.flow.windowOf(answer)}`);
  s.guest({ data: 1000 });
  s.flow.expectWithin(50, { ack: 1001 + got });
});

script('TCP-FCR-05 a probe of one byte at window 0: answered at once, the byte refused and taken later, once', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  for (let i = 0; i < 5; i++) {
    s.advance(300 << i);
    s.guest({ seq: 1 + got, data: 1 });
    s.expect({ ack: 1 + got, win: 0 });
  }
  s.host.resume();
  s.expect({ ack: 1 + got });
  s.host.expectRead(got);
  s.guest({ seq: 1 + got, data: 1 });
  s.flow.expectWithin(50, { ack: 2 + got });
  s.host.expectRead(1);
});

script('TCP-FCR-06 small free space is shown as 0', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  for (let read = 0; read < 1400; read += 100) {
    s.host.read(100);
    s.advance(1000);
    s.guest({ seq: got });
    s.expect({ ack: 1 + got, win: 0 });
  }
});

script('TCP-FCR-06 with window scale an update is rounded down: no more is promised than is free', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  s.host.read(5001);
  const update = s.expect({ ack: 1 + got });
  const free = s.connection!.rcv.target - (got - 5001);
  must(
    s.flow.windowOf(update) <= free && s.flow.windowOf(update) > free - 64,
    `window ${s.flow.windowOf(update)}, free ${free}`,
  );
});

script('TCP-FCR-07 the host drains a byte at a time: at most one update for each MSS', { once: true }, (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  let updates = 0;
  for (let i = 0; i < 20_000; i++) {
    s.host.read(1);
    updates += s.drain().length;
  }
  must(updates >= 1 && updates <= Math.ceil(20_000 / 1460), `${updates} updates for 20,000 bytes of ${got}`);
});

script('TCP-FCR-08 a FIN alone at window 0 is taken and acknowledged', (s) => {
  s.establish();
  s.host.pause();
  const got = fill(s);
  s.guest({ fin: true });
  s.expect({ ack: 2 + got, win: 0 });
  s.expectState('CLOSE-WAIT');
  s.host.expectNoEof();
  s.host.resume();
  s.drain();
  s.host.expectRead(got);
  s.host.expectEof();
});

script('TCP-FCR-09 the window grows with use to far more than 1.25 MB', { once: true }, (s) => {
  s.establish();
  let widest = 0;
  for (let i = 0; i < 12; i++) {
    // A guest with more to send than the window takes.
    s.batch(() => {
      while (edge(s) - s.flow.guestNext >= 1460) s.guest({ data: 1460 });
    });
    for (const a of s.drain()) widest = Math.max(widest, s.flow.windowOf(a));
  }
  must(widest >= 1_250_000, `widest window ${widest}`);
  s.host.expectRead(s.flow.guestNext - 1);
});

script(
  'TCP-FCR-10 memory of all flows together is bounded: windows close, no flow dies',
  { memory: 4 * 1024 * 1024, once: true },
  (s) => {
    const flows = Array.from({ length: 40 }, () => s.newFlow());
    for (const f of flows) {
      f.establish();
      f.host.pause();
    }
    for (let round = 0; round < 60; round++) {
      for (const f of flows) {
        const c = s.connectionOf(f)!;
        const at = (c.rcvNxt - c.irs) | 0;
        if (((c.rcvAdv - c.rcvNxt) | 0) >= 1460) f.guest({ seq: at, data: 1460 });
        f.drain();
      }
    }
    must(s.heldBytes <= 4 * 1024 * 1024, 'memory');
    for (const f of flows) f.host.expectOpen();
    let before = 0;
    for (const f of flows) {
      f.host.resume();
      f.drain();
      before += f.host.received;
    }
    // Memory is back: each flow takes what it was refused.
    for (const f of flows) {
      const c = s.connectionOf(f)!;
      f.guest({ seq: (c.rcvNxt - c.irs) | 0, data: 1000 });
      f.drain();
      f.host.expectOpen();
    }
    let after = 0;
    for (const f of flows) after += f.host.received;
    must(after - before === 40_000, `${after - before} bytes taken`);
  },
);
