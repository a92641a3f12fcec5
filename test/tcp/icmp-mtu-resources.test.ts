// ICMP errors of the guest's, MTU, resources: rows TCP-ICM-*, TCP-MTU-*, TCP-RES-*. RFC 9293 3.9.2.2; RFC 5927; RFC 1191.

import { FIN, IPV4_BYTES, SYN } from '../helpers/peer-frame.ts';
import { type Script, script } from '../helpers/script.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { hostByte } from '../helpers/stream-pattern.ts';

const MSS = 1460;
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};
const usualSyn = { syn: true, seq: 0, win: 64_240, mss: 1460, ws: 7, sackOk: true } as const;

script('TCP-ICM-01 an error counts only for this 4-tuple and a sequence number in flight', (s) => {
  s.establish();
  s.host.write(10 * MSS);
  s.drain();
  s.flow.received = 1;
  s.guestIcmp({ type: 3, code: 4, mtu: 1000, seq: 0 });
  s.guestIcmp({ type: 3, code: 4, mtu: 1000, seq: 10 * MSS + 1 });
  s.guestIcmp({ type: 3, code: 4, mtu: 1000, seq: 1, guestPort: 12_345 });
  s.expectSilence();
  must(s.connection!.effSndMss === MSS, 'the MSS was lowered');
  must(s.stack.stats.tcp.icmpIgnored === 2, 'not counted');
  s.guestIcmp({ type: 3, code: 4, mtu: 1000, seq: 10 * MSS });
  must(s.connection!.effSndMss === 960, `MSS ${s.connection!.effSndMss}`);
  s.drain();
});

script('TCP-ICM-01 a quote too short, cut or of another protocol does nothing', (s) => {
  s.establish();
  s.host.write(100);
  s.drain();
  s.flow.received = 1;
  for (let cut = 0; cut < 28; cut++) {
    const p = new Uint8Array(8 + cut);
    p[0] = 3;
    p[1] = 4;
    if (cut > 0) p[8] = 0x45;
    if (cut > 9) p[17] = 6;
    s.raw(icmpFrame(s, p));
  }
  s.expectSilence();
  must(s.connection!.effSndMss === MSS, 'believed');
});

/** An ICMP message of the guest's to the gateway, checksummed. */
function icmpFrame(s: Script, p: Uint8Array): Uint8Array {
  const frame = new Uint8Array(14 + IPV4_BYTES + p.length);
  const view = new DataView(frame.buffer);
  frame.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 8, 0, 0x45], 0);
  view.setUint16(16, IPV4_BYTES + p.length);
  view.setUint8(22, 64);
  view.setUint8(23, 1);
  view.setUint32(26, s.guestIp);
  view.setUint32(30, 0xc0a84101);
  const sum = (from: number, to: number): number => {
    let total = 0;
    for (let i = from; i < to; i += 2) total += (frame[i]! << 8) | (frame[i + 1] ?? 0);
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
    return ~total & 0xffff;
  };
  view.setUint16(24, sum(14, 34));
  frame.set(p, 34);
  view.setUint16(36, sum(34, frame.length));
  return frame;
}

for (let code = 0; code < 16; code++) {
  const hard = code === 2 || code === 3;
  script(
    `TCP-ICM-0${hard ? 2 : 3} unreachable code ${code} in SYN-SENT: ${hard ? 'the connect fails at once' : 'borne'}`,
    (s) => {
      const f = s.connect();
      f.expect({ syn: true });
      s.guestIcmp({ type: 3, code, seq: 0, flow: f });
      if (hard) {
        f.host.expectClosed('unreachable');
        s.expectClean();
      } else {
        f.host.expectOpen();
        f.guest({ ...usualSyn, ack: 1 });
        f.expect({ ack: 1 });
        f.host.expectEstablished();
      }
    },
  );

  if (code === 4) continue;
  script(`TCP-ICM-02 unreachable code ${code} when established: soft, no abort`, (s) => {
    s.establish();
    s.host.write(100);
    s.expect({ data: 100 });
    s.guestIcmp({ type: 3, code, seq: 1 });
    s.host.expectOpen();
    s.guest({});
    s.expectSilence(1000);
    s.expectState('ESTABLISHED');
  });
}

