// Flow control towards the guest: rows TCP-FCS-*. RFC 9293 3.8.6.

import { type Script, script } from '../helpers/script.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

/** Something of the flow's is armed: nothing waits for ever. */
function timerArmed(s: Script): boolean {
  return Number.isFinite(s.connection!.nextDeadline());
}

const sum = (s: Script): number => s.drain().reduce((n, x) => n + x.payload.length, 0);

script('TCP-FCS-01 no byte beyond the window, whatever its size', { once: true }, (s) => {
  // The edge is checked for every frame; here every size is tried.
  s.establish({ ws: false, mss: 500, win: 1 });
  s.host.write(200_000);
  for (let win = 0; win < 3000; win += 37) {
    s.drain();
    s.guest({ win });
    s.advance(300);
  }
  s.drain();
});

script('TCP-FCS-02 window 0 with data waiting: a probe after one RTO, then doubling, up to a minute', (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.write(1000);
  // A sample of the handshake made the RTO its floor.
  for (const wait of [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]) {
    s.expectAfter(wait, { seq: 0, ack: 1 });
    s.guest({ seq: 1, ack: 1, win: 0 });
  }
});

script('TCP-FCS-02 window 0 and nothing to send: no probes', (s) => {
  s.establish();
  s.host.write(100);
  s.expect({ data: 100 });
  s.guest({ win: 0 });
  s.expectSilence(600_000);
});

script('TCP-FCS-02 window 0 with a FIN waiting: probes too', (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.end();
  s.expectAfter(200, { seq: 0 });
  s.guest({ win: 1000, seq: 1, ack: 1 });
  s.expect({ fin: true, seq: 1 });
});

script('TCP-FCS-03 probes answered with window 0: the flow lives, for a day', (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.write(1000);
  const end = s.now + 24 * 3_600_000;
  let probes = 0;
  while (s.now < end) {
    s.flow.expectWithin(61_000, { seq: 0 });
    probes++;
    s.guest({ seq: 1, ack: 1, win: 0 });
  }
  must(probes > 1400, `${probes} probes`);
  s.host.expectOpen();
  s.guest({ seq: 1, ack: 1, win: 64_240 });
  s.expect({ seq: 1, data: 1000 });
});

script('TCP-FCS-03 probes unanswered: given up after R2', (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.write(1000);
  const start = s.now;
  for (let i = 0; i < 15; i++) s.flow.expectWithin(61_000, { seq: 0 });
  s.flow.expectWithin(61_000, { rst: true });
  must(s.now - start >= 100_000, 'sooner than R2');
  s.host.expectClosed('retransmit-limit');
  s.expectClean();
});

script('TCP-FCS-04 the window opens: sending goes on in the same tick', (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.write(1000);
  s.expectAfter(200, { seq: 0 });
  s.guest({ seq: 1, ack: 1, win: 64_240 });
  s.expect({ seq: 1, data: 1000 });
  s.guest({});
  s.expectSilence(10_000);
});

script('TCP-FCS-05 shrunk over data in flight: no new data, the old within the window again', (s) => {
  s.establish({ ws: false, mss: 1000, win: 8000 });
  s.host.write(12_000);
  must(sum(s) === 8000, 'first flight');
  s.flow.received = 1;
  s.guest({ ack: 1, win: 3000 });
  must(timerArmed(s), 'no timer');
  s.expectAfter(200, { seq: 1, data: 1000 });
  s.guest({ ack: 1001, win: 2000 });
  // Only what lies within the window comes again.
  const again = s.drain();
  must(again.length > 0 && again.every((x) => s.flow.seqOf(x) + x.payload.length <= 3001), 'beyond the shrunk window');
  s.flow.received = 3001;
  s.guest({ ack: 3001, win: 60_000 });
  for (let i = 0; i < 20 && s.flow.received < 12_001; i++) {
    s.drain();
    s.guest({});
    s.advance(200);
  }
  must(s.connection!.sent.count === 0 && s.connection!.snd.used === 0, 'not all was sent');
});

script('TCP-FCS-05 shrunk to 0 with data in flight: a timer stays armed, opening sends it again', (s) => {
  s.establish({ ws: false, mss: 1000, win: 8000 });
  s.host.write(4000);
  must(sum(s) === 4000, 'first flight');
  s.flow.received = 1;
  s.guest({ ack: 1, win: 0 });
  must(timerArmed(s), 'no timer');
  for (const wait of [200, 400, 800]) {
    s.expectAfter(wait, { seq: 0 });
    s.guest({ ack: 1, win: 0 });
    must(timerArmed(s), 'no timer');
  }
  s.guest({ ack: 1, win: 8000 });
  s.expect({ seq: 1, data: 1000 });
  s.drain();
  s.guest({ ack: 4001 });
  s.expectSilence(1000);
});

script('TCP-FCS-05 shrunk to 0 by an ACK of a part: the rest comes when it opens', (s) => {
  s.establish({ ws: false, mss: 1000, win: 8000 });
  s.host.write(4000);
  s.drain();
  s.flow.received = 2001;
  s.guest({ ack: 2001, win: 0 });
  must(timerArmed(s), 'no timer');
  s.expectAfter(200, { seq: 2000 });
  s.guest({ ack: 2001, win: 500 });
  const first = s.drain();
  must(
    first.length === 1 && s.flow.seqOf(first[0]!) === 2001 && first[0]!.payload.length === 500,
    'the first 500 bytes again',
  );
  must(timerArmed(s), 'no timer');
  s.guest({ ack: 2501, win: 8000 });
  s.advance(400);
  s.drain();
  s.guest({ ack: 4001 });
  s.expectSilence(1000);
  must(s.connection!.sent.count === 0, 'something is left');
});

