// The retransmission timer: rows TCP-RTO-*. RFC 6298; RFC 9293 3.8.1, 3.8.3.

import { type Script, script } from '../helpers/script.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};
const near = (got: number, want: number, what: string): void =>
  must(Math.abs(got - want) < 0.01, `${what} is ${got}, not ${want}`);

/** The guest takes one segment and acknowledges it after `rtt` ms. */
function exchange(s: Script, rtt: number, bytes = 100): void {
  s.host.write(bytes);
  s.expect({ data: bytes });
  s.advance(rtt);
  s.guest({});
}

for (const ts of [false, true]) {
  script(`TCP-RTO-01 samples set SRTT, RTTVAR and RTO by the book${ts ? ', with timestamps' : ''}`, (s) => {
    s.guest({ syn: true, seq: 0, win: 64_240, mss: 1460, sackOk: true, ts });
    s.host.accept();
    s.expect({ synAck: true, ack: 1 });
    s.advance(100);
    s.guest({ ack: 1 });
    const { rtt } = s.connection!;
    near(rtt.srtt, 100, 'SRTT');
    near(rtt.rttVar, 50, 'RTTVAR');
    near(rtt.rto, 300, 'RTO');
    exchange(s, 180);
    near(rtt.rttVar, 0.75 * 50 + 0.25 * 80, 'RTTVAR');
    near(rtt.srtt, 110, 'SRTT');
    near(rtt.rto, 110 + 4 * 57.5, 'RTO');
    for (let i = 0; i < 60; i++) exchange(s, 20);
    near(rtt.rto, 200, 'RTO at its floor');
  });
}