for (const [what, type, code] of [
  ['time exceeded', 11, 0],
  ['reassembly time exceeded', 11, 1],
  ['parameter problem', 12, 0],
  ['source quench', 4, 0],
] as const) {
  script(`TCP-ICM-03 ${what}: never an abort, nothing slows down`, (s) => {
    s.establish();
    s.host.write(100);
    s.expect({ data: 100 });
    const before = s.connection!.cc.cwnd;
    s.guestIcmp({ type, code, seq: 1 });
    s.host.expectOpen();
    must(s.connection!.cc.cwnd === before, 'cwnd');
    s.guest({});
    const f = s.connect(9090);
    f.expect({ syn: true });
    s.guestIcmp({ type, code, seq: 0, flow: f });
    f.host.expectOpen();
  });
}

script('TCP-ICM-04 fragmentation needed: the MSS follows, the data is sent again at once', (s) => {
  s.establish();
  s.host.write(3 * MSS);
  for (let i = 0; i < 3; i++) s.lose({ data: MSS });
  s.guestIcmp({ type: 3, code: 4, mtu: 1000, seq: 1 });
  const again = s.drain();
  must(again.length > 0 && s.flow.seqOf(again[0]!) === 1, 'not sent again');
  must(
    again.every((x) => x.payload.length <= 960),
    'too big',
  );
  for (let i = 0; i < 20 && s.flow.received < 3 * MSS + 1; i++) {
    s.guest({});
    for (const x of s.drain()) must(x.payload.length <= 960, 'too big');
  }
  must(s.flow.received === 3 * MSS + 1, 'not all has arrived');
  s.guest({});
  s.expectSilence(1000);
});

script('TCP-ICM-04 MTU 0: the next plateau; MTU too small: clamped; MTU not smaller: ignored', (s) => {
  s.establish();
  s.host.write(3 * MSS);
  s.drain();
  s.flow.received = 1;
  s.guestIcmp({ type: 3, code: 4, mtu: 1500, seq: 1 });
  s.guestIcmp({ type: 3, code: 4, mtu: 9000, seq: 1 });
  s.expectSilence();
  must(s.connection!.effSndMss === MSS, 'not ignored');
  s.guestIcmp({ type: 3, code: 4, mtu: 0, seq: 1 });
  must(s.connection!.effSndMss === 1492 - 40, `MSS ${s.connection!.effSndMss}`);
  s.drain();
  s.guestIcmp({ type: 3, code: 4, mtu: 0, seq: 1, totalLength: 1492 });
  must(s.connection!.effSndMss === 1006 - 40, `MSS ${s.connection!.effSndMss}`);
  s.drain();
  s.guestIcmp({ type: 3, code: 4, mtu: 68, seq: 1 });
  must(s.connection!.effSndMss === 552 - 40, `MSS ${s.connection!.effSndMss}`);
  s.drain();
  s.guestIcmp({ type: 3, code: 4, mtu: 100, seq: 1 });
  must(s.connection!.effSndMss === 552 - 40, `MSS ${s.connection!.effSndMss}`);
  s.drain();
});

for (const mtu of [576, 1500, 4000, 9000, 65_520]) {
  script(
    `TCP-MTU-01 TCP-MTU-02 MTU ${mtu}: the MSS option follows, full frames and none above it, DF set`,
    { mtu, once: mtu > 9000 },
    (s) => {
      s.guest({ syn: true, seq: 0, win: 65_535, mss: mtu - 40, ws: 7, sackOk: true });
      s.host.accept();
      s.expect({ synAck: true, ack: 1, mss: mtu - 40 });
      s.guest({ ack: 1, win: 65_535 });
      const total = 4 * (mtu - 40) + 1;
      s.host.write(total);
      let longest = 0;
      for (let i = 0; i < 20 && s.flow.received <= total; i++) {
        for (const x of s.drain()) longest = Math.max(longest, x.frame.length);
        s.guest({});
      }
      // No segment is longer than half of the first window, here 65,535.
      must(longest === Math.min(mtu - 40, 32_767) + 54, `longest frame ${longest}`);
      s.guest({ data: mtu - 40 });
      s.drain();
      s.guest({ data: mtu - 40 });
      s.drain();
      s.host.expectRead(2 * (mtu - 40));
    },
  );
}

