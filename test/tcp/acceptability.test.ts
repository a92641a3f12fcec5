// Which segments count: rows TCP-SEQ-*. RFC 9293 3.10.7.4, 3.8.4; RFC 5961 5, 7.

import { type Script, script } from '../helpers/script.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

/** Our window as the guest knows it: the right edge, relative. */
function rightEdge(s: Script): number {
  const c = s.connection!;
  return ((c.rcvAdv - c.irs) | 0) >>> 0;
}

/** Fills our receive window to the last byte, with the host not reading. */
function closeWindow(s: Script): void {
  s.host.pause();
  for (let i = 0; i < 200; i++) {
    const room = rightEdge(s) - s.flow.guestNext;
    if (room <= 0) break;
    s.guest({ data: Math.min(room, 1460) });
    s.drain();
    s.advance(50);
    s.drain();
  }
  must(rightEdge(s) === s.flow.guestNext, 'the window did not close');
}

script('TCP-SEQ-01 length 0, window open: taken from RCV.NXT up to the edge, answered elsewhere', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.host.expectRead(100);
  const edge = rightEdge(s);
  for (const [seq, ok] of [
    [101, true],
    [102, true],
    [edge - 1, true],
    [edge, true],
    [edge + 1, false],
    [99, false],
    [0, false],
  ] as const) {
    s.advance(1000);
    s.guest({ seq });
    if (ok) s.expectSilence();
    else s.expect({ seq: 1, ack: 101 });
  }
});

script('TCP-SEQ-01 length n, window open: what lies in it counts, the rest draws an ACK at once', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  const edge = rightEdge(s);
  // Wholly left of the window, up to and with its last byte.
  s.guest({ seq: 1, data: 100 });
  s.expect({ ack: 101 });
  s.guest({ seq: 91, data: 10 });
  s.expect({ ack: 101 });
  // Wholly right.
  s.guest({ seq: edge, data: 10 });
  s.expect({ ack: 101, sack: [] });
  s.guest({ seq: edge + 1, data: 10 });
  s.expect({ ack: 101, sack: [] });
  // The last byte of the window, alone and with one too many.
  s.guest({ seq: edge - 1, data: 1 });
  s.expect({ ack: 101, sack: [[edge - 1, edge]] });
  s.guest({ seq: edge - 2, data: 5 });
  const again = s.expect({ ack: 101 });
  must(
    again.sack.some(([, r]) => ((r - s.flow.guestIsn) | 0) === edge),
    'edge',
  );
  must(!again.sack.some(([, r]) => ((r - s.flow.guestIsn) | 0) > edge), 'beyond the window');
  // One byte left of it is new.
  s.guest({ seq: 100, data: 2 });
  s.expect({ ack: 102 });
});

script('TCP-SEQ-01 window closed: only an empty segment at RCV.NXT counts', (s) => {
  s.establish();
  closeWindow(s);
  const nxt = s.flow.guestNext;
  s.guest({ seq: nxt });
  s.expectSilence();
  for (const seq of [nxt - 1, nxt + 1]) {
    s.advance(1000);
    s.guest({ seq });
    s.expect({ ack: nxt, win: 0 });
  }
  for (const seq of [nxt - 1, nxt, nxt + 1]) {
    s.guest({ seq, data: 1 });
    s.expect({ ack: nxt, win: 0 });
  }
});

script('TCP-SEQ-02 two stacks that send empty segments at the edge to each other do not loop', (s) => {
  s.establish();
  closeWindow(s);
  s.guest({ seq: s.flow.guestNext });
  let frames = 0;
  // Whatever comes back is mirrored: the guest answers each of our ACKs with one of its own.
  for (let round = 0; round < 20; round++) {
    const answers = s.drain();
    frames += answers.length;
    for (const _ of answers) s.guest({ seq: s.flow.guestNext + 1 });
  }
  must(frames < 10, `${frames} frames`);
});

script('TCP-SEQ-03 own window closed: ACK, RST and URG still count, data is refused with an ACK', (s) => {
  s.establish();
  s.host.write(500);
  s.expect({ data: 500 });
  const before = s.connection!.sndUna;
  s.host.pause();
  closeWindow(s);
  // closeWindow acknowledged everything; send anew.
  s.host.write(400);
  s.lose({ data: 400 });
  s.guest({ seq: s.flow.guestNext, ack: 901 });
  must(s.connection!.sndUna !== before && s.connection!.sent.count === 0, 'the ACK was not used');
  s.host.write(300);
  s.lose({ data: 300 });
  // Data that cannot be taken carries an ACK that can.
  s.guest({ seq: s.flow.guestNext, ack: 1201, data: 10, urg: 5 });
  s.expect({ win: 0 });
  must(s.connection!.sent.count === 0, 'the ACK on refused data was not used');
  s.guest({ rst: true, seq: rightEdge(s) });
  s.host.expectClosed('guest-reset');
});

