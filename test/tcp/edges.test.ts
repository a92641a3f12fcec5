// Values exactly at an edge, one beyond it, and answers that come once too often: each of these was a broken rule that no other
// script noticed (docs/mutants.md). RFC 9293 3.10.7.4, 3.8.4, 3.8.6; RFC 6298; RFC 2018; RFC 5681 4.2.

import { type Script, script } from '../helpers/script.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

const edge = (s: Script): number => (s.connection!.rcvAdv - s.connection!.irs) | 0;

/** The guest sends until `left` bytes of our window remain. */
function fill(s: Script, left: number): void {
  while (edge(s) - s.flow.guestNext > left) {
    s.guest({ data: Math.min(MSS, edge(s) - s.flow.guestNext - left) });
    s.drain();
  }
  s.advance(60);
  s.drain();
}

for (const beyond of [1, 2, 700]) {
  script(`TCP-SEQ-04 of a segment that ends ${beyond} beyond the window, only what lies inside is taken`, (s) => {
    s.establish({ ws: false });
    s.host.pause();
    fill(s, 700);
    const right = edge(s);
    must(right - s.flow.guestNext === 700, 'the window is as wanted');
    const before = s.flow.guestNext;
    s.guest({ data: 700 + beyond });
    s.flow.guestNext = right;
    s.expect({ ack: right, win: 0 });
    s.host.resume();
    s.drain();
    s.host.expectRead(before + 699);
  });
}

script('TCP-SEQ-11 keepalives and window probes are answered each time, even ten in one second', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  for (let i = 0; i < 10; i++) {
    s.guest({ seq: 100 });
    s.expect({ ack: 101 });
    s.advance(100);
  }
  s.expectSilence(1000);
  s.host.expectRead(100);
});

script('TCP-OPT-04 an option that ends behind the header: what it would say is not looked for in the data', (s) => {
  // Kind 2, length 4, and the header is over: the payload begins with what would be 1460.
  s.guest({ syn: true, seq: 0, win: 64_240, options: [1, 1, 2, 4], data: Uint8Array.of(0x05, 0xb4, 0, 0) });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.flow.guestNext = 1;
  s.guest({ ack: 1 });
  s.host.write(2000);
  s.expect({ data: 536 });
  s.drain();
});

script('TCP-OPT-14 a SACK option whose length fits no number of blocks is not read', (s) => {
  s.establish();
  s.host.write(3 * MSS);
  for (let i = 0; i < 3; i++) s.lose({ data: MSS });
  const word = (n: number): number[] => {
    const seq = (s.flow.ourIsn + n) >>> 0;
    return [seq >>> 24, (seq >>> 16) & 255, (seq >>> 8) & 255, seq & 255];
  };
  s.guest({ ack: 1, options: [5, 12, ...word(1 + MSS), ...word(1 + 3 * MSS), 0, 0] });
  must(s.connection!.sackedBytes === 0, 'believed');
  s.guest({ ack: 1 + 3 * MSS });
});

script('TCP-OPT-14 a SACK block that begins below SND.UNA and ends above it is not believed', (s) => {
  s.establish();
  s.host.write(4 * MSS);
  for (let i = 0; i < 4; i++) s.lose({ data: MSS });
  s.guest({ ack: 1 + MSS });
  s.guest({ ack: 1 + MSS, sack: [[1, 1 + 3 * MSS]] });
  must(s.connection!.sackedBytes === 0, 'believed');
  s.guest({ ack: 1 + 4 * MSS });
});

script("TCP-SYN-10 the window of the guest's SYN-ACK is not scaled: what waits for the flow keeps to it", (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.host.write(5000);
  f.guest({ syn: true, seq: 0, ack: 1, win: 1000, mss: MSS, ws: 7, sackOk: true });
  f.expect({ ack: 1, data: 536 });
  f.expectNothing();
  f.guest({ ack: 537, win: 1000 });
  f.drain();
  f.guest({ ack: 5001 });
});

script('TCP-FIN-12 bytes that fill the window exactly leave no room for the FIN: it follows when there is', (s) => {
  s.establish({ ws: false });
  s.guest({ win: 0 });
  s.host.write(500);
  s.host.end();
  s.expectSilence();
  s.guest({ win: 500 });
  s.expect({ seq: 1, data: 500 });
  s.expectSilence();
  s.guest({ win: 500 });
  s.expect({ seq: 501, fin: true });
  s.guest({ fin: true });
  s.expect({ ack: 2 });
  s.expectClosedCleanly();
});

