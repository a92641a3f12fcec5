// SYNs of flows that stand already, and opening by the host: rows TCP-SYN-16 to TCP-SYN-21. RFC 5961 4; RFC 9293 3.5, 3.10.7.3.

import { FIN } from '../helpers/peer-frame.ts';
import { type Script, script } from '../helpers/script.ts';

const usualSyn = { syn: true, seq: 0, win: 64_240, mss: 1460, ws: 7, sackOk: true } as const;

const toCloseWait = (s: Script): void => {
  s.guest({ fin: true });
  s.expect({ ack: 2 });
};
const toFinWait1 = (s: Script): void => {
  s.host.end();
  s.expect({ fin: true });
};
/** Each synchronized state and the way there, from ESTABLISHED. SND.NXT and RCV.NXT after it. */
const SYNCHRONIZED: readonly [string, (s: Script) => void, number, number][] = [
  ['ESTABLISHED', () => {}, 1, 1],
  ['CLOSE-WAIT', toCloseWait, 1, 2],
  ['FIN-WAIT-1', toFinWait1, 2, 1],
  [
    'FIN-WAIT-2',
    (s) => {
      toFinWait1(s);
      s.guest({ ack: 2 });
    },
    2,
    1,
  ],
  [
    'CLOSING',
    (s) => {
      toFinWait1(s);
      s.guest({ fin: true, ack: 1 });
      s.expect({ ack: 2 });
    },
    2,
    2,
  ],
  [
    'LAST-ACK',
    (s) => {
      toCloseWait(s);
      s.host.end();
      s.expect({ fin: true });
    },
    2,
    2,
  ],
];

for (const [state, reach, sndNxt, rcvNxt] of SYNCHRONIZED) {
  for (const seq of [0, 1, 50, 1_000_000]) {
    script(`TCP-SYN-16 SYN at ${seq} in ${state}: one challenge ACK, no reset, no new flow`, (s) => {
      s.establish();
      reach(s);
      s.expectState(state);
      s.guest({ syn: true, seq, mss: 1460 });
      s.expect({ seq: sndNxt, ack: rcvNxt });
      s.expectSilence();
      s.expectState(state);
      s.expectFlows(1);
      if (s.dials !== 1) throw new Error(`${s.dials} dials`);
    });
  }
}

script('TCP-SYN-17 a rebooted guest reuses a 4-tuple: challenge ACK, its RST, then a new flow', (s) => {
  s.establish();
  s.guest({ data: 5000 });
  s.expect({ ack: 5001 });
  const oldIsn = s.flow.guestIsn;
  const ourIsn = s.flow.ourIsn;
  // The SYN of another life; the challenge is read with the numbers of the old one.
  s.guest({ syn: true, seq: 900_000, mss: 1460 });
  const challenge = s.expect({ seq: 1, ack: 5001 });
  s.guest({ rst: true, seq: s.flow.ackOf(challenge) });
  s.host.expectClosed('guest-reset');
  s.expectFlows(0);
  s.flow.renew(oldIsn + 900_000, ourIsn + 1_000_000);
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1 });
  s.host.expectEstablished();
});

script('TCP-SYN-18 simultaneous open: SYN-ACK with our original ISN, established on the ACK', (s) => {
  const f = s.connect();
  f.expect({ syn: true, mss: 1460 });
  f.guest(usualSyn);
  f.expect({ synAck: true, seq: 0, ack: 1 });
  f.guest({ seq: 1, ack: 1 });
  f.host.expectEstablished();
  f.guest({ data: 10 });
  f.expect({ ack: 11 });
  f.host.expectRead(10);
});

script('TCP-SYN-18 simultaneous open, the guest answers with SYN-ACK: established', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.guest(usualSyn);
  f.expect({ synAck: true, seq: 0, ack: 1 });
  f.guest({ ...usualSyn, ack: 1 });
  f.host.expectEstablished();
  f.drain();
  f.host.write(10);
  f.expect({ data: 10, ack: 1 });
});

script('TCP-SYN-19 our SYN refused by RST-ACK: the host is told at once', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.guest({ rst: true, seq: 0, ack: 0 });
  f.guest({ rst: true, seq: 0, ack: 2 });
  f.guest({ rst: true, seq: 0 });
  s.expectSilence();
  s.expectState('SYN-SENT', f);
  f.guest({ rst: true, seq: 0, ack: 1 });
  f.host.expectClosed('refused');
  s.expectClean();
});

script('TCP-SYN-20 our SYN answered with a wrong acknowledgement: RST, SYN-SENT stays, the right answer works', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  for (const ack of [0, 2, 5000]) {
    f.guest({ syn: true, seq: 0, ack, win: 64_240, mss: 1460 });
    f.expectRst({ seq: ack, ack: false });
    f.guest({ seq: 1, ack });
    f.expectRst({ seq: ack, ack: false });
  }
  s.expectState('SYN-SENT', f);
  f.guest({ ...usualSyn, ack: 1 });
  f.expect({ seq: 1, ack: 1 });
  f.host.expectEstablished();
});

script('TCP-SYN-20 segments without SYN and RST in SYN-SENT are dropped', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.guest({ flags: FIN, seq: 0 });
  f.guest({ flags: 0, seq: 0, data: 10 });
  f.guest({ seq: 0, ack: 1 });
  s.expectSilence();
  s.expectState('SYN-SENT', f);
});

script(
  'TCP-SYN-21 our SYN is repeated after 1, 2, 4 ... s, for at least three minutes (MUST-23); then the host is told',
  (s) => {
    const f = s.connect();
    f.expect({ syn: true, ack: false });
    f.host.write(100);
    const start = s.now;
    for (const wait of [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]) f.expectAfter(wait, { syn: true, ack: false });
    s.expectSilence(60_500);
    f.host.expectClosed('retransmit-limit');
    if (s.now - start < 180_000) throw new Error('given up early');
    s.expectClean();
  },
);

script('TCP-SYN-21 what the host wrote before is sent in order once the guest has answered', (s) => {
  const f = s.connect();
  f.expect({ syn: true });
  f.host.write(100);
  s.expectSilence(500);
  f.host.write(3000);
  f.guest({ ...usualSyn, ack: 1 });
  f.expect({ seq: 1, data: 1460 });
  f.expect({ seq: 1461, data: 1460 });
  f.expect({ seq: 2921, data: 180 });
  f.guest({ ack: 3101 });
});
