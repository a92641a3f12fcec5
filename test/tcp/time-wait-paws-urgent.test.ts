// TIME-WAIT, timestamps against old segments, urgent data: rows TCP-TW-*, TCP-PAWS-*, TCP-URG-*. RFC 9293 3.6.1; RFC 1337;
// RFC 6191; RFC 7323 5; RFC 6093.

import { type Script, script } from '../helpers/script.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};
const usualSyn = { syn: true, seq: 0, win: 64_240, mss: 1460, ws: 7, sackOk: true } as const;

/** We closed first: TIME-WAIT, SND.NXT = 2, RCV.NXT = 2. */
function toTimeWait(s: Script, ts = false): void {
  s.establish({ ts });
  s.host.end();
  s.expect({ fin: true });
  s.guest({ fin: true });
  s.expect({ ack: 2 });
  s.expectState('TIME-WAIT');
}

script('TCP-TW-01 who closes first waits, for 60 s, with no host and no memory', (s) => {
  s.establish();
  s.host.write(100);
  s.expect({ data: 100 });
  s.guest({ data: 100 });
  s.drain();
  s.host.end();
  s.expect({ fin: true });
  s.guest({ fin: true });
  s.expect({ ack: 102 });
  s.host.expectClosed('done');
  must(s.heldBytes === 0, 'memory is held');
  must(s.connection!.owner === undefined, 'the host is held');
  s.expectSilence(59_900);
  s.expectFlows(1);
  s.expectSilence(200);
  s.expectClean();
});

script('TCP-TW-01 who closes second does not wait', (s) => {
  s.establish();
  s.guest({ fin: true });
  s.expect({ ack: 2 });
  s.host.end();
  s.expect({ fin: true });
  s.guest({});
  s.host.expectClosed('done');
  s.expectClean();
});

script('TCP-TW-01 their number is capped, the oldest goes', { once: true, limits: { timeWaitMax: 10 } }, (s) => {
  const flows = Array.from({ length: 15 }, () => s.newFlow());
  for (const f of flows) {
    f.establish();
    f.host.end();
    f.expect({ fin: true });
    f.guest({ fin: true });
    f.expect({ ack: 2 });
  }
  s.expectFlows(10);
  must(s.connectionOf(flows[4]!) === undefined && s.connectionOf(flows[5]!) !== undefined, 'not the oldest');
  must(s.stack.stats.tcp.timeWaitEvicted === 5, 'not counted');
});

script(
  'TCP-TW-02 a SYN with a higher ISN opens anew at once, our ISN above the old SND.NXT',
  { realIsn: true },
  (s) => {
    s.establish();
    // More than the clock of the ISN generator advances meanwhile.
    s.host.write(600_000);
    for (let i = 0; i < 600 && s.flow.received < 600_001; i++) {
      s.drain();
      s.guest({});
    }
    s.host.end();
    s.drain();
    s.guest({ fin: true });
    s.drain();
    s.expectState('TIME-WAIT');
    const oldNxt = (s.flow.ourIsn + 600_002) | 0;
    s.flow.renew(s.flow.guestIsn + 1000);
    s.guest(usualSyn);
    s.host.accept();
    const answer = s.expect({ synAck: true, ack: 1 });
    must(((answer.seq - oldNxt) | 0) > 0, 'our new ISN is not above the old SND.NXT');
    s.guest({ ack: 1 });
    s.host.expectEstablished();
    must(s.stack.stats.tcp.timeWaitReused === 1, 'not counted');
  },
);

