// When we acknowledge, how the host's bytes are cut, keepalive: rows TCP-ACK-*, TCP-KA-*. RFC 9293 3.8.4, 3.8.6.3; RFC 5681 4.2.

import { type Script, script } from '../helpers/script.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

/** Past the first segments of a flow, which are acknowledged at once. */
function warm(s: Script): void {
  for (let i = 0; i < 40; i++) {
    s.guest({ data: 100 });
    s.drain();
  }
  s.advance(100);
  s.drain();
  for (let i = 0; i < 40; i++) {
    s.guest({ data: 100 });
    s.drain();
  }
  s.guest({ data: 100 });
  s.flow.expectWithin(41, {});
  for (let i = 0; i < 17; i++) {
    s.guest({ data: 100 });
    s.drain();
  }
  s.advance(45);
  s.drain();
}

script('TCP-ACK-01 no byte in order waits longer than 40 ms for its ACK', (s) => {
  s.establish();
  let waited = 0;
  for (let i = 0; i < 200; i++) {
    s.guest({ data: 10 });
    const sent = s.now;
    s.flow.expectWithin(500, { ack: 1 + 10 * (i + 1) });
    waited = Math.max(waited, s.now - sent);
  }
  must(waited <= 40, `${waited} ms`);
  must(waited > 0, 'ACKs are never delayed');
});

script('TCP-ACK-02 at least one ACK for two full segments', (s) => {
  s.establish();
  let acked = 0;
  for (let i = 0; i < 200; i++) {
    s.guest({ data: MSS });
    for (const a of s.drain()) acked = s.flow.ackOf(a);
    must(s.flow.guestNext - acked <= 2 * MSS, `${s.flow.guestNext - acked} bytes without an ACK`);
  }
});

script('TCP-ACK-02 one ACK for a batch of frames read in one go (MUST-58)', (s) => {
  s.establish();
  for (let round = 0; round < 20; round++) {
    s.batch(() => {
      for (let i = 0; i < 20; i++) s.guest({ data: MSS });
    });
    s.expect({ ack: s.flow.guestNext });
    s.expectSilence();
  }
});

script('TCP-ACK-03 an ACK at once for what is out of order, fills a gap, ends, repeats or probes', (s) => {
  s.establish();
  warm(s);
  const at = s.flow.guestNext;
  s.guest({ seq: at + 100, data: 100 });
  s.expect({ ack: at });
  s.guest({ seq: at, data: 50 });
  s.expect({ ack: at + 50 });
  s.guest({ seq: at + 50, data: 50 });
  s.expect({ ack: at + 200 });
  s.guest({ seq: at, data: 50 });
  s.expect({ ack: at + 200 });
  s.guest({ seq: at + 199 });
  s.expect({ ack: at + 200 });
  s.guest({ seq: at + 200, fin: true });
  s.expect({ ack: at + 201 });
});

script('TCP-ACK-03 the first segments of a flow are acknowledged at once', (s) => {
  s.establish();
  for (let i = 0; i < 10; i++) {
    s.guest({ data: 100 });
    s.expect({ ack: 101 + 100 * i });
  }
});

script('TCP-ACK-04 the ACK rides on data that leaves in the same tick', (s) => {
  s.establish();
  // The host answers from inside the turn.
  const { host } = s;
  const read = host.onReadable.bind(host);
  let answered = false;
  host.onReadable = (now) => {
    read(now);
    if (!answered) {
      answered = true;
      host.flow!.write(Uint8Array.of(), 0, 0, now);
      host.write(200);
    }
  };
  s.guest({ data: 100 });
  s.expect({ seq: 1, data: 200, ack: 101 });
  s.expectSilence(100);
});

script('TCP-ACK-05 a pure ACK is never acknowledged', (s) => {
  s.establish();
  s.guest({ data: 10 });
  s.expect({ ack: 11 });
  s.host.write(10);
  s.expect({ data: 10 });
  for (let i = 0; i < 10; i++) s.guest({ win: 60_000 + i });
  s.expectSilence(2000);
});

script('TCP-ACK-06 no Nagle: each chunk of the host leaves at once, with PSH on its last segment', (s) => {
  s.establish();
  for (let i = 0; i < 20; i++) {
    s.host.write(1);
    s.expect({ seq: 1 + i, data: 1, psh: true });
  }
  s.guest({});
  s.host.write(2 * MSS + 10);
  s.expect({ data: MSS, psh: false });
  s.expect({ data: MSS, psh: false });
  s.expect({ data: 10, psh: true });
});