script('TCP-FCR-06 less than a segment of free space is shown as nothing, whoever asks', (s) => {
  s.establish();
  s.host.pause();
  fill(s, 0);
  const end = s.flow.guestNext;
  const over = Math.max(0, end - 1 - s.connection!.rcv.target);
  s.host.read(over + 900);
  s.expectSilence(100);
  s.guest({ seq: end - 1 });
  s.expect({ ack: end, win: 0 });
  s.host.resume();
  s.drain();
});

script('TCP-ACK-03 an ACK that was delayed for nothing: the next segments are acknowledged at once again', (s) => {
  s.establish();
  let at = 1;
  const send = (): void => {
    s.guest({ data: 100 });
    at += 100;
  };
  // The first segments of the flow have their acknowledgements at once.
  let quick = 0;
  for (; quick < 100; quick++) {
    send();
    if (s.flow.pending.length === 0) break;
    s.expect({ ack: at });
  }
  must(quick >= 8 && quick < 100, `${quick} acknowledgements at once`);
  s.expectAfter(40, { ack: at });
  for (let i = 0; i < 8; i++) {
    send();
    s.expect({ ack: at });
  }
});

script('TCP-RTO-02 Karn: SACK of a segment that was sent twice gives no sample', (s) => {
  s.establish();
  s.host.write(5 * MSS);
  for (let i = 0; i < 5; i++) s.lose({ data: MSS });
  s.guest({ ack: 1, sack: [[1 + 2 * MSS, 1 + 5 * MSS]] });
  const before = s.connection!.rtt.srtt;
  // The first two are lost, and sent again.
  s.lose({ seq: 1, data: MSS });
  s.lose({ seq: 1 + MSS, data: MSS });
  s.advance(150);
  s.flow.pending.length = 0;
  s.guest({ ack: 1, sack: [[1 + MSS, 1 + 5 * MSS]] });
  must(s.connection!.rtt.srtt === before, `a sample was taken: ${before} became ${s.connection!.rtt.srtt}`);
  s.flow.pending.length = 0;
  s.guest({ ack: 1 + 5 * MSS });
});

script('TCP-RTO-02 Karn: a backed-off RTO stays until a segment that was sent once is acknowledged', (s) => {
  s.establish({ sackOk: false });
  s.host.write(100);
  s.lose({ data: 100 });
  s.advance(200);
  s.lose({ seq: 1, data: 100 });
  s.expectAfter(400, { seq: 1, data: 100 });
  s.guest({});
  must(s.connection!.rtt.rto === 800, `RTO is ${s.connection!.rtt.rto}`);
  s.host.write(100);
  s.expect({ seq: 101, data: 100 });
  s.guest({});
  must(s.connection!.rtt.rto === 200, `RTO is ${s.connection!.rtt.rto}`);
});

script('TCP-ASM-08 a FIN on data that memory refused is not remembered: it comes again with the data', (s) => {
  s.establish();
  const { slab } = s.stack;
  const hoard: number[] = [];
  for (let size = 8 * 1024 * 1024; size >= 4096; size /= 2) {
    for (let off = slab.alloc(size); off >= 0; off = slab.alloc(size)) hoard.push(off);
  }
  s.guest({ data: 100, fin: true });
  s.expect({ ack: 1 });
  s.host.expectNoEof();
  for (const off of hoard) slab.free(off);
  // The guest cuts it otherwise this time: the FIN does not count before its own place.
  s.guest({ seq: 1, data: 40 });
  s.expect({ ack: 41 });
  s.host.expectNoEof();
  s.guest({ seq: 41, data: 60, fin: true });
  s.expect({ ack: 102 });
  s.host.expectRead(100);
  s.host.expectEof();
});

script(
  'TCP-KA-01 keepalive waits while data is in flight, and begins anew after it',
  { limits: { keepaliveIdleMs: 600_000 } },
  (s) => {
    s.establish();
    s.host.write(100);
    s.lose({ data: 100 });
    s.expectWithin(1000, { seq: 1, data: 100 });
    s.advance(100);
    s.guest({});
    s.expectAfter(600_000, { seq: 100, ack: 1 }, 0.01);
    s.guest({});
    s.expectAfter(600_000, { seq: 100, ack: 1 }, 0.01);
    s.guest({});
  },
);
