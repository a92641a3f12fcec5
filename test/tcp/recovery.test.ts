// Loss recovery: rows TCP-REC-*. RFC 5681 3, RFC 6582, RFC 6675, RFC 2018, RFC 8985, RFC 3042, RFC 3522, RFC 2883.

import { type Script, script } from '../helpers/script.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};
/** Relative number of the first byte of the nth segment, from 0. */
const seg = (n: number): number => 1 + n * MSS;

/** `n` full segments are in flight; none has arrived. */
function flight(s: Script, n: number): void {
  s.host.write(n * MSS);
  for (let i = 0; i < n; i++) s.lose({ seq: seg(i), data: MSS });
}

/** A handshake of `rtt` ms, so that probes and reordering windows are longer than nothing. */
function open(s: Script, o: { rtt?: number; sackOk?: boolean; ts?: boolean } = {}): void {
  const { rtt = 20, sackOk = true, ts = false } = o;
  s.guest({ syn: true, seq: 0, win: 64_240, mss: MSS, ws: 7, sackOk, ts });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.advance(rtt);
  s.guest({ ack: 1 });
}

script('TCP-REC-01 the third duplicate ACK: the first segment again, at once', (s) => {
  open(s, { sackOk: false });
  flight(s, 8);
  s.advance(20);
  s.guest({ ack: 1 });
  s.guest({ ack: 1 });
  s.expectSilence();
  s.guest({ ack: 1 });
  s.expect({ seq: 1, data: MSS });
  s.expectSilence();
  must(s.connection!.retransmits === 1, 'one retransmission');
});

for (const [what, g] of [
  ['window updates', (i: number) => ({ ack: 1, win: 60_000 + i })],
  ['segments with data', (i: number) => ({ seq: 1 + 10 * i, ack: 1, data: 10 })],
] as const) {
  script(`TCP-REC-02 ${what} are no duplicate ACKs`, (s) => {
    open(s, { sackOk: false });
    flight(s, 8);
    for (let i = 0; i < 5; i++) s.guest(g(i));
    must(
      s.drain().every((x) => x.payload.length === 0),
      'retransmitted',
    );
    must(s.connection!.retransmits === 0, 'retransmitted');
  });
}

script('TCP-REC-02 with nothing outstanding the same ACK means nothing', (s) => {
  open(s, { sackOk: false });
  for (let i = 0; i < 6; i++) s.guest({ ack: 1 });
  s.expectSilence();
  must(s.connection!.dupAcks === 0, 'counted');
});

script(
  'TCP-REC-03 NewReno: a partial ACK resends the next hole, the full one ends with cwnd = ssthresh',
  { limits: { congestion: 'new-reno' } },
  (s) => {
    open(s, { sackOk: false });
    flight(s, 10);
    s.advance(20);
    // Segments 0 and 3 are lost.
    for (let i = 0; i < 3; i++) s.guest({ ack: 1 });
    s.expect({ seq: seg(0), data: MSS });
    for (let i = 0; i < 4; i++) s.guest({ ack: 1 });
    s.expectSilence();
    s.guest({ ack: seg(3) });
    s.expect({ seq: seg(3), data: MSS });
    s.expectSilence();
    must(s.connection!.recovery === 1, 'recovery was left by a partial ACK');
    s.guest({ ack: seg(10) });
    must(s.connection!.recovery === 0, 'recovery was not left');
    must(s.connection!.cc.ssthresh === 5 * MSS, `ssthresh ${s.connection!.cc.ssthresh}`);
    must(s.connection!.cc.cwnd === 5 * MSS, `cwnd ${s.connection!.cc.cwnd}`);
    must(s.connection!.retransmits === 2, 'two retransmissions');
  },
);

script('TCP-REC-03 duplicates after recovery do not start another (RFC 6582 3.2: beyond recover)', (s) => {
  open(s, { sackOk: false });
  flight(s, 10);
  s.advance(20);
  for (let i = 0; i < 3; i++) s.guest({ ack: 1 });
  s.expect({ seq: 1, data: MSS });
  s.guest({ ack: seg(10) });
  for (let i = 0; i < 5; i++) s.guest({ ack: seg(10) });
  s.expectSilence();
  must(s.stack.stats.tcp.fastRecoveries === 1, 'a second recovery');
});

