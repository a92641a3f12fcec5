// Closing: rows TCP-FIN-*. RFC 9293 3.6, 3.10.4, 3.10.7.4; RFC 1122 4.2.2.13; RFC 2525 2.17.

import { type Script, script } from '../helpers/script.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

script(
  'TCP-FIN-01 the guest ends: acknowledged at once, the host sees the end after every byte, and may send for hours',
  (s) => {
    s.establish();
    s.guest({ data: 1000 });
    s.drain();
    s.guest({ data: 500, fin: true });
    s.expect({ ack: 1502 });
    s.host.expectRead(1500);
    s.host.expectEof();
    s.expectState('CLOSE-WAIT');
    for (let hour = 0; hour < 4; hour++) {
      s.expectSilence(3_600_000);
      s.host.write(3000);
      s.drain();
      s.guest({});
    }
    must(s.flow.received === 12_001, `${s.flow.received - 1} bytes`);
    s.host.end();
    s.expect({ fin: true, seq: 12_001, ack: 1502 });
    s.expectState('LAST-ACK');
    s.guest({});
    s.host.expectClosed('done');
    s.expectClean();
  },
);

script('TCP-FIN-01 the end waits for a host that reads slowly', (s) => {
  s.establish();
  s.host.pause();
  s.guest({ data: 1000, fin: true });
  s.expect({ ack: 1002 });
  s.host.expectNoEof();
  s.host.read(999);
  s.host.expectNoEof();
  s.host.read(1);
  s.host.expectEof();
});

script('TCP-FIN-02 the host ends: all of its data, then FIN; the guest may send in FIN-WAIT-1 and FIN-WAIT-2', (s) => {
  s.establish();
  s.host.write(14 * MSS);
  s.host.end();
  let fins = 0;
  for (let i = 0; i < 10 && fins === 0; i++) {
    for (const x of s.drain()) fins += x.flags & 1;
    if (fins === 0) s.guest({});
  }
  must(fins === 1 && s.flow.received === 14 * MSS + 2, 'FIN behind the data');
  s.expectState('FIN-WAIT-1');
  s.guest({ data: 100, ack: 14 * MSS + 1 });
  s.expect({ ack: 101 });
  s.expectState('FIN-WAIT-1');
  s.guest({});
  s.expectState('FIN-WAIT-2');
  for (let hour = 0; hour < 3; hour++) {
    s.expectSilence(3_600_000);
    s.guest({ data: 100 });
    s.flow.expectWithin(50, { ack: 201 + 100 * hour });
  }
  s.host.expectRead(400);
  s.guest({ fin: true });
  s.expect({ ack: 402 });
  s.expectState('TIME-WAIT');
  s.expectClosedCleanly();
});

for (const [state, reach] of [
  ['FIN-WAIT-1', () => {}],
  [
    'CLOSING',
    (s: Script) => {
      s.guest({ fin: true, ack: 1 });
      s.expect({ ack: 2 });
    },
  ],
] as const) {
  script(`TCP-FIN-03 FIN is sent again in ${state}, with growing gaps`, (s) => {
    s.establish({ sackOk: false });
    s.host.end();
    s.lose({ fin: true, seq: 1 });
    s.flow.received = 1;
    reach(s);
    s.expectState(state);
    for (let i = 0; i < 5; i++) s.flow.expectWithin(8000, { fin: true, seq: 1 });
    s.guest({ ack: 2 });
    s.expectState(state === 'FIN-WAIT-1' ? 'FIN-WAIT-2' : 'TIME-WAIT');
    s.expectSilence(30_000);
  });
}

script('TCP-FIN-03 FIN is sent again in LAST-ACK', (s) => {
  s.establish();
  s.guest({ fin: true });
  s.expect({ ack: 2 });
  s.host.end();
  s.lose({ fin: true, seq: 1 });
  s.flow.received = 1;
  s.flow.expectWithin(400, { fin: true, seq: 1, ack: 2 });
  s.guest({});
  s.host.expectClosed('done');
  s.expectClean();
});