script('TCP-ACK-07 64 KiB of the host leave as full segments, only the last is short', { once: true }, (s) => {
  s.establish({ win: 65_535 });
  s.host.write(65_536);
  for (let i = 0; i < 60 && s.flow.received < 65_537; i++) {
    for (const x of s.drain()) {
      const last = s.flow.seqOf(x) + x.payload.length === 65_537;
      must(x.payload.length === MSS || last, `a segment of ${x.payload.length} bytes`);
    }
    s.guest({});
  }
  must(s.flow.received === 65_537, 'not all has arrived');
});

script(
  'TCP-ACK-07 a jumbo link the same, but no segment above half of the first window',
  { mtu: 65_520, once: true },
  (s) => {
    s.establish({ mss: 65_480, win: 65_535 });
    s.host.write(4 * 32_767 + 7);
    const sizes: number[] = [];
    for (let i = 0; i < 20 && s.flow.received < 4 * 32_767 + 8; i++) {
      for (const x of s.drain()) sizes.push(x.payload.length);
      s.guest({});
    }
    must(sizes.join(' ') === '32767 32767 32767 32767 7', sizes.join(' '));
  },
);

script('TCP-KA-01 our keepalive is off by default', (s) => {
  s.establish();
  s.expectSilence(24 * 3_600_000);
});

script(
  'TCP-KA-01 when on: after the idle time, empty, at SND.NXT-1; lost answers are borne',
  { limits: { keepaliveIdleMs: 7_200_000 } },
  (s) => {
    s.establish();
    s.host.write(10);
    s.expect({ data: 10 });
    s.guest({});
    s.expectSilence(7_199_000);
    s.flow.expectWithin(1100, { seq: 10, ack: 1 });
    for (let i = 0; i < 3; i++) s.expectAfter(75_000, { seq: 10 });
    s.guest({});
    s.expectSilence(7_000_000);
    s.host.expectOpen();
    s.flow.expectWithin(400_000, { seq: 10 });
  },
);

script('TCP-KA-01 the idle time starts with the last segment', { limits: { keepaliveIdleMs: 10_000 } }, (s) => {
  s.establish();
  for (let i = 0; i < 5; i++) {
    s.expectSilence(9000);
    s.guest({ data: 10 });
    s.drain();
  }
  s.advance(45);
  s.drain();
  s.flow.expectWithin(10_100, { seq: 0 });
});

script(
  'TCP-KA-01 nobody answers: RST, the host is told',
  { limits: { keepaliveIdleMs: 60_000, keepaliveIntervalMs: 1000, keepaliveProbes: 4 } },
  (s) => {
    s.establish();
    s.flow.expectWithin(61_000, { seq: 0 });
    for (let i = 0; i < 3; i++) s.expectAfter(1000, { seq: 0 });
    s.expectAfter(1000, { rst: true });
    s.host.expectClosed('retransmit-limit');
    s.expectClean();
  },
);

script(
  'TCP-KA-02 RST in answer to a probe ends timer, flow and memory',
  { limits: { keepaliveIdleMs: 60_000 } },
  (s) => {
    s.establish();
    s.flow.expectWithin(61_000, { seq: 0 });
    s.guest({ rst: true, seq: 1 });
    s.host.expectClosed('guest-reset');
    s.expectClean();
    s.expectSilence(600_000);
  },
);

script('TCP-KA-02 a close ends the keepalive timer', { limits: { keepaliveIdleMs: 60_000 } }, (s) => {
  s.establish();
  s.guest({ fin: true });
  s.expect({ ack: 2 });
  s.host.end();
  s.expect({ fin: true });
  s.guest({});
  s.host.expectClosed('done');
  s.expectClean();
  s.expectSilence(600_000);
});

script('TCP-KA-03 the VM goes away: every host is told at once, nothing is left', { once: true }, (s) => {
  const flows = Array.from({ length: 30 }, () => s.newFlow());
  for (const [i, f] of flows.entries()) {
    f.guest({ syn: true, seq: 0, win: 64_240, mss: 1460 });
    if (i % 3 === 0) continue;
    f.host.accept();
    f.expect({ synAck: true, ack: 1 });
    if (i % 3 === 1) continue;
    f.guest({ ack: 1, data: 100 });
    f.drain();
    f.host.write(5000);
    f.drain();
  }
  s.port.close(s.now);
  s.settle();
  for (const f of flows) f.host.expectClosed('vm-gone');
  s.expectClean();
  s.expectSilence(600_000);
});