script('TCP-RTO-01 the first RTO is one second', (s) => {
  s.guest({ syn: true, seq: 0, win: 64_240, mss: 1460 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.expectAfter(1000, { synAck: true, ack: 1 }, 0.001);
});

script('TCP-RTO-02 Karn: no sample from a retransmitted segment', (s) => {
  s.establish({ sackOk: false });
  const before = s.connection!.rtt.srtt;
  s.host.write(100);
  s.lose({ data: 100 });
  s.expectAfter(200, { seq: 1, data: 100 });
  s.advance(150);
  s.guest({});
  must(s.connection!.rtt.srtt === before, 'a sample was taken');
});

script('TCP-RTO-02 Karn for the handshake: a SYN-ACK sent twice gives no sample', (s) => {
  s.guest({ syn: true, seq: 0, win: 64_240, mss: 1460 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.advance(500);
  s.guest({ syn: true, seq: 0, win: 64_240, mss: 1460 });
  s.expect({ synAck: true, ack: 1 });
  s.advance(1);
  s.guest({ ack: 1 });
  must(s.connection!.rtt.srtt === 0, `a sample of ${s.connection!.rtt.srtt} ms was taken`);
});

script('TCP-RTO-02 with timestamps a retransmission does give one', (s) => {
  s.establish({ ts: true, sackOk: false });
  s.host.write(100);
  s.lose({ data: 100 });
  s.expectAfter(200, { seq: 1, data: 100 });
  s.advance(150);
  s.guest({});
  must(s.connection!.rtt.srtt > 15 && s.connection!.rtt.srtt < 25, `SRTT ${s.connection!.rtt.srtt}`);
});

for (const congestion of ['cubic', 'new-reno'] as const) {
  script(
    `TCP-RTO-03 expiry: only the first segment again, RTO doubles, cwnd 1 MSS (${congestion})`,
    { limits: { congestion } },
    (s) => {
      s.establish({ sackOk: false });
      s.host.write(6 * 1460);
      for (let i = 0; i < 6; i++) s.lose({ data: 1460 });
      let last = s.now;
      for (const wait of [200, 400, 800, 1600, 3200]) {
        const again = s.flow.expectWithin(60_000, { seq: 1, data: 1460 });
        must(again.at - last === wait, `after ${again.at - last} ms, not ${wait}`);
        last = again.at;
        s.expectSilence(10);
        const { cc } = s.connection!;
        must(cc.cwnd === 1460, `cwnd ${cc.cwnd}`);
        const want = congestion === 'cubic' ? 0.7 * 6 * 1460 : 3 * 1460;
        near(cc.ssthresh, want, 'ssthresh');
      }
    },
  );
}

script('TCP-RTO-03 after the first segment is acknowledged the rest follows in slow start', (s) => {
  s.establish({ sackOk: false });
  s.host.write(6 * 1460);
  for (let i = 0; i < 6; i++) s.lose({ data: 1460 });
  s.expectAfter(200, { seq: 1, data: 1460 });
  s.guest({});
  s.expect({ seq: 1461, data: 1460 });
  s.expect({ seq: 2921, data: 1460 });
  s.expectSilence(10);
  s.guest({});
  const next = s.drain();
  must(next.length >= 2 && s.flow.seqOf(next[0]!) === 4381, 'the next ones');
  s.guest({ ack: 6 * 1460 + 1 });
  s.expectSilence(10_000);
});

script('TCP-RTO-04 an ACK of new data restarts the timer; everything acknowledged stops it', (s) => {
  s.establish({ sackOk: false });
  s.host.write(2 * 1460);
  s.expect({ data: 1460 });
  s.lose({ data: 1460 });
  s.expectSilence(150);
  s.guest({ ack: 1461 });
  s.expectSilence(190);
  s.expectAfter(10, { seq: 1461, data: 1460 }, 1);
  s.guest({});
  s.expectSilence(300_000);
});

script('TCP-RTO-04 a duplicate ACK does not restart it', (s) => {
  s.establish({ sackOk: false });
  s.host.write(1460);
  s.lose({ data: 1460 });
  s.advance(150);
  s.guest({ ack: 1 });
  s.expectAfter(50, { seq: 1, data: 1460 });
});

script('TCP-RTO-05 after a repeated SYN-ACK data starts with an RTO of 3 s', (s) => {
  s.guest({ syn: true, seq: 0, win: 64_240, mss: 1460 });
  s.host.accept();
  s.lose({ synAck: true, ack: 1 });
  for (const wait of [1000, 2000, 4000]) s.expectAfter(wait, { synAck: true, ack: 1 });
  s.guest({ ack: 1 });
  s.host.write(100);
  s.lose({ data: 100 });
  s.expectAfter(3000, { seq: 1, data: 100 });
});

script('TCP-RTO-05 after our repeated SYN too', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.expectAfter(1000, { syn: true });
  f.guest({ syn: true, ack: 1, seq: 0, win: 64_240, mss: 1460 });
  f.expect({ ack: 1 });
  f.host.write(100);
  f.lose({ data: 100 });
  f.expectAfter(3000, { seq: 1, data: 100 });
});

script('TCP-RTO-06 given up after R2: the host is told, a RST goes out, later segments draw RST', (s) => {
  s.establish({ sackOk: false });
  s.host.write(100);
  s.lose({ data: 100 });
  const start = s.now;
  for (let i = 0; i < 15; i++) s.flow.expectWithin(61_000, { seq: 1, data: 100 });
  s.flow.expectWithin(61_000, { rst: true, seq: 101, ack: 1 });
  must(s.now - start >= 100_000, `given up after ${s.now - start} ms`);
  s.host.expectClosed('retransmit-limit');
  s.expectClean();
  s.guest({ seq: 1, ack: 101 });
  s.expectRst({ seq: 101, ack: false });
});

script('TCP-RTO-06 the RTO never exceeds a minute', (s) => {
  s.establish({ sackOk: false });
  s.host.write(100);
  s.lose({ data: 100 });
  let last = s.now;
  for (let i = 0; i < 14; i++) {
    const again = s.flow.expectWithin(61_000, { seq: 1, data: 100 });
    must(again.at - last <= 60_001, `${again.at - last} ms`);
    last = again.at;
  }
});

script('TCP-RTO-07 the guest is paused for eight hours: one retransmission, no burst, the flow lives', (s) => {
  s.establish();
  s.host.write(6 * 1460);
  for (let i = 0; i < 6; i++) s.lose({ data: 1460 });
  s.jump(8 * 3_600_000);
  const after = s.drain();
  must(after.length <= 2, `${after.length} segments at once`);
  s.host.expectOpen();
  s.expectSilence(30);
  // It goes on.
  s.guest({ ack: 6 * 1460 + 1 });
  s.host.write(100);
  s.expect({ data: 100 });
  s.guest({ ack: 6 * 1460 + 101 });
  s.expectSilence(10_000);
});

script('TCP-RTO-07 the process is stopped for five seconds in mid-transfer: no flow is lost', (s) => {
  s.establish();
  for (let i = 0; i < 5; i++) {
    s.host.write(3 * 1460);
    s.jump(5000);
    s.drain();
    s.guest({});
    s.drain();
  }
  s.host.expectOpen();
  must(s.flow.received === 1 + 15 * 1460, 'not all has arrived');
});

script('TCP-RTO-07 paused again and again, each time for hours: still not given up', (s) => {
  s.establish();
  s.host.write(100);
  s.lose({ data: 100 });
  for (let i = 0; i < 5; i++) {
    s.jump(4 * 3_600_000);
    s.drain();
  }
  s.host.expectOpen();
  s.flow.received = 101;
  s.guest({});
  s.expectSilence(1000);
});

script('TCP-RTO-08 every segment, first or again, has DF set (so that its IP ID means nothing)', (s) => {
  s.establish();
  s.host.write(100);
  // DF is checked for every frame.
  const first = s.lose({ data: 100 });
  s.flow.expectWithin(1000, { seq: 1, data: 100 });
  must((first.frame[20]! & 0x40) !== 0, 'DF');
});
