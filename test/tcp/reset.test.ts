// Resets, theirs and ours: rows TCP-RST-*. RFC 9293 3.5.2, 3.10.7.4; RFC 5961 3.

import { RST } from '../helpers/peer-frame.ts';
import { type Script, script } from '../helpers/script.ts';

const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

const end = (s: Script): void => {
  s.host.end();
  s.expect({ fin: true });
};
const guestEnd = (s: Script): void => {
  s.guest({ fin: true, ack: 1 });
  s.expect({ ack: 2 });
};

/** States, the way there from ESTABLISHED, RCV.NXT and SND.NXT in them. */
const STATES: readonly [string, (s: Script) => void, number, number][] = [
  ['ESTABLISHED', () => {}, 1, 1],
  ['CLOSE-WAIT', guestEnd, 2, 1],
  ['FIN-WAIT-1', end, 1, 2],
  [
    'FIN-WAIT-2',
    (s) => {
      end(s);
      s.guest({ ack: 2 });
    },
    1,
    2,
  ],
  [
    'CLOSING',
    (s) => {
      end(s);
      guestEnd(s);
    },
    2,
    2,
  ],
  [
    'LAST-ACK',
    (s) => {
      guestEnd(s);
      end(s);
    },
    2,
    2,
  ],
];

for (const [state, reach, rcvNxt, sndNxt] of STATES) {
  for (const ack of [undefined, sndNxt]) {
    script(
      `TCP-RST-01 RST${ack === undefined ? '' : '+ACK'} at RCV.NXT in ${state}: the flow dies, the host is reset, no answer`,
      (s) => {
        s.establish();
        reach(s);
        s.expectState(state);
        s.guest({ rst: true, seq: rcvNxt, ...(ack !== undefined && { ack }) });
        s.host.expectClosed('guest-reset');
        s.expectClean();
        s.expectSilence(1000);
      },
    );
  }

  script(
    `TCP-RST-02 RST in the window but not at RCV.NXT in ${state}: one challenge ACK, the flow lives, the exact one works`,
    (s) => {
      s.establish();
      reach(s);
      s.guest({ rst: true, seq: rcvNxt + 1000 });
      // After the guest's FIN there is no window but RCV.NXT itself to be in; silence is right there too.
      const answers = s.drain();
      must(answers.length <= 1, 'more than one answer');
      if (rcvNxt === 1) must(answers.length === 1 && s.flow.ackOf(answers[0]!) === 1, 'no challenge');
      s.expectState(state);
      s.host.expectOpen();
      s.guest({ rst: true, seq: rcvNxt });
      s.host.expectClosed('guest-reset');
      s.expectClean();
    },
  );

  script(`TCP-RST-03 RST outside of the window in ${state}: silence`, (s) => {
    s.establish();
    reach(s);
    for (const seq of [rcvNxt - 1, rcvNxt - 1000, rcvNxt + 70_000, rcvNxt + 0x7fff_0000]) s.guest({ rst: true, seq });
    s.expectSilence();
    s.expectState(state);
  });
}

script('TCP-RST-02 the challenges are limited', { once: true }, (s) => {
  s.establish();
  let answers = 0;
  for (let i = 2; i < 500; i++) {
    s.guest({ rst: true, seq: i * 100 });
    answers += s.drain().length;
  }
  must(answers === 2, `${answers} challenge ACKs at once`);
});

script('TCP-RST-02 the edge of the window is in it, the next byte is not', (s) => {
  s.establish();
  const edge = (s.connection!.rcvAdv - s.connection!.irs) | 0;
  s.guest({ rst: true, seq: edge + 1 });
  s.expectSilence();
  s.guest({ rst: true, seq: edge - 1 });
  s.expect({ seq: 1, ack: 1 });
});

script('TCP-RST-03 RST at RCV.NXT with the window closed still counts', (s) => {
  s.establish();
  s.host.pause();
  for (let i = 0; i < 80; i++) {
    const room = ((s.connection!.rcvAdv - s.connection!.irs) | 0) - s.flow.guestNext;
    if (room > 0) s.guest({ data: Math.min(room, 1460) });
    s.drain();
  }
  s.advance(50);
  s.drain();
  s.guest({ rst: true, seq: s.flow.guestNext });
  must(s.host.closed === 'guest-reset', 'alive');
  s.expectClean();
});

script('TCP-RST-04 with SACK, RST right of the highest range received counts', (s) => {
  s.establish();
  s.guest({ seq: 101, data: 100 });
  s.expect({ ack: 1 });
  s.guest({ rst: true, seq: 201 });
  s.host.expectClosed('guest-reset');
  s.expectClean();
});