script('TCP-FIN-03 data and FIN lost together: both come again', (s) => {
  s.establish({ sackOk: false });
  s.host.write(100);
  s.lose({ data: 100 });
  s.host.end();
  s.lose({ fin: true, seq: 101 });
  s.expectAfter(200, { seq: 1, data: 100 });
  s.guest({});
  s.expect({ fin: true, seq: 101 });
  s.guest({});
  s.expectState('FIN-WAIT-2');
});

script('TCP-FIN-03 FIN on a data segment that is lost comes again with it', (s) => {
  s.establish({ sackOk: false });
  s.guest({ win: 0 });
  s.host.write(100);
  s.host.end();
  s.guest({ win: 64_240 });
  s.lose({ fin: true, seq: 1, data: 100 });
  s.flow.expectWithin(500, { fin: true, seq: 1, data: 100 });
  s.guest({});
  s.expectState('FIN-WAIT-2');
});

script('TCP-FIN-04 both end at once: CLOSING, TIME-WAIT, gone', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true, seq: 1, ack: 1 });
  s.guest({ fin: true, ack: 1 });
  s.expect({ seq: 2, ack: 2 });
  s.expectState('CLOSING');
  s.guest({ ack: 2 });
  s.expectState('TIME-WAIT');
  s.expectClosedCleanly();
});

script('TCP-FIN-04 2,000 times over, nothing is left', { once: true, limits: { timeWaitMax: 100 } }, (s) => {
  for (let i = 0; i < 2000; i++) {
    const f = s.newFlow({ guestPort: 1024 + i });
    f.establish();
    f.host.end();
    f.expect({ fin: true });
    f.guest({ fin: true, ack: 1 });
    f.expect({ ack: 2 });
    f.guest({ ack: 2 });
  }
  s.expectSilence(61_000);
  s.expectClean();
});

script('TCP-FIN-05 FIN with data: the data, the end, one ACK for both', (s) => {
  s.establish();
  s.guest({ data: 100, fin: true });
  s.expect({ ack: 102 });
  s.expectSilence(100);
  s.host.expectRead(100);
  s.host.expectEof();
});

for (const [state, reach] of [
  ['CLOSE-WAIT', () => {}],
  [
    'LAST-ACK',
    (s: Script) => {
      s.host.end();
      s.expect({ fin: true });
    },
  ],
] as const) {
  script(`TCP-FIN-06 FIN again in ${state}: an ACK, RCV.NXT stays`, (s) => {
    s.establish();
    s.guest({ fin: true });
    s.expect({ ack: 2 });
    reach(s);
    for (let i = 0; i < 3; i++) {
      s.guest({ fin: true, seq: 1, ack: 1 });
      s.expect({ ack: 2 });
    }
    s.expectState(state);
  });
}

for (const state of ['CLOSING', 'TIME-WAIT'] as const) {
  script(`TCP-FIN-06 FIN again in ${state}: an ACK, RCV.NXT stays`, (s) => {
    s.establish();
    s.host.end();
    s.expect({ fin: true });
    s.guest({ fin: true, ack: 1 });
    s.expect({ ack: 2 });
    if (state === 'TIME-WAIT') s.guest({ ack: 2 });
    for (let i = 0; i < 3; i++) {
      s.guest({ fin: true, seq: 1, ack: state === 'TIME-WAIT' ? 2 : 1 });
      s.expect({ seq: 2, ack: 2 });
    }
    s.expectState(state);
  });
}

script('TCP-FIN-07 FIN whose ACK is older than one already seen is taken', (s) => {
  s.establish();
  s.host.write(100);
  s.expect({ data: 100 });
  s.host.end();
  s.expect({ fin: true, seq: 101 });
  // The ACK of the FIN overtakes the guest's FIN.
  s.guest({ seq: 2, ack: 102 });
  s.drain();
  s.guest({ seq: 1, ack: 1, fin: true });
  s.expect({ ack: 2 });
  s.expectState('TIME-WAIT');
  s.host.expectEof();
});

script('TCP-FIN-08 the host is gone for good and the guest sends data: RST', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true, seq: 1 });
  s.guest({ ack: 2 });
  s.host.gone();
  s.guest({ data: 100, ack: 2 });
  s.flow.expectRst({ seq: 2 });
  s.host.expectRead(0);
  s.expectFlows(0);
  s.guest({ data: 100, ack: 2 });
  s.expectRst({ seq: 2, ack: false });
});

