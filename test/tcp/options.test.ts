// Header and options: rows TCP-OPT-*. RFC 9293 3.1, 3.2; RFC 7323 2, 3; RFC 2018; RFC 6691.

import { Drop } from '../../src/base/drop.ts';
import { script } from '../helpers/script.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';

const usualSyn = { syn: true, seq: 0, win: 64_240, mss: 1460, ws: 7, sackOk: true } as const;

script('TCP-OPT-01 data offsets below 5 words and past the payload: dropped silently, counted', (s) => {
  s.establish();
  let bad = 0;
  for (let dataOffset = 0; dataOffset < 16; dataOffset++) {
    for (const data of [0, 1, 8, 30, 39]) {
      if (dataOffset >= 5 && dataOffset * 4 <= 20 + data) continue;
      s.guest({ seq: 1, ack: 1, dataOffset, data, mutate: () => {} });
      s.expectSilence();
      if (s.stack.stats.drops.get(Drop.TcpMalformed) !== ++bad) throw new Error(`offset ${dataOffset}, ${data} bytes`);
    }
  }
  s.host.expectRead(0);
  s.expectState('ESTABLISHED');
});

script('TCP-OPT-01 a segment cut at every byte of its header is dropped', (s) => {
  s.establish();
  for (let len = 0; len < 20; len++) {
    s.guest({
      data: 10,
      mutate: (frame) => {
        // The IPv4 packet ends early; what follows is padding.
        const view = new DataView(frame.buffer);
        view.setUint16(16, 20 + len);
        view.setUint16(24, 0);
        let sum = 0;
        for (let i = 14; i < 34; i += 2) sum += view.getUint16(i);
        while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
        view.setUint16(24, ~sum & 0xffff);
      },
    });
  }
  s.expectSilence();
  s.expectState('ESTABLISHED');
});

script(
  'TCP-OPT-02 one flipped bit anywhere in header or payload: dropped, counted, no state change',
  { once: true },
  (s) => {
    s.establish({ ts: true });
    const bits = (32 + 33) * 8;
    for (let bit = 0; bit < bits; bit++) {
      s.guest({
        data: 33,
        mutate: (frame) => {
          frame[34 + (bit >>> 3)]! ^= 1 << (bit & 7);
        },
      });
    }
    s.expectSilence();
    const { drops } = s.stack.stats;
    // A flip in the data offset is caught before the checksum.
    const counted = drops.get(Drop.TcpBadChecksum) + drops.get(Drop.TcpMalformed);
    if (counted !== bits) throw new Error(`${counted} of ${bits} counted`);
    s.guest({ data: 33 });
    s.expect({ ack: 34 });
  },
);

script('TCP-OPT-02 the pseudo-header is part of the checksum', (s) => {
  s.establish();
  s.guest({
    data: 33,
    // Source and destination port of another flow would be caught; another destination address must be too.
    mutate: (frame) => {
      const view = new DataView(frame.buffer);
      view.setUint32(30, view.getUint32(30) + 1);
      view.setUint16(24, view.getUint16(24) - 1);
    },
  });
  s.expectSilence();
  if (s.stack.stats.drops.get(Drop.TcpBadChecksum) !== 1) throw new Error('not counted');
});

script('TCP-OPT-02 checksums of every payload length are right', { once: true }, (s) => {
  s.establish();
  for (let n = 1; n <= 200; n++) {
    s.host.write(n);
    s.expect({ data: n });
    s.guest({});
    s.guest({ data: n });
    s.drain();
  }
  s.host.expectRead(20_100);
});

for (const length of [0, 1]) {
  script(`TCP-OPT-03 an option of length ${length} ends the walk, the segment counts`, (s) => {
    s.guest({ syn: true, seq: 0, win: 5000, options: [254, length, 2, 4, 5, 180] });
    s.host.accept();
    // The MSS behind it was not read: 536.
    s.expect({ synAck: true, ack: 1, ws: false, sackOk: false, ts: false });
    s.guest({ ack: 1, win: 5000 });
    s.host.write(600);
    s.expect({ data: 536 });
    s.expect({ data: 64 });
    s.guest({ data: 10, options: [8, length, 1, 1] });
    s.expect({ ack: 11 });
  });
}