script('TCP-REC-04 SACK: only the holes are resent', (s) => {
  open(s);
  flight(s, 10);
  s.advance(20);
  // 0, 2 and 5 are lost.
  s.guest({ ack: 1, sack: [[seg(1), seg(2)]] });
  s.guest({
    ack: 1,
    sack: [
      [seg(3), seg(5)],
      [seg(1), seg(2)],
    ],
  });
  const again: number[] = s.drain().map((x) => s.flow.seqOf(x));
  s.guest({
    ack: 1,
    sack: [
      [seg(6), seg(10)],
      [seg(3), seg(5)],
      [seg(1), seg(2)],
    ],
  });
  for (const x of s.drain()) again.push(s.flow.seqOf(x));
  s.guest({
    ack: seg(2),
    sack: [
      [seg(6), seg(10)],
      [seg(3), seg(5)],
    ],
  });
  for (const x of s.drain()) again.push(s.flow.seqOf(x));
  must(again.join(' ') === [seg(0), seg(2), seg(5)].join(' '), `resent at ${again.join(' ')}`);
  s.guest({ ack: seg(10) });
  s.expectSilence(50);
  must(s.connection!.recovery === 0, 'recovery was not left');
});

script('TCP-REC-04 pipe is respected: a flight that is mostly lost is not resent all at once', (s) => {
  open(s);
  flight(s, 10);
  s.advance(20);
  // Seven are lost at once; cwnd falls to 70 % of ten.
  s.guest({ ack: 1, sack: [[seg(7), seg(10)]] });
  const first = s.drain();
  must(first.length >= 1 && first.length <= 7, `${first.length} at once`);
  const sacked = first.filter((x) => s.flow.seqOf(x) >= seg(7));
  must(sacked.length === 0, 'SACKed bytes were resent');
  const c = s.connection!;
  const inFlight = ((c.sndNxt - c.sndUna) | 0) - c.sackedBytes - c.lostBytes;
  must(inFlight <= c.cc.cwnd, `${inFlight} in flight, cwnd ${c.cc.cwnd}`);
});

script('TCP-REC-05 reneging: after a time-out SACK is forgotten and everything is sent from SND.UNA', (s) => {
  open(s);
  flight(s, 5);
  s.advance(10);
  s.guest({ ack: 1, sack: [[seg(1), seg(2)]] });
  s.drain();
  must(s.connection!.snd.used === 5 * MSS, 'SACKed bytes left the buffer');
  s.connection!.reoDeadline = Number.POSITIVE_INFINITY;
  const all = new Set<number>();
  for (let i = 0; i < 30 && all.size < 5; i++) {
    s.advance(300);
    for (const x of s.drain()) all.add(s.flow.seqOf(x));
    // It acknowledges segment by segment and no longer has what it had SACKed.
    const upTo = [...all].sort((a, b) => a - b);
    let next = 1;
    for (const at of upTo) if (at === next) next += MSS;
    s.guest({ ack: next });
  }
  must([...all].includes(seg(1)), 'the reneged segment was never sent again');
  s.drain();
  must(s.connection!.sent.count === 0, 'something is left');
});

script('TCP-REC-06 limited transmit: the first two duplicates release a new segment each', (s) => {
  open(s, { sackOk: false });
  s.host.write(14 * MSS);
  for (let i = 0; i < 10; i++) s.lose({ seq: seg(i), data: MSS });
  s.expectSilence();
  s.guest({ ack: 1 });
  s.expect({ seq: seg(10), data: MSS });
  s.guest({ ack: 1 });
  s.expect({ seq: seg(11), data: MSS });
  s.guest({ ack: 1 });
  s.expect({ seq: seg(0), data: MSS });
});

script('TCP-REC-06 limited transmit with SACK', (s) => {
  open(s);
  s.host.write(14 * MSS);
  for (let i = 0; i < 10; i++) s.lose({ seq: seg(i), data: MSS });
  s.advance(20);
  s.guest({ ack: 1, sack: [[seg(5), seg(6)]] });
  s.expect({ seq: seg(10), data: MSS });
  s.expectSilence(3);
});

script('TCP-REC-07 RACK: mild reordering causes no retransmission', (s) => {
  open(s, { rtt: 40 });
  // First, reordering is seen; from then on a quarter of the RTT is waited for.
  s.host.write(2 * MSS);
  s.lose({ data: MSS });
  s.lose({ data: MSS });
  s.advance(40);
  s.guest({ ack: 1, sack: [[seg(1), seg(2)]] });
  s.advance(2);
  s.guest({ ack: seg(2) });
  s.drain();
  const before = s.connection!.retransmits;
  s.flow.received = seg(2);
  s.host.write(4 * MSS);
  for (let i = 2; i < 6; i++) s.lose({ seq: seg(i), data: MSS });
  s.advance(40);
  s.guest({ ack: seg(2), sack: [[seg(3), seg(4)]] });
  s.advance(5);
  s.guest({ ack: seg(6) });
  s.expectSilence(100);
  must(s.connection!.retransmits === before, 'retransmitted');
});

