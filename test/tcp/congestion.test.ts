// Congestion control: rows TCP-CC-*, and the two algorithms by themselves. RFC 5681, RFC 6928, RFC 9438, RFC 3465.

import t from 'tap';
import { type CongestionControl, initialWindow } from '../../src/tcp/congestion.ts';
import { Cubic } from '../../src/tcp/cubic.ts';
import { NewReno } from '../../src/tcp/new-reno.ts';
import { type Script, script } from '../helpers/script.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

const MAKE: readonly [string, () => CongestionControl][] = [
  ['CUBIC', () => new Cubic(MSS)],
  ['NewReno', () => new NewReno(MSS)],
];

t.test('TCP-CC-01 initial window: ten segments, but not above 14,600 bytes, and two at least (RFC 6928)', async (t) => {
  t.equal(initialWindow(1460), 14_600);
  t.equal(initialWindow(536), 5360);
  t.equal(initialWindow(8960), 17_920);
  t.equal(initialWindow(1461), 14_600);
  t.equal(initialWindow(65_480), 130_960);
});

script('TCP-CC-01 on the wire: ten segments, then silence', (s) => {
  s.establish({ sackOk: false });
  s.host.write(20 * MSS);
  for (let i = 0; i < 10; i++) s.lose({ data: MSS });
  s.expectSilence(100);
});

script('TCP-CC-02 slow start: each segment acknowledged lets two go', (s) => {
  s.establish();
  s.host.write(60 * MSS);
  s.drain();
  s.guest({ ack: 1 + MSS });
  must(s.drain().length === 2, 'two segments');
  s.guest({ ack: 1 + 5 * MSS });
  must(s.drain().length === 8, 'eight segments');
  must(s.connection!.cc.cwnd === 15 * MSS, `cwnd ${s.connection!.cc.cwnd}`);
});

script('TCP-CC-02 no growth while the application is what limits', (s) => {
  s.establish();
  for (let i = 0; i < 50; i++) {
    s.host.write(2 * MSS);
    s.drain();
    s.guest({});
  }
  must(s.connection!.cc.cwnd === 10 * MSS, `cwnd ${s.connection!.cc.cwnd}`);
});

script("TCP-CC-02 no growth while the guest's window is what limits", (s) => {
  s.establish({ ws: false, win: 8 * MSS });
  s.host.write(400 * MSS);
  for (let i = 0; i < 30; i++) {
    s.drain();
    s.guest({});
  }
  s.drain();
  must(s.connection!.cc.cwnd === 10 * MSS, `cwnd ${s.connection!.cc.cwnd}`);
});

for (const [name, make] of MAKE) {
  t.test(`TCP-CC-02 ${name}: a time-out leaves one segment, a loss never less than two of ssthresh`, async (t) => {
    const cc = make();
    cc.onTimeout(MSS, MSS, 0);
    t.equal(cc.cwnd, MSS);
    t.equal(cc.ssthresh, 2 * MSS);
    const other = make();
    other.onLoss(MSS, MSS, 0);
    t.equal(other.ssthresh, 2 * MSS);
  });

  t.test(`${name}: slow start adds what was acknowledged`, async (t) => {
    const cc = make();
    cc.onAck(3 * MSS, MSS, 10, 0);
    t.equal(cc.cwnd, 13 * MSS);
  });

  t.test(`${name}: a reduction for nothing is undone`, async (t) => {
    const cc = make();
    cc.cwnd = 40 * MSS;
    cc.onTimeout(40 * MSS, MSS, 0);
    cc.undo();
    t.equal(cc.cwnd, 40 * MSS);
    t.equal(cc.ssthresh, Number.POSITIVE_INFINITY);
  });

  t.test(`TCP-CC-03 ${name}: idling lowers cwnd to the restart window, never raises it`, async (t) => {
    const cc = make();
    cc.cwnd = 100 * MSS;
    cc.onIdle(10 * MSS);
    t.equal(cc.cwnd, 10 * MSS);
    cc.onIdle(50 * MSS);
    t.equal(cc.cwnd, 10 * MSS);
  });
}

t.test('TCP-CC-02 NewReno: half of the flight at a loss, then one segment a round trip (RFC 5681 3.1)', async (t) => {
  const cc = new NewReno(MSS);
  cc.cwnd = 20 * MSS;
  cc.onLoss(20 * MSS, MSS, 0);
  t.equal(cc.ssthresh, 10 * MSS);
  cc.cwnd = 10 * MSS;
  for (let round = 0; round < 5; round++) {
    const start = cc.cwnd;
    for (let acked = 0; acked < start; acked += MSS) cc.onAck(MSS, MSS);
    t.equal(cc.cwnd, start + MSS);
  }
});