script('TCP-FIN-08 ... in FIN-WAIT-1 as well', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true, seq: 1 });
  s.host.gone();
  s.guest({ data: 100, ack: 1 });
  s.flow.expectRst({});
  s.expectFlows(0);
});

script('TCP-FIN-08 the host only ended its side: data of the guest is delivered', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true, seq: 1 });
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.host.expectRead(100);
});

script('TCP-FIN-09 the host goes with bytes of the guest undelivered: RST, not a clean end', (s) => {
  s.establish();
  s.host.pause();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.host.end();
  s.expect({ fin: true, seq: 1 });
  s.host.gone();
  s.flow.expectRst({ ack: 101 });
  s.expectClean();
});

script('TCP-FIN-09 nothing undelivered, only duplicates: FIN and no RST', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.guest({ seq: 1, data: 100 });
  s.expect({ ack: 101 });
  s.host.end();
  s.expect({ fin: true, seq: 1, ack: 101 });
  s.host.gone();
  s.guest({ seq: 1, ack: 2, data: 100 });
  s.expect({ ack: 101 });
  s.guest({ fin: true, seq: 101, ack: 2 });
  s.expect({ ack: 102 });
  s.expectState('TIME-WAIT');
});

script('TCP-FIN-10 LAST-ACK: the ACK of our FIN frees at once, no other does', (s) => {
  s.establish();
  s.host.write(100);
  s.expect({ data: 100 });
  s.guest({ fin: true, ack: 1 });
  s.expect({ ack: 2 });
  s.host.end();
  s.expect({ fin: true, seq: 101 });
  s.guest({ ack: 1 });
  s.guest({ ack: 101 });
  s.expectState('LAST-ACK');
  s.guest({ ack: 103 });
  s.drain();
  s.expectState('LAST-ACK');
  s.guest({ ack: 102 });
  s.host.expectClosed('done');
  s.expectClean();
});

script('TCP-FIN-11 FIN-WAIT-2 with the host gone: freed after 60 s, later segments draw RST', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true });
  s.guest({});
  s.host.gone();
  s.expectSilence(59_000);
  s.expectState('FIN-WAIT-2');
  s.expectSilence(1100);
  s.host.expectClosed('idle-orphan');
  s.expectClean();
  s.guest({ fin: true });
  s.expectRst({ seq: 2, ack: false });
});

script('TCP-FIN-11 gone before the FIN is acknowledged: the same', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true });
  s.host.gone();
  s.guest({});
  s.expectSilence(61_000);
  s.host.expectClosed('idle-orphan');
  s.expectClean();
});

script('TCP-FIN-11 FIN-WAIT-2 with a host that still reads: no limit', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true });
  s.guest({});
  s.expectSilence(24 * 3_600_000);
  s.expectState('FIN-WAIT-2');
  s.guest({ data: 10 });
  s.flow.expectWithin(50, { ack: 11 });
  s.host.expectRead(10);
});

script("TCP-FIN-12 FIN while the guest's window is 0: it waits, and goes when the window opens", (s) => {
  s.establish();
  s.guest({ win: 0 });
  s.host.write(100);
  s.host.end();
  for (let i = 0; i < 4; i++) {
    s.flow.expectWithin(5000, { seq: 0 });
    s.guest({ seq: 1, win: 0 });
  }
  s.guest({ seq: 1, win: 64_240 });
  s.expect({ fin: true, seq: 1, data: 100 });
  s.guest({});
  s.expectState('FIN-WAIT-2');
});

script('TCP-FIN-12 a window that takes the data but not the FIN', (s) => {
  s.establish({ ws: false, win: 100 });
  s.host.write(100);
  s.host.end();
  s.expect({ seq: 1, data: 100 });
  s.guest({ win: 0 });
  s.flow.expectWithin(500, { seq: 100 });
  s.guest({ win: 1 });
  s.expect({ fin: true, seq: 101 });
});

script('writing and ending after the end is over does nothing', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true });
  s.host.end();
  s.expectSilence();
  must(s.host.flow!.writable === 0, 'writable');
  must(s.host.flow!.room(100) === 0, 'room');
});