script('TCP-REC-07 RACK: what was sent before a delivered segment is lost after the reordering window', (s) => {
  open(s, { rtt: 40 });
  flight(s, 2);
  s.advance(40);
  // One SACK, below the duplicate threshold: a quarter of the RTT is waited.
  s.guest({ ack: 1, sack: [[seg(1), seg(2)]] });
  s.expectSilence(8);
  s.flow.expectWithin(10, { seq: 1, data: MSS });
  s.guest({ ack: seg(2) });
});

script('TCP-REC-08 TLP: a lost tail is repaired by a probe after two SRTT, not by the RTO', (s) => {
  open(s, { rtt: 40 });
  flight(s, 4);
  s.advance(40);
  // The last two are lost.
  s.guest({ ack: seg(2) });
  s.drain();
  const start = s.now;
  const probe = s.flow.expectWithin(1000, { seq: seg(3), data: MSS });
  must(probe.at - start >= 75 && probe.at - start < 100, `the probe came after ${probe.at - start} ms`);
  must(s.stack.stats.tcp.tailProbes === 1, 'not counted');
  s.advance(40);
  s.guest({ ack: seg(2), sack: [[seg(3), seg(4)]] });
  s.flow.expectWithin(15, { seq: seg(2), data: MSS });
  s.guest({ ack: seg(4) });
  must(s.stack.stats.tcp.timeouts === 0, 'a time-out');
  s.expectSilence(1000);
});

script('TCP-REC-08 TLP: new data goes rather than old', (s) => {
  open(s, { rtt: 40 });
  s.host.write(12 * MSS);
  for (let i = 0; i < 10; i++) s.lose({ seq: seg(i), data: MSS });
  s.flow.expectWithin(100, { seq: seg(10), data: MSS });
});

script('TCP-REC-08 TLP: one probe a flight, then the RTO', (s) => {
  open(s, { rtt: 40 });
  flight(s, 3);
  s.flow.expectWithin(100, { seq: seg(2), data: MSS });
  s.expectSilence(100);
  s.flow.expectWithin(400, { seq: seg(0), data: MSS });
  must(s.stack.stats.tcp.tailProbes === 1 && s.stack.stats.tcp.timeouts === 1, 'one of each');
});

script('TCP-REC-09 a lost retransmission is found without a time-out', (s) => {
  open(s, { rtt: 40, ts: true });
  s.host.write(10 * (MSS - 12));
  const flightSegs = s.drain();
  const at = flightSegs.map((x) => s.flow.seqOf(x));
  s.flow.received = 1;
  s.advance(40);
  const end = at[9]! + (MSS - 12);
  s.host.write(20 * (MSS - 12));
  s.guest({ ack: 1, sack: [[at[1]!, at[4]!]] });
  const first = s.drain();
  s.flow.received = 1;
  must(
    first.some((x) => s.flow.seqOf(x) === 1),
    'no retransmission',
  );
  s.advance(20);
  s.guest({ ack: 1, sack: [[at[1]!, end]] });
  const newer = s.drain().filter((x) => s.flow.seqOf(x) > 1);
  s.flow.received = 1;
  must(newer.length > 0, 'no new data');
  const newEnd = s.flow.seqOf(newer.at(-1)!) + newer.at(-1)!.payload.length;
  // The retransmission is lost; what was sent after it arrives.
  s.advance(45);
  s.guest({ ack: 1, sack: [[at[1]!, newEnd]] });
  s.advance(15);
  must(
    s.drain().some((x) => s.flow.seqOf(x) === 1),
    'not found',
  );
  must(s.stack.stats.tcp.timeouts === 0, 'a time-out');
});