script('TCP-OPT-04 an option longer than the header, and the rest, are ignored', (s) => {
  s.guest({ syn: true, seq: 0, win: 5000, options: [254, 40, 0, 0, 2, 4, 5, 180] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1, ws: false, sackOk: false });
  s.guest({ ack: 1, win: 5000 });
  s.host.write(600);
  s.expect({ data: 536 });
  s.expect({ data: 64 });
  s.guest({ data: 5, options: [1, 1, 1, 8] });
  s.expect({ ack: 6 });
  s.guest({ data: 5, options: [1, 8, 10, 0] });
  s.expect({ ack: 11 });
});

script(
  'TCP-OPT-05 unknown kinds are skipped by their length, at any alignment; bytes after the end are ignored',
  (s) => {
    const unknown = [19, 3, 9, 30, 4, 1, 2, 34, 2, 253, 5, 1, 2, 3, 254, 2, 1];
    s.guest({ syn: true, seq: 0, win: 64_240, options: unknown, mss: 1000, sackOk: true });
    s.host.accept();
    s.expect({ synAck: true, ack: 1, sackOk: true });
    s.guest({ ack: 1 });
    s.host.write(1500);
    s.expect({ data: 1000 });
    s.expect({ data: 500 });
    s.guest({ data: 10, options: unknown });
    s.expect({ ack: 11 });
    s.guest({ data: 10, options: [0, 2, 4, 0, 1, 8, 10, 1] });
    s.expect({ ack: 21 });
  },
);

script('TCP-OPT-06 no MSS option: segments of 536 bytes', (s) => {
  s.establish({ mss: false });
  s.host.write(1200);
  s.expect({ data: 536 });
  s.expect({ data: 536 });
  s.expect({ data: 128 });
});

for (const mss of [0, 1, 40, 87]) {
  script(`TCP-OPT-07 an MSS of ${mss} is not believed: no frame of next to nothing`, (s) => {
    s.establish({ mss, ts: true, sackOk: true });
    s.host.write(200);
    s.expect({ data: 76 });
    s.expect({ data: 76 });
    s.expect({ data: 48 });
    // Options of a segment make it smaller, never empty: with a hole there are SACK blocks as well.
    s.guest({});
    for (let i = 0; i < 4; i++) s.guest({ seq: 100 + 20 * i, data: 10 });
    s.drain();
    s.host.write(200);
    const sent = s.drain();
    if (sent.length !== 5 || sent.some((x) => x.payload.length < 8)) throw new Error('tiny segments');
  });
}

for (const [mtu, mss, want] of [
  [1500, 1460, 1460],
  [1500, 9000, 1460],
  [1500, 1200, 1200],
  [9000, 8960, 8960],
] as const) {
  script(`TCP-OPT-08 payload at MTU ${mtu} and MSS ${mss}: ${want}, less what the options take`, { mtu }, (s) => {
    s.establish({ mss });
    s.host.write(want + 1);
    s.expect({ data: want });
    s.expect({ data: 1 });
    const f = s.newFlow();
    f.establish({ mss, ts: true });
    f.host.write(want);
    f.expect({ data: want - 12 });
    f.expect({ data: 12 });
  });
}

script('TCP-OPT-08 SACK blocks take their room from the payload', (s) => {
  s.establish({ ts: true });
  s.guest({ seq: 101, data: 10 });
  s.expect({ ack: 1, sack: [[101, 111]] });
  s.host.write(1460);
  s.expect({ data: 1460 - 12 - 12 });
  s.expect({ data: 24 });
});

script('TCP-OPT-09 MSS, window scale and SACK-permitted outside of a SYN are ignored', (s) => {
  s.guest({ syn: true, seq: 0, win: 64_240, mss: 1000 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1, ws: false, sackOk: false });
  s.guest({ ack: 1, options: [2, 4, 1, 0, 3, 3, 7, 4, 2], win: 2000 });
  s.host.write(5000);
  s.expect({ data: 1000 });
  s.expect({ data: 1000 });
  s.expectSilence(1);
  s.guest({ seq: 50, ack: 1, data: 10, win: 2000 });
  s.expect({ ack: 1, sack: [] });
});