script('TCP-SEQ-04 a segment partly old: the new part counts', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.guest({ seq: 51, data: 100 });
  s.expect({ ack: 151 });
  s.host.expectRead(150);
  s.guest({ seq: 1, data: 200, fin: true });
  s.expect({ ack: 202 });
  s.host.expectRead(50);
  s.host.expectEof();
});

script('TCP-SEQ-04 a segment partly beyond the window: that part is cut, and a FIN behind it', (s) => {
  s.establish({ ws: false, mss: 1460 });
  closeWindow(s);
  const nxt = s.flow.guestNext;
  s.host.read(30_000);
  const update = s.expect({ ack: nxt });
  const room = s.flow.windowOf(update);
  must(room > 1460 && room <= 65_535, `window ${room}`);
  for (let sent = 0; sent < room - 100; sent += 1000) s.guest({ data: Math.min(1000, room - 100 - sent) });
  s.drain();
  const left = rightEdge(s) - s.flow.guestNext;
  const at = s.flow.guestNext;
  s.guest({ seq: at, data: left + 50, fin: true });
  const answer = s.drain().at(-1)!;
  must(s.flow.ackOf(answer) === at + left, `acknowledged ${s.flow.ackOf(answer)}, window ended at ${at + left}`);
  s.expectState('ESTABLISHED');
  s.host.resume();
  s.drain();
  s.host.expectNoEof();
  s.guest({ seq: at + left, data: 50, fin: true });
  s.expect({ ack: at + left + 51 });
  s.host.expectEof();
});

script('TCP-SEQ-05 an ACK of what was never sent: an ACK in answer, nothing of the segment is used', (s) => {
  s.establish({ ts: true });
  s.host.write(100);
  s.expect({ data: 100 });
  const tsRecent = s.connection!.tsRecent;
  const wnd = s.connection!.sndWnd;
  s.advance(20);
  s.guest({ ack: 102, data: 50, win: 9 });
  s.expect({ seq: 101, ack: 1 });
  s.host.expectRead(0);
  must(s.connection!.sndWnd === wnd, 'its window was used');
  must(s.connection!.tsRecent === tsRecent, 'its timestamp was used');
  must(s.connection!.sent.count === 1, 'its ACK was used');
  s.guest({ seq: 1, ack: 101, data: 50, win: 64_240 });
  s.expect({ ack: 51 });
});

script('TCP-SEQ-05 ... in every state that can still send and receive', (s) => {
  s.establish();
  s.host.end();
  s.expect({ fin: true });
  s.guest({ seq: 1, ack: 3 });
  s.expect({ seq: 2, ack: 1 });
  s.expectState('FIN-WAIT-1');
  s.guest({ seq: 1, ack: 2 });
  s.guest({ seq: 1, ack: 3, data: 10 });
  s.expect({ seq: 2, ack: 1 });
  s.expectState('FIN-WAIT-2');
});

script('TCP-SEQ-06 an ACK older than the largest window: challenge ACK, data dropped', (s) => {
  s.establish({ ws: false, win: 1000, mss: 500 });
  for (let i = 0; i < 10; i++) {
    s.host.write(500);
    s.expect({ data: 500 });
    s.guest({});
  }
  // SND.UNA is 5001, the largest window was 1000.
  s.guest({ ack: 4000, data: 10 });
  s.expect({ seq: 5001, ack: 1 });
  s.host.expectRead(0);
  s.guest({ seq: 1, ack: 4001, data: 10 });
  s.expect({ ack: 11 });
  s.host.expectRead(10);
});

script('TCP-SEQ-07 data whose ACK is old (reordered) is taken', (s) => {
  s.establish();
  s.host.write(1000);
  s.expect({ data: 1000 });
  s.guest({ seq: 101, ack: 1001, data: 100 });
  s.expect({ ack: 1 });
  s.guest({ seq: 1, ack: 1, data: 100 });
  s.expect({ ack: 201 });
  s.host.expectRead(200);
  must(s.connection!.sent.count === 0, 'the newer ACK was lost');
});