script('TCP-TW-02 a SYN with a newer TSval too, whatever its ISN', (s) => {
  toTimeWait(s, true);
  const later = s.flow.tsVal + 100;
  s.flow.renew(s.flow.guestIsn - 100_000, s.flow.ourIsn + 1_000_000);
  s.guest({ ...usualSyn, ts: [later, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1, ts: later });
});

script('TCP-TW-03 an old SYN: ACK, the state stays', (s) => {
  toTimeWait(s);
  s.guest({ syn: true, seq: -5000 });
  s.expect({ seq: 2, ack: 2 });
  s.guest({ syn: true, seq: 1 });
  s.expect({ seq: 2, ack: 2 });
  s.expectState('TIME-WAIT');
  must(s.dials === 1, 'dialled');
});

script('TCP-TW-03 an old SYN with an older TSval too', (s) => {
  toTimeWait(s, true);
  s.guest({ syn: true, seq: -5000, ts: [s.flow.tsVal - 1000, 0] });
  s.expect({ seq: 2, ack: 2 });
  s.expectState('TIME-WAIT');
});

script('TCP-TW-04 FIN again: ACK and the wait starts anew; old data: ACK and it does not', (s) => {
  toTimeWait(s);
  s.expectSilence(40_000);
  s.guest({ fin: true, seq: 1, ack: 2 });
  s.expect({ seq: 2, ack: 2 });
  s.expectSilence(40_000);
  s.expectState('TIME-WAIT');
  s.guest({ seq: 0, ack: 2, data: 1 });
  s.expect({ seq: 2, ack: 2 });
  s.expectSilence(19_000);
  s.expectState('TIME-WAIT');
  s.expectSilence(1100);
  s.expectClean();
});

script('TCP-TW-05 RST in TIME-WAIT is ignored (RFC 1337)', (s) => {
  toTimeWait(s);
  s.guest({ rst: true, seq: 2 });
  s.guest({ rst: true, seq: 2, ack: 2 });
  s.expectSilence(1000);
  s.expectState('TIME-WAIT');
});

script('TCP-TW-05 the ACK of our FIN in TIME-WAIT draws nothing', (s) => {
  toTimeWait(s);
  s.guest({ seq: 2, ack: 2 });
  s.expectSilence(1000);
});

script('TCP-PAWS-01 a TSval older than TS.Recent: dropped, with an ACK', (s) => {
  s.guest({ ...usualSyn, ts: [5000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: [5000, s.flow.tsSeen] });
  s.guest({ data: 10, ts: [5010, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 5010 });
  s.guest({ data: 10, ts: [5009, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 5010 });
  s.host.expectRead(10);
  must(s.stack.stats.tcp.pawsRejected === 1, 'not counted');
  s.guest({ seq: 11, data: 10, ts: [5010, s.flow.tsSeen] });
  s.expect({ ack: 21, ts: 5010 });
});

script('TCP-PAWS-02 TS.Recent is taken only from segments at or below Last.ACK.sent that are otherwise good', (s) => {
  s.guest({ ...usualSyn, ts: [5000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: [5001, s.flow.tsSeen] });
  const ecr = s.flow.tsSeen;
  // Beyond a hole.
  s.guest({ seq: 101, data: 10, ts: [6000, ecr] });
  s.expect({ ack: 1, ts: 5001 });
  // An ACK of what was not sent.
  s.guest({ seq: 1, ack: 500, ts: [7000, ecr] });
  s.expect({ ack: 1, ts: 5001 });
  // Out of the window.
  s.guest({ seq: 900_000, ack: 1, data: 10, ts: [7000, ecr] });
  s.expect({ ack: 1, ts: 5001 });
  // It spans Last.ACK.sent.
  s.guest({ seq: 1, ack: 1, data: 100, ts: [5500, ecr] });
  s.expect({ ack: 111, ts: 5500 });
});

script('TCP-PAWS-03 RST is exempt', (s) => {
  s.guest({ ...usualSyn, ts: [5000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: [5000, s.flow.tsSeen] });
  s.guest({ rst: true, seq: 1, ts: [1, 0] });
  s.host.expectClosed('guest-reset');
});

script('TCP-PAWS-03 the comparison wraps at 2^32', (s) => {
  s.guest({ ...usualSyn, ts: [0xffff_fff0, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: [0xffff_fff0, s.flow.tsSeen] });
  s.guest({ data: 10, ts: [5, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 5 });
  s.guest({ data: 10, ts: [0xffff_fff1, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 5 });
  s.host.expectRead(10);
});

script('TCP-PAWS-03 after 24 idle days TS.Recent is void, and set anew', { once: true }, (s) => {
  s.guest({ ...usualSyn, ts: [5000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: [5000, s.flow.tsSeen] });
  // Not so many that our own TSval would seem to go back.
  s.expectSilence(24.5 * 24 * 3_600_000);
  // The guest's clock has gone so far that it looks old.
  s.guest({ data: 10, ts: [4000, s.flow.tsSeen] });
  s.flow.expectWithin(50, { ack: 11, ts: 4000 });
  s.guest({ data: 10, ts: [3999, s.flow.tsSeen] });
  s.flow.expectWithin(50, { ack: 11 });
  s.host.expectRead(10);
});

script('TCP-URG-01 urgent data is data like other data: none lost, none added', (s) => {
  s.establish();
  s.guest({ data: 10, urg: 1 });
  s.expect({ ack: 11 });
  s.guest({ data: 10, urg: 10 });
  s.expect({ ack: 21 });
  s.guest({ data: 10, urg: 0 });
  s.expect({ ack: 31 });
  s.guest({ seq: 41, data: 10, urg: 5 });
  s.expect({ ack: 31 });
  s.guest({ seq: 31, data: 10, urg: 15 });
  s.expect({ ack: 51 });
  s.host.expectRead(50);
});

script('TCP-URG-02 property: no urgent pointer changes anything', { once: true }, (s) => {
  const random = new SeededRandom(2);
  for (let i = 0; i < 300; i++) {
    const f = s.newFlow();
    const urg = [0, 1, 5, 100, 0xffff, random.below(65_536)][i % 6]!;
    f.guest({ ...usualSyn, urg });
    f.host.accept();
    f.expect({ synAck: true, ack: 1 });
    f.guest({ ack: 1, urg });
    f.guest({ data: random.below(50), urg });
    f.drain();
    const total = f.guestNext - 1;
    f.guest({ fin: true, urg });
    f.expect({ ack: total + 2 });
    f.host.expectRead(total);
    f.host.expectEof();
    f.guest({ rst: true, seq: total + 2, urg });
  }
});