script('TCP-MTU-03 a segment larger than the MTU is taken whole', (s) => {
  s.establish();
  s.guest({ data: 20_000 });
  s.expect({ ack: 20_001 });
  s.host.expectRead(20_000);
  s.guest({ data: 10 });
  s.expect({ ack: 20_011 });
});

script(
  'TCP-RES-02 3,000 flows one after another, every order of closing: nothing is left',
  { once: true, limits: { timeWaitMax: 50 } },
  (s) => {
    for (let i = 0; i < 3000; i++) {
      const f = s.newFlow({ guestPort: 1024 + (i % 50_000) });
      f.establish();
      f.guest({ data: 10 });
      f.drain();
      f.host.write(10);
      f.drain();
      f.guest({});
      switch (i % 6) {
        case 0:
          f.guest({ fin: true });
          f.drain();
          f.host.end();
          f.drain();
          f.guest({});
          break;
        case 1:
          f.host.end();
          f.drain();
          f.guest({ fin: true });
          f.drain();
          break;
        case 2:
          f.host.end();
          f.drain();
          f.guest({ fin: true, ack: 11 });
          f.drain();
          f.guest({ ack: 12 });
          break;
        case 3:
          f.guest({ rst: true, seq: 11 });
          break;
        case 4:
          f.host.reset();
          f.drain();
          break;
        default:
          f.guest({ fin: true });
          f.drain();
          f.host.reset();
          f.drain();
      }
      f.drain();
    }
    s.expectSilence(61_000);
    s.expectClean();
  },
);

script('TCP-RES-03 one bulk flow does not hold back another: each turn serves both', { once: true }, (s) => {
  const bulk = s.newFlow();
  bulk.establish({ win: 65_535 });
  s.establish();
  bulk.host.write(8 * 1024 * 1024);
  for (let i = 0; i < 50; i++) {
    bulk.drain();
    s.batch(() => {
      bulk.guest({ win: 65_535 });
      s.guest({ data: 1 });
      bulk.guest({ win: 65_534 });
    });
    s.host.write(1);
    s.host.expectRead(1);
    must(
      s.drain().some((x) => x.payload.length === 1),
      'the echo waits',
    );
  }
  bulk.drain();
});

script('TCP-RES-04 the link does not drain: nothing is lost, nothing grows, it goes on where it was', (s) => {
  s.establish();
  s.host.write(20 * MSS);
  for (let i = 0; i < 10; i++) s.expect({ data: MSS });
  s.link(false);
  s.guest({});
  s.guest({ data: 100 });
  s.host.write(3 * 1024 * 1024);
  s.expectSilence(30_000);
  must(s.heldBytes <= 4 * 1024 * 1024, `${s.heldBytes} bytes held`);
  s.host.expectOpen();
  s.link(true);
  for (let i = 0; i < 5000 && s.flow.received < s.host.written + 1; i++) {
    s.drain();
    s.guest({});
  }
  must(s.flow.received === s.host.written + 1, `${s.flow.received} received of ${s.host.written}`);
  s.drain();
});

script('TCP-RES-04 the link does not drain with segments in flight: nothing is taken for lost', (s) => {
  s.establish();
  s.host.write(3 * MSS);
  for (let i = 0; i < 3; i++) s.expect({ data: MSS });
  s.link(false);
  // New bytes are refused by the link, and an ACK that is due as well.
  s.host.write(MSS);
  s.guest({ seq: 101, ack: 1, data: 100 });
  s.expectSilence(30_000);
  must(s.stack.stats.tcp.timeouts === 0, 'a time-out');
  s.link(true);
  const sent = s.drain();
  must(
    sent.some((x) => s.flow.seqOf(x) === 1 + 3 * MSS),
    'the new bytes',
  );
  must(
    sent.every((x) => x.sack.length === 1),
    'the ACK with its SACK block',
  );
  s.guest({});
  s.advance(1000);
  s.drain();
  must(s.connection!.sent.count === 0, 'something is left');
});