script('TCP-FCS-05 shrunk to 0, the peer keeps what it has: its ACK ends it', (s) => {
  s.establish({ ws: false, mss: 1000, win: 8000 });
  s.host.write(4000);
  s.drain();
  s.guest({ ack: 1, win: 0 });
  s.guest({ ack: 4001, win: 0 });
  s.expectSilence(10_000);
  s.guest({ ack: 4001, win: 8000 });
  s.expectSilence(1000);
});

script(
  'TCP-FCS-06 a window smaller than a segment with data in flight: waits, for half of the largest or the override',
  (s) => {
    s.guest({ syn: true, seq: 0, win: 10_000, mss: 1460 });
    s.host.accept();
    s.expect({ synAck: true, ack: 1 });
    // A long round trip, so that no retransmission comes in between.
    s.advance(300);
    s.guest({ ack: 1 });
    s.host.write(20_000);
    s.drain();
    // 6 * 1460 = 8760 are in flight; less than a segment is left of the window.
    must(((s.connection!.sndNxt - s.connection!.sndUna) | 0) === 8760, 'flight');
    s.guest({ ack: 1461, win: 8000 });
    s.expectSilence(100);
    must(timerArmed(s), 'no timer');
    const late = s.flow.expectWithin(1000, { seq: 8761, data: 700 });
    must(late.payload.length === 700, 'the override');
    s.guest({ ack: 8761, win: 10_000 });
    s.drain();
  },
);

script('TCP-FCS-06 half of the largest window is worth a short segment', (s) => {
  s.establish({ ws: false, mss: 1460, win: 1200 });
  s.host.write(10_000);
  // The MSS is held to half of the first window, or 536.
  s.expect({ seq: 1, data: 600 });
  s.expect({ seq: 601, data: 600 });
  s.guest({ ack: 601, win: 1200 });
  s.expect({ seq: 1201, data: 600 });
});

script('TCP-FCS-07 window of one byte, nothing in flight: progress', (s) => {
  s.establish({ ws: false, win: 1, mss: 1460 });
  s.host.write(10);
  for (let i = 1; i <= 10; i++) {
    s.expect({ seq: i, data: 1 });
    s.guest({ ack: i + 1, win: 1 });
  }
  s.expectSilence(1000);
});

script('TCP-FCS-08 the SYN had window 0, the third ACK opens it: data at once, no probe', (s) => {
  s.guest({ syn: true, seq: 0, win: 0, mss: 1460 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.host.write(1000);
  s.expectSilence(10);
  s.guest({ ack: 1, win: 0x8000 });
  s.expect({ seq: 1, data: 1000 });
  s.guest({});
  s.expectSilence(10_000);
});

script('TCP-FCS-08 both the SYN and the third ACK had window 0: probes until it opens', (s) => {
  s.guest({ syn: true, seq: 0, win: 0, mss: 1460 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, win: 0 });
  s.host.write(1000);
  s.expectAfter(200, { seq: 0 });
  s.guest({ ack: 1, win: 5000, seq: 1 });
  s.expect({ seq: 1, data: 1000 });
});

script(
  'TCP-FCS-09 the guest does not read: what is held is bounded, the rest stays with the host',
  { once: true, limits: { sndBufMax: 2 * 1024 * 1024 } },
  (s) => {
    s.establish();
    s.guest({ win: 100 });
    s.host.write(8 * 1024 * 1024);
    s.drain();
    must(s.heldBytes <= 2 * 1024 * 1024, `${s.heldBytes} bytes held`);
    must(s.host.backlog >= 6 * 1024 * 1024, 'all was taken');
    // It reads again: everything arrives.
    let last = s.flow.received;
    for (let i = 0; s.flow.received < 8 * 1024 * 1024 && i < 20_000; i++) {
      s.guest({ win: 64_240 });
      s.drain();
      if (s.flow.received === last) s.advance(50);
      last = s.flow.received;
    }
    must(s.flow.received === 8 * 1024 * 1024 + 1, `${s.flow.received} received`);
    s.guest({});
    must(s.heldBytes === 0, 'the ring was not given back');
  },
);

script('TCP-FCS-10 many flows at window 0 hold no more than they were given, and live', { once: true }, (s) => {
  const flows = Array.from({ length: 500 }, () => s.newFlow());
  for (const f of flows) {
    f.establish();
    f.guest({ win: 0 });
    f.host.write(1000);
  }
  must(s.heldBytes <= 500 * 4096, `${s.heldBytes} bytes held`);
  s.advance(100);
  for (const f of flows) f.host.expectOpen();
  for (const f of flows) {
    f.drain();
    f.guest({ seq: 1, ack: 1, win: 64_240 });
    f.expect({ seq: 1, data: 1000 });
    f.guest({});
  }
  must(s.heldBytes === 0, 'memory is still held');
});
