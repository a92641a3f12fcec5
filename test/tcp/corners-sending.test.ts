// Corners of sending, loss recovery and timers, each a rule that holds where two others meet.

import { type Script, script } from '../helpers/script.ts';

const must = (ok: boolean, what: string): void => {
  if (!ok) throw new Error(what);
};
const M = 1460;
/** The next sequence number after `est`. */
const B = 301;

/** A connection that knows its round trip. */
function est(s: Script, rttMs = 10, options: Parameters<Script['establish']>[0] = {}): void {
  s.establish(options);
  for (let i = 0; i < 3; i++) {
    s.host.write(100);
    s.expect({ data: 100 });
    s.advance(rttMs);
    s.guest({});
  }
}

script('TCP-REC-03 RFC 6582 3.2: duplicates that do not reach beyond `recover` start no fast retransmit', (s) => {
  est(s, 10, { sackOk: false });
  s.host.write(5 * M);
  for (let i = 0; i < 5; i++) s.lose({ seq: B + i * M, data: M });
  s.expectWithin(400, { seq: B, data: M });
  // Late ACKs of the originals.
  s.guest({ ack: B + M });
  must(s.drain().length > 0, 'go-back-N');
  s.guest({ ack: B + 2 * M });
  s.drain();
  s.guest({ ack: B + 3 * M });
  s.drain();
  s.guest({ ack: B + 5 * M });
  s.drain();
  s.host.write(4 * M);
  const n = s.drain().length;
  must(n >= 2, `sent ${n}`);
  const fr = s.tcp.stats.fastRecoveries;
  for (let i = 0; i < 4; i++) s.guest({ ack: B + 5 * M });
  const more = s.drain().filter((x) => s.flow.seqOf(x) === B + 5 * M);
  must(more.length === 0 && s.tcp.stats.fastRecoveries === fr, 'fast retransmit of duplicates at `recover`');
});

script('TCP-RTO-03 RFC 5681 3.1: late duplicates after a time-out release nothing', (s) => {
  est(s, 10, { sackOk: false });
  s.host.write(8 * M);
  for (let i = 0; i < 8; i++) s.lose({ seq: B + i * M, data: M });
  s.expectWithin(400, { seq: B, data: M });
  s.guest({ ack: B });
  s.guest({ ack: B });
  s.guest({ ack: B });
  s.expectSilence(50);
});

script('TCP-RTO-02 what was selectively acknowledged long ago gives no second sample', (s) => {
  est(s, 10);
  s.host.write(4 * M);
  s.lose({ seq: B, data: M });
  for (let i = 1; i < 4; i++) s.lose({ seq: B + i * M, data: M });
  s.advance(10);
  s.guest({ ack: B, sack: [[B + M, B + 4 * M]] });
  s.lose({ seq: B, data: M });
  const a = s.connection!.rtt.srtt;
  s.expectWithin(400, { seq: B, data: M });
  s.advance(10);
  s.drain();
  s.guest({ ack: B + 4 * M });
  const b = s.connection!.rtt.srtt;
  must(b < 20, `SRTT ${a} -> ${b}`);
});

script('TCP-RTO-02 an ACK of a segment sent twice and of one sent once gives no sample', (s) => {
  est(s, 10, { sackOk: false });
  s.host.write(3 * M);
  for (let i = 0; i < 3; i++) s.lose({ seq: B + i * M, data: M });
  s.expectWithin(400, { seq: B, data: M });
  s.advance(10);
  s.guest({ ack: B + 3 * M });
  must(s.connection!.rtt.srtt < 20, `SRTT ${s.connection!.rtt.srtt}`);
});

script('TCP-REC-11 a D-SACK of what was acknowledged before the recovery undoes nothing', (s) => {
  est(s, 10);
  s.host.write(8 * M);
  for (let i = 0; i < 8; i++) s.lose({ seq: B + i * M, data: M });
  s.advance(10);
  s.guest({ ack: B, sack: [[B + M, B + 5 * M]] });
  s.drain();
  must(s.tcp.stats.fastRecoveries === 1, 'no recovery');
  const ss = s.connection!.cc.ssthresh;
  // The network duplicated a segment from before.
  s.guest({
    ack: B,
    sack: [
      [201, 301],
      [B + M, B + 5 * M],
    ],
  });
  s.drain();
  must(s.tcp.stats.spuriousRecoveries === 0, 'undone by a D-SACK of what was never sent again');
  must(s.connection!.cc.ssthresh === ss, 'ssthresh');
});