t.test('TCP-CC-02 CUBIC: 70 % at a loss, fast convergence (RFC 9438 4.6, 4.7)', async (t) => {
  const cc = new Cubic(MSS);
  cc.cwnd = 100 * MSS;
  cc.onLoss(100 * MSS, MSS, 0);
  t.ok(Math.abs(cc.ssthresh - 70 * MSS) < 1e-6);
  t.equal(cc.wMax, 100);
  cc.cwnd = 70 * MSS;
  // A loss below the last maximum: wMax gives way to newcomers.
  cc.onLoss(70 * MSS, MSS, 1000);
  t.ok(Math.abs(cc.wMax - (70 * 1.7) / 2) < 1e-9, `${cc.wMax}`);
});

t.test('TCP-CC-02 CUBIC follows W(t) = C (t-K)^3 + Wmax (RFC 9438 4.2)', async (t) => {
  const cc = new Cubic(MSS);
  const rtt = 100;
  cc.cwnd = 1000 * MSS;
  cc.onLoss(1000 * MSS, MSS, 0);
  cc.cwnd = cc.ssthresh;
  const k = Math.cbrt((1000 - 700) / 0.4);
  for (let now = 0; now <= 20_000; now += rtt) {
    const segs = Math.floor(cc.cwnd / MSS);
    for (let i = 0; i < segs; i++) cc.onAck(MSS, MSS, rtt, now + (i / segs) * rtt);
    const at = (now + rtt) / 1000;
    const w = 0.4 * (at - k) ** 3 + 1000;
    const got = cc.cwnd / MSS;
    if (now > 500)
      t.ok(Math.abs(got - w) / w < 0.04, `after ${at} s: ${got.toFixed(1)}, by the formula ${w.toFixed(1)}`);
  }
  t.ok(Math.abs(cc.k - k) < 1e-6, 'K');
});

t.test('TCP-CC-02 CUBIC is no slower than Reno where windows are small (RFC 9438 4.3)', async (t) => {
  const cc = new Cubic(MSS);
  cc.cwnd = 10 * MSS;
  cc.onLoss(10 * MSS, MSS, 0);
  cc.cwnd = 7 * MSS;
  const rtt = 10;
  let reno = 7;
  const alpha = (3 * 0.3) / 1.7;
  for (let now = 0; now < 400; now += rtt) {
    const segs = Math.floor(cc.cwnd / MSS);
    for (let i = 0; i < segs; i++) cc.onAck(MSS, MSS, rtt, now + (i / segs) * rtt);
    reno += reno < 10 ? alpha : 1;
    t.ok(cc.cwnd / MSS >= 0.85 * reno, `after ${now} ms: ${cc.cwnd / MSS}, Reno ${reno}`);
  }
});

t.test('CUBIC never grows by more than half in a round trip (RFC 9438 4.2)', async (t) => {
  const cc = new Cubic(MSS);
  cc.cwnd = 10 * MSS;
  cc.onLoss(10 * MSS, MSS, 0);
  cc.cwnd = 7 * MSS;
  // A long silence puts the curve far ahead.
  cc.onAck(MSS, MSS, 10, 1);
  for (let now = 60_000; now < 60_100; now += 10) {
    const before = cc.cwnd;
    const segs = Math.floor(before / MSS);
    for (let i = 0; i < segs; i++) cc.onAck(MSS, MSS, 10, now);
    t.ok(cc.cwnd <= before * 1.66, `${cc.cwnd / before}`);
  }
});

script(
  'TCP-CC-03 after idling, no more than the larger of half of cwnd and the initial window leaves at once',
  { once: true },
  (s) => {
    s.establish();
    s.host.write(400 * MSS);
    for (let i = 0; i < 200 && s.flow.received < 1 + 400 * MSS; i++) {
      s.drain();
      s.guest({});
      s.advance(1);
    }
    const before = s.connection!.cc.cwnd;
    must(before > 40 * MSS, `cwnd ${before}`);
    s.advance(5000);
    s.host.write(400 * MSS);
    const burst = s.drain().length;
    must(burst <= Math.max(10, before / MSS / 2 + 1), `${burst} segments at once`);
  },
);

script(
  'TCP-CC-04 on a link without loss cwnd is not what limits after ten round trips',
  { once: true },
  (s: Script) => {
    s.establish({ win: 8192 });
    s.host.write(2 * 1024 * 1024);
    for (let i = 0; i < 10; i++) {
      s.drain();
      s.guest({ win: 8192 });
      s.advance(1);
      s.host.write(Math.max(0, 2 * 1024 * 1024 - (s.host.written - s.flow.received)));
    }
    s.drain();
    const c = s.connection!;
    must(c.cc.cwnd >= 1024 * 1024 || !c.cwndLimited, `cwnd ${c.cc.cwnd}`);
  },
);