script('TCP-SEQ-08 a segment without ACK bit is dropped', (s) => {
  s.establish();
  s.guest({ ack: false, data: 100 });
  s.guest({ ack: false, fin: true, seq: 1 });
  s.guest({ ack: false, seq: 1 });
  s.expectSilence(100);
  s.host.expectRead(0);
  s.expectState('ESTABLISHED');
});

script('TCP-SEQ-09 window updates that come swapped: the newer one stays', (s) => {
  s.establish({ ws: false, mss: 1000 });
  s.host.write(2000);
  s.expect({ data: 1000 });
  s.expect({ data: 1000 });
  // By sequence number (WL1).
  s.guest({ seq: 11, ack: 2001, data: 10, win: 3000 });
  s.expect({ ack: 1 });
  s.guest({ seq: 1, ack: 2001, data: 10, win: 50_000 });
  s.expect({ ack: 21 });
  must(s.connection!.sndWnd === 3000, `window ${s.connection!.sndWnd}`);
  // By acknowledgement (WL2).
  s.host.write(2000);
  s.drain();
  s.guest({ seq: 21, ack: 4001, win: 5000 });
  s.guest({ seq: 21, ack: 3001, win: 60_000 });
  must(s.connection!.sndWnd === 5000, `window ${s.connection!.sndWnd}`);
  s.guest({ seq: 21, ack: 3001, win: 1 });
  must(s.connection!.sndWnd === 5000, `window ${s.connection!.sndWnd}`);
  // The same numbers again may change it both ways.
  s.guest({ seq: 21, ack: 4001, win: 4000 });
  must(s.connection!.sndWnd === 4000, `window ${s.connection!.sndWnd}`);
  s.guest({ seq: 21, ack: 4001, win: 6000 });
  must(s.connection!.sndWnd === 6000, `window ${s.connection!.sndWnd}`);
});

script(
  'TCP-SEQ-10 challenge ACKs: two a second and flow, other flows unharmed, data is always answered',
  { once: true },
  (s) => {
    s.establish();
    const other = s.newFlow();
    other.establish();
    let answers = 0;
    for (let i = 0; i < 1000; i++) {
      s.guest({ syn: true, seq: 5000 + i });
      answers += s.drain().length;
      s.advance(1);
    }
    must(answers >= 2 && answers <= 4, `${answers} challenge ACKs in a second`);
    other.guest({ syn: true, seq: 5000 });
    other.expect({ ack: 1 });
    s.guest({ seq: 0, data: 1 });
    s.expect({ ack: 1 });
    s.advance(1000);
    s.guest({ rst: true, seq: 2 });
    s.expect({ ack: 1 });
    must(s.stack.stats.tcp.challengeAcksLimited > 900, 'not counted');
  },
);

script('TCP-SEQ-10 the same SYN again and again, of an established flow, is limited too', { once: true }, (s) => {
  s.establish();
  let answers = 0;
  for (let i = 0; i < 1000; i++) {
    s.guest({ syn: true, seq: 0, mss: 1460 });
    answers += s.drain().length;
    s.advance(1);
  }
  must(answers >= 2 && answers <= 4, `${answers} ACKs in a second`);
});

for (const data of [0, 1]) {
  script(`TCP-SEQ-11 keepalive of ${data} bytes at RCV.NXT-1: an ACK each time, nothing delivered`, (s) => {
    s.establish();
    s.guest({ data: 100 });
    s.expect({ ack: 101 });
    s.host.expectRead(100);
    for (let i = 0; i < 20; i++) {
      s.advance(1000);
      s.guest({ seq: 100, data });
      s.expect({ seq: 1, ack: 101 });
    }
    s.host.expectRead(0);
  });
}

script('TCP-SEQ-12 wholly old data: an ACK at once, with D-SACK, nothing delivered', (s) => {
  s.establish();
  s.guest({ data: 300 });
  s.expect({ ack: 301 });
  s.host.expectRead(300);
  s.guest({ seq: 101, data: 100 });
  s.expect({ ack: 301, sack: [[101, 201]] });
  s.host.expectRead(0);
  s.guest({});
  s.expectSilence(100);
});

script('TCP-SEQ-13 streams both ways across the wrap of both sequence spaces', (s) => {
  s.establish();
  for (let i = 0; i < 50; i++) {
    s.guest({ data: 1460 });
    s.drain();
    s.host.write(1460);
    s.drain();
    s.guest({});
  }
  s.host.expectRead(50 * 1460);
  s.guest({ fin: true });
  s.drain();
  s.host.end();
  s.drain();
  s.guest({});
  s.host.expectClosed('done');
  s.expectClean();
});