script('TCP-REC-08 RFC 8985 7.4.2: a probe that repaired a loss is answered with less', (s) => {
  est(s, 10);
  s.host.write(3 * M);
  s.expect({ data: M });
  s.expect({ data: M });
  s.lose({ data: M });
  s.advance(10);
  s.guest({ ack: B + 2 * M });
  s.expectWithin(190, { seq: B + 2 * M, data: M });
  must(s.tcp.stats.tailProbes === 1, 'not a probe');
  s.advance(10);
  s.guest({ ack: B + 3 * M });
  s.host.write(100);
  s.expect({ data: 100 });
  s.advance(10);
  s.guest({});
  must(Number.isFinite(s.connection!.cc.ssthresh), 'no response to the loss');
});

for (const talks of [false, true])
  script(`TCP-FCS-06 the override of silly windows comes, the guest ${talks ? 'talking' : 'silent'}`, (s) => {
    const B = 1;
    s.guest({ syn: true, seq: 0, win: 4000, mss: 1460, sackOk: true });
    s.host.accept();
    s.expect({ synAck: true });
    s.advance(800);
    s.guest({ ack: 1 });
    s.guest({ win: 3000 });
    s.host.write(4000);
    s.lose({ data: M });
    s.lose({ data: M });
    s.expectSilence();
    let got = -1;
    for (let t = 0; t < 600 && got < 0; t += 50) {
      s.advance(50);
      if (talks) s.guest({ data: 10, ack: B });
      for (const x of s.drain()) if (s.flow.seqOf(x) >= B + 2 * M && x.payload.length > 0) got = t;
      // The guest sees nothing of it.
      s.flow.received = B;
    }
    must(got >= 0, 'no override within 900 ms');
  });

script('TCP-ACK-01 a window probe does not stand for the acknowledgement that is due', (s) => {
  est(s, 10);
  for (let i = 0; i < 40; i++) {
    s.guest({ data: 10 });
    s.advance(1);
    s.drain();
  }
  s.advance(100);
  s.drain();
  for (let i = 0; i < 40; i++) {
    s.guest({ data: 10 });
    s.drain();
  }
  s.advance(1000);
  s.drain();
  s.connection!.quickAcks = 0;
  s.guest({ win: 0 });
  s.host.write(100);
  s.expectSilence(180);
  s.guest({ data: 10 });
  const n = s.flow.guestNext;
  let ok = false;
  for (let t = 0; t < 100; t++) {
    s.advance(5);
    for (const x of s.drain()) {
      if (s.flow.seqOf(x) >= B && s.flow.ackOf(x) === n) ok = true;
      else s.guest({}); // The guest answers the unacceptable segment, and uses nothing of it.
    }
  }
  must(ok, 'no acceptable segment acknowledged the bytes within 500 ms');
});

script('TCP-ICM-04 MTU 0 about three segments of one flight: one plateau down, by what is quoted', (s) => {
  est(s, 10);
  s.host.write(3 * M);
  for (let i = 0; i < 3; i++) s.lose({ data: M });
  for (let i = 0; i < 3; i++) s.guestIcmp({ type: 3, code: 4, mtu: 0, seq: B + i * M });
  const all = s.drain();
  must(s.connection!.effSndMss === 1452, `MSS ${s.connection!.effSndMss}, ${all.length}`);
});

script('TCP-CC-01 RFC 5681 3.1: the SYN-ACK was lost twice: an initial window of one segment', (s) => {
  s.guest({ syn: true, seq: 0, win: 64240, mss: 1460, ws: 7, sackOk: true });
  s.host.accept();
  s.lose({ synAck: true, ack: 1 });
  s.flow.expectAfter(1000, { synAck: true });
  s.flow.expectAfter(2000, { synAck: true });
  s.guest({ ack: 1 });
  s.host.write(10 * M);
  const n = s.drain().length;
  must(n === 1, `${n} segments`);
});