script('TCP-RST-04 without SACK it is challenged', (s) => {
  s.establish({ sackOk: false });
  s.guest({ seq: 101, data: 100 });
  s.expect({ ack: 1 });
  s.guest({ rst: true, seq: 201 });
  s.expect({ ack: 1 });
  s.host.expectOpen();
});

script('TCP-RST-05 data on a RST is ignored, the RST judged as ever', (s) => {
  s.establish();
  s.guest({ rst: true, seq: 5, data: 30 });
  s.expect({ ack: 1 });
  s.host.expectRead(0);
  s.guest({ rst: true, seq: 1, data: 30 });
  s.host.expectRead(0);
  s.host.expectClosed('guest-reset');
});

for (const [state, reach, rcvNxt, sndNxt] of STATES) {
  script(
    `TCP-RST-06 the host is reset in ${state}: RST at SND.NXT with ACK at once, queued bytes dropped, no FIN`,
    (s) => {
      s.establish();
      reach(s);
      s.host.reset();
      s.expectRst({ seq: sndNxt, ack: rcvNxt });
      s.expectClean();
      s.expectSilence(10_000);
    },
  );
}

script('TCP-RST-06 with bytes in flight and waiting', (s) => {
  s.establish();
  s.host.write(30 * 1460);
  for (let i = 0; i < 10; i++) s.expect({ data: 1460 });
  s.host.reset();
  s.expectRst({ seq: 14_601, ack: 1 });
  s.expectClean();
  s.guest({ ack: 14_601 });
  s.expectRst({ seq: 14_601, ack: false });
});

script('TCP-RST-06 where the window was shrunk over what is in flight, the RST still lies inside it', (s) => {
  s.establish({ ws: false, win: 8000, mss: 1000 });
  s.host.write(8000);
  s.drain();
  s.flow.received = 1001;
  s.guest({ ack: 1001, win: 2000 });
  s.drain();
  s.host.reset();
  const rst = s.expectRst({});
  must(s.flow.seqOf(rst) >= 1001 && s.flow.seqOf(rst) <= 3001, `sequence ${s.flow.seqOf(rst)}`);
});

script('TCP-RST-07 our RST copies: SEG.ACK where there is one, else 0 with an ACK of everything', (s) => {
  s.guest({ seq: 10, ack: 1234, data: 20, fin: true });
  s.expectRst({ seq: 1234, ack: false });
  s.guest({ syn: true, seq: 0, data: 7 });
  s.host.refuse();
  s.expectRst({ rawSeq: 0, ack: 8 });
});

script('TCP-RST-07 resets to unknown flows are limited, not unlimited', { once: true }, (s) => {
  for (let i = 0; i < 5000; i++) s.guest({ seq: 1, ack: 1 });
  const answers = s.drain();
  must(answers.length >= 10 && answers.length < 200, `${answers.length} RSTs at once`);
  must(
    answers.every((x) => x.flags & RST),
    'RST',
  );
});

script('TCP-RST-08 data and RST in one read: the host gets the data first, then the reset', (s) => {
  s.establish();
  s.batch(() => {
    s.guest({ data: 100 });
    s.guest({ data: 50 });
    s.guest({ rst: true, seq: 151 });
  });
  s.host.expectRead(150);
  s.host.expectClosed('guest-reset');
  s.host.expectNoEof();
  s.expectClean();
});

script('TCP-RST-08 data and reset of the host in one turn: the guest gets what its window takes, then RST', (s) => {
  s.establish({ ws: false, win: 1200, mss: 600 });
  s.batch(() => {
    s.host.write(1500);
    s.host.reset();
  });
  s.expect({ data: 600, ack: 1 });
  s.expect({ data: 600, ack: 1 });
  s.expectRst({ seq: 1201, ack: 1 });
  s.expectClean();
});

script('TCP-RST-08 a host that does not read: reset, and the bytes are gone', (s) => {
  s.establish();
  s.host.pause();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.guest({ rst: true, seq: 101 });
  s.host.expectClosed('guest-reset');
  s.expectClean();
});

script('TCP-RST-08 host calls after the reset do nothing and throw nothing', (s) => {
  s.establish();
  const flow = s.host.flow!;
  s.guest({ rst: true, seq: 1 });
  s.host.expectClosed('guest-reset');
  must(flow.write(new Uint8Array(10), 0, 10, s.now) === 0, 'write');
  must(flow.room(10) === 0, 'room');
  must(flow.readable === 0, 'readable');
  flow.consume(0, s.now);
  flow.shutdown(s.now);
  flow.orphan(s.now);
  flow.accept(s.now);
  flow.refuse('refused', s.now);
  flow.abort('host-reset', s.now);
  flow.release();
  s.settle();
  s.expectSilence(1000);
  s.expectClean();
});