for (let bits = 0; bits < 8; bits++) {
  const ws = (bits & 1) !== 0;
  const sackOk = (bits & 2) !== 0;
  const ts = (bits & 4) !== 0;
  script(
    `TCP-OPT-10 offered${ws ? ' WS' : ''}${sackOk ? ' SACK' : ''}${ts ? ' TS' : ''}: just that is answered`,
    (s) => {
      s.guest({
        syn: true,
        seq: 0,
        win: 64_240,
        mss: 1460,
        sackOk,
        ...(ws && { ws: 7 }),
        ...(ts && { ts: [7, 0] as const }),
      });
      s.host.accept();
      s.expect({ synAck: true, ack: 1, ws: ws ? 6 : false, sackOk, ts });
      s.guest({ ack: 1 });
      s.guest({ data: 10 });
      s.expect({ ack: 11, ts });
      s.guest({ seq: 21, data: 10 });
      s.expect({ ack: 11, ts, sack: sackOk ? [[21, 31]] : [] });
    },
  );
}

for (const ws of [14, 15, 200, 255]) {
  script(`TCP-OPT-11 window scale ${ws} is used as 14`, (s) => {
    s.establish({ ws });
    s.host.write(100_000);
    s.drain();
    // 1 << 14 = 16384.
    s.guest({ win: 1 });
    let got = 0;
    for (const x of s.drain()) got += x.payload.length;
    s.expectSilence(10);
    if (got !== 11 * 1460) throw new Error(`${got} bytes`);
    s.advance(40);
    s.drain();
    if (s.connection!.sndWnd !== 16_384) throw new Error(`window ${s.connection!.sndWnd}`);
  });
}

script('TCP-OPT-12 repeated options: the last one counts, nothing breaks', (s) => {
  s.guest({ syn: true, seq: 0, win: 64_240, options: [2, 4, 0, 200, 3, 3, 1, 3, 3, 9], mss: 1000, ws: 2 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, win: 500 });
  s.host.write(3000);
  s.expect({ data: 1000 });
  s.expect({ data: 1000 });
  s.expectSilence(1);
});

script(
  'TCP-OPT-13 no window scale from the guest: at most 65,535 shown, its own read as it is',
  { limits: { rcvBufInitial: 1 << 20 } },
  (s) => {
    s.establish({ ws: false, win: 3000 });
    s.guest({ data: 10 });
    const ack = s.expect({ ack: 11 });
    if (ack.win < 60_000) throw new Error(`window ${ack.win}`);
    s.host.write(10_000);
    let got = 0;
    for (const x of s.drain()) got += x.payload.length;
    if (got > 3000) throw new Error(`${got} bytes`);
    s.guest({ win: 3000 });
    s.drain();
  },
);