script('TCP-REC-10 SACK bombs: a bounded scoreboard, bounded work, no tiny segments', { once: true }, (s) => {
  open(s, { rtt: 1 });
  s.guest({ win: 65_535 });
  s.host.write(100 * MSS);
  s.drain();
  s.flow.received = 1;
  const start = process.cpuUsage();
  let sent = 0;
  for (let i = 0; i < 10_000; i++) {
    const at = 1 + ((i * 97) % (9 * MSS));
    s.guest({
      ack: 1,
      sack: [
        [at + 6, at + 7],
        [at + 4, at + 5],
        [at + 2, at + 3],
      ],
    });
    for (const x of s.flow.pending.splice(0)) {
      sent++;
      must(x.payload.length === MSS, `a segment of ${x.payload.length} bytes`);
    }
  }
  const used = process.cpuUsage(start);
  must((used.user + used.system) / 1000 < 3000, 'too slow');
  must(s.connection!.sent.count <= 64, `${s.connection!.sent.count} entries`);
  must(sent < 200, `${sent} segments sent`);
});

script(
  'TCP-REC-11 a spurious fast retransmit is seen by the timestamp: cwnd is restored',
  { limits: { congestion: 'new-reno' } },
  (s) => {
    open(s, { sackOk: false, ts: true });
    s.host.write(10 * (MSS - 12));
    s.drain();
    s.flow.received = 1;
    const tsSent = s.flow.tsSeen;
    const before = s.connection!.cc.cwnd;
    s.advance(20);
    for (let i = 0; i < 3; i++) s.guest({ ack: 1, ts: [s.flow.tsVal, tsSent] });
    s.lose({ seq: 1, data: MSS - 12 });
    must(s.connection!.recovery === 1, 'no recovery');
    s.advance(2);
    // The original was only late: the answer echoes its time.
    s.guest({ ack: 1 + 10 * (MSS - 12), ts: [s.flow.tsVal, tsSent] });
    must(
      s.connection!.recovery === 0 && s.connection!.cc.cwnd >= before,
      `cwnd ${s.connection!.cc.cwnd}, before ${before}`,
    );
    must(s.stack.stats.tcp.spuriousRecoveries === 1, 'not counted');
  },
);

script('TCP-REC-11 a spurious time-out too', { limits: { congestion: 'new-reno' } }, (s) => {
  open(s, { sackOk: false, ts: true });
  s.host.write(6 * (MSS - 12));
  s.drain();
  s.flow.received = 1;
  const tsSent = s.flow.tsSeen;
  const before = s.connection!.cc.cwnd;
  s.flow.expectWithin(400, { seq: 1, data: MSS - 12 });
  s.advance(5);
  s.guest({ ack: 1 + 6 * (MSS - 12), ts: [s.flow.tsVal, tsSent] });
  must(s.connection!.cc.cwnd >= before, `cwnd ${s.connection!.cc.cwnd}, before ${before}`);
  s.expectSilence(1000);
});

script('TCP-REC-11 a spurious fast retransmit is seen by D-SACK', { limits: { congestion: 'new-reno' } }, (s) => {
  open(s);
  flight(s, 10);
  const before = s.connection!.cc.cwnd;
  s.advance(20);
  s.guest({ ack: 1, sack: [[seg(1), seg(4)]] });
  s.lose({ seq: 1, data: MSS });
  must(s.connection!.recovery === 1, 'no recovery');
  s.advance(2);
  s.guest({ ack: seg(4) });
  s.guest({ ack: seg(4), sack: [[seg(0), seg(1)]] });
  s.drain();
  must(s.connection!.cc.cwnd >= before, `cwnd ${s.connection!.cc.cwnd}, before ${before}`);
});

for (const congestion of ['cubic', 'new-reno'] as const) {
  script(
    `TCP-REC-12 ACK division gives no more growth than one ACK (${congestion})`,
    { limits: { congestion } },
    (s) => {
      const cwnd = [1, 10].map((pieces) => {
        const f = s.newFlow();
        f.establish();
        f.host.write(40 * MSS);
        f.drain();
        for (let i = 1; i <= pieces; i++) {
          f.guest({ ack: 1 + Math.floor((MSS * i) / pieces) });
          f.pending.length = 0;
        }
        return s.connectionOf(f)!.cc.cwnd;
      });
      must(cwnd[1]! <= cwnd[0]!, `${cwnd[1]} by ten ACKs, ${cwnd[0]} by one`);
    },
  );
}

script('TCP-REC-12 optimistic ACKs (of what was not sent) give nothing', (s) => {
  s.establish();
  s.host.write(10 * MSS);
  s.drain();
  const before = s.connection!.cc.cwnd;
  for (let i = 0; i < 10; i++) s.guest({ ack: 20 * MSS + i * MSS });
  s.drain();
  must(s.connection!.cc.cwnd === before, 'cwnd grew');
});