script('a loan of the send ring: bytes are written in place, and the ring stays where it is until it ends', (s) => {
  s.establish();
  const flow = s.host.flow!;
  const room = flow.room(2000);
  must(room >= 2000, `room ${room}`);
  must(flow.room(1) === 0, 'lent twice');
  const { mem, roomOffset } = flow;
  for (let i = 0; i < 2000; i++) mem[roomOffset + i] = hostByte(1 + i);
  flow.commit(2000, s.now);
  s.settle();
  s.expect({ seq: 1, data: MSS });
  s.expect({ data: 2000 - MSS });
  s.guest({});
  // A reset in mid-loan: the memory comes back with the end of the loan.
  must(flow.room(100) >= 100, 'room');
  s.guest({ rst: true, seq: 1 });
  s.host.expectClosed('guest-reset');
  s.expectClean();
});

script('TCP-RES-04 a handshake over a link that does not drain completes later', (s) => {
  s.link(false);
  s.guest(usualSyn);
  s.host.accept();
  s.expectSilence(500);
  s.link(true);
  s.flow.expectWithin(1100, { synAck: true, ack: 1 });
  s.guest({ ack: 1 });
  s.host.expectEstablished();
});

script('TCP-RES-05 property: no segment, however odd, throws or harms another flow', { once: true }, (s) => {
  const random = new SeededRandom(5);
  const well = s.newFlow();
  well.establish({ ts: true });
  for (let round = 0; round < 150; round++) {
    const f = s.newFlow({ wild: true });
    f.host.verify = false;
    const how = random.below(5);
    if (how > 0)
      f.establish({ ts: random.chance(0.5), sackOk: random.chance(0.5), ws: random.chance(0.5) ? 7 : false });
    if (how === 2) f.host.end();
    if (how === 3) f.host.write(5000);
    if (how === 4) f.guest({ fin: true });
    f.pending.length = 0;
    for (let i = 0; i < 40; i++) {
      const near = (): number =>
        random.below(6) - 2 + (random.chance(0.2) ? random.below(0x7fff_ffff) - 0x4000_0000 : 0);
      f.guest({
        flags: random.below(64) & (random.chance(0.7) ? ~(SYN | FIN) : 63) & (random.chance(0.9) ? ~4 : 63),
        seq: near() + (random.chance(0.5) ? f.guestNext : 1),
        ack: near() + 1,
        win: random.below(65_536),
        data: random.chance(0.5) ? random.below(100) : 0,
        urg: random.below(65_536),
        options: Array.from({ length: random.below(10) * 4 }, () => random.below(random.chance(0.5) ? 10 : 256)).slice(
          0,
          40,
        ),
        ts: false,
        mutate: () => {},
      });
      f.pending.length = 0;
      if (random.chance(0.2)) s.advance(random.below(300));
      f.pending.length = 0;
    }
    f.host.flow?.abort('killed', s.now);
    f.host.flow?.release();
    s.settle();
    f.pending.length = 0;
    well.guest({ data: 5 });
    well.drain();
    well.host.expectRead(5);
    s.advance(50);
    well.drain();
  }
  must(s.stack.stats.bugs === 0, 'bugs');
});

script(
  'TCP-RES-01 the host is out of descriptors: new flows are refused, those that stand live, service recovers',
  (s) => {
    s.establish();
    for (let i = 0; i < 20; i++) {
      const f = s.newFlow();
      f.guest(usualSyn);
      f.host.refuse('net-unreachable');
      s.expectIcmp(3, 0);
    }
    s.expectFlows(1);
    s.guest({ data: 10 });
    s.expect({ ack: 11 });
    s.host.expectRead(10);
    s.newFlow().establish();
  },
);