script('TCP-OPT-14 SACK blocks that are empty, inverted, outside or malformed mean nothing', (s) => {
  s.establish();
  s.host.write(5 * 1460);
  for (let i = 0; i < 5; i++) s.lose({ data: 1460 });
  const bad: [number, number][] = [
    [1461, 1461],
    [4381, 1461],
    [100_000, 101_460],
    [-5000, -100],
    [5 * 1460 + 1, 6 * 1460 + 1],
    [1461, 6 * 1460 + 1],
  ];
  for (const block of bad) {
    for (let i = 0; i < 4; i++) s.guest({ ack: 1, sack: [block], win: 64_240 - i });
  }
  const c = s.connection!;
  if (c.sackedBytes !== 0 || c.lostBytes !== 0) throw new Error('believed');
  for (const options of [
    [5, 9, 0, 0, 0, 0, 0, 0, 0],
    [5, 2],
    [5, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
  ]) {
    s.guest({ ack: 1, options });
  }
  if (s.connection!.sackedBytes !== 0) throw new Error('believed');
  s.expectSilence(1);
  s.guest({ ack: 5 * 1460 + 1 });
});

script('TCP-OPT-14 SACK that was never agreed upon means nothing', (s) => {
  s.establish({ sackOk: false });
  s.host.write(5 * 1460);
  for (let i = 0; i < 5; i++) s.lose({ data: 1460 });
  for (let i = 0; i < 5; i++) s.guest({ ack: 1, sack: [[1461, 2921 + i]], win: 64_240 - i });
  s.expectSilence(1);
  if (s.connection!.sackedBytes !== 0) throw new Error('believed');
});

script('TCP-OPT-14 property: random SACK blocks never break the accounting', { once: true }, (s) => {
  const random = new SeededRandom(14);
  s.establish();
  s.host.write(40 * 1460);
  s.drain();
  s.flow.received = 1;
  for (let i = 0; i < 2000; i++) {
    const blocks = Array.from({ length: 1 + random.below(4) }, (): [number, number] => {
      const left = random.below(45 * 1460) - 2000;
      return [left, left + random.below(4000) - 500];
    });
    s.guest({ ack: 1, sack: blocks });
    s.flow.pending.length = 0;
    const c = s.connection!;
    const out = (c.sndNxt - c.sndUna) | 0;
    if (c.sackedBytes < 0 || c.lostBytes < 0 || c.sackedBytes + c.lostBytes > out) throw new Error('accounting broken');
  }
  s.guest({ ack: 40 * 1460 + 1 });
  s.flow.pending.length = 0;
  if (s.connection!.sackedBytes !== 0 || s.connection!.lostBytes !== 0) throw new Error('something is left');
});

script('TCP-OPT-15 timestamps agreed upon: every segment carries them, TSecr is the latest in order', (s) => {
  s.guest({ ...usualSyn, ts: [1000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1, ts: 1000 });
  s.guest({ ack: 1, ts: [1001, s.flow.tsSeen] });
  s.guest({ data: 10, ts: [1050, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 1050 });
  s.host.write(10);
  s.expect({ data: 10, ts: 1050 });
  // Beyond a hole: not the one to echo.
  s.guest({ seq: 21, data: 10, ts: [1100, s.flow.tsSeen] });
  s.expect({ ack: 11, ts: 1050 });
  s.host.end();
  s.expect({ fin: true, ts: 1050 });
  s.advance(250);
  s.drain();
});

script('TCP-OPT-15 TSecr is 0 in a SYN without ACK', (s) => {
  const f = s.connect();
  f.expect({ syn: true, ts: 0, ws: 6, sackOk: true });
});

script('TCP-OPT-16 a segment without the agreed timestamps is taken', (s) => {
  s.guest({ ...usualSyn, ts: [1000, 0] });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ts: false });
  s.host.expectEstablished();
  s.guest({ data: 10, ts: false });
  s.expect({ ack: 11, ts: 1000 });
  s.host.expectRead(10);
});

script('TCP-OPT-17 ECN is not taken up, reserved bits are ignored', (s) => {
  s.guest({ ...usualSyn, ece: true, cwr: true, reserved: 1 });
  s.host.accept();
  // The flags of every segment of ours are checked: no ECE, no CWR.
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, ece: true, reserved: 15 });
  s.guest({ data: 10, cwr: true, ece: true, reserved: 7 });
  s.expect({ ack: 11 });
  s.host.expectRead(10);
});

script('TCP-OPT-18 windows are unsigned: 0x8000 is used in full', (s) => {
  s.establish({ ws: false, win: 0x8000, mss: 1460 });
  s.host.write(40_000);
  let got = 0;
  while (got < 0x8000) {
    const sent = s.drain();
    for (const x of sent) got += x.payload.length;
    if (sent.length === 0) break;
    if (got < 0x8000) s.guest({ ack: 1 + got, win: 0x8000 - got });
  }
  if (got !== 0x8000) throw new Error(`${got} of 32768 bytes`);
});

script('TCP-OPT-18 windows of 65535 << 14 are held in full', { once: true }, (s) => {
  s.establish({ ws: 14, win: 65_535 });
  s.guest({ win: 65_535 });
  if (s.connection!.sndWnd !== 65_535 * 16_384) throw new Error(`window ${s.connection!.sndWnd}`);
  s.host.write(14_600);
  if (s.drain().length !== 10) throw new Error('not sent');
});
