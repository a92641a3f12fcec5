// Opening by the guest: rows TCP-SYN-* but for SYNs of flows that stand, and our own. RFC 9293 3.5, 3.10.7.1 to 3.10.7.4; RFC 6528.

import { Drop } from '../../src/base/drop.ts';
import { RefuseReason } from '../../src/tcp/flow.ts';
import { ACK, FIN, RST, SYN } from '../helpers/peer-frame.ts';
import { Script, script } from '../helpers/script.ts';
import { REMOTE_IP } from '../helpers/script-options.ts';
import { guestByte, streamBytes } from '../helpers/stream-pattern.ts';

const usualSyn = { syn: true, seq: 0, win: 64_240, mss: 1460, ws: 7, sackOk: true } as const;

script('TCP-SYN-01 the host first: silence while it is dialled, then one SYN-ACK with our own ISN and MSS', (s) => {
  s.guest({ ...usualSyn, ts: [100, 0] });
  s.expectSilence(50);
  s.host.accept();
  s.expect({ synAck: true, ack: 1, mss: 1460, ws: 6, sackOk: true, ts: 100 });
  s.guest({ ack: 1 });
  s.expectSilence();
  s.host.expectEstablished();
  s.guest({ data: 100 });
  s.expect({ ack: 101 });
  s.host.expectRead(100);
  s.host.write(1000);
  s.expect({ seq: 1, data: 1000, psh: true, ack: 101 });
  s.guest({ ack: 1001 });
  s.host.end();
  s.expect({ fin: true, seq: 1001, ack: 101 });
  s.guest({ fin: true });
  s.expect({ ack: 102 });
  s.host.expectEof();
  s.expectClosedCleanly();
});

script('TCP-SYN-02 SYN repeated while the host is dialled: one dial, one flow, one SYN-ACK', (s) => {
  for (let i = 0; i < 5; i++) {
    s.guest(usualSyn);
    s.expectSilence(1000);
  }
  s.expectFlows(1);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.expectSilence();
  if (s.dials !== 1) throw new Error(`${s.dials} dials`);
});

script('TCP-SYN-03 same SYN again in SYN-RECEIVED: same SYN-ACK, same ISN', (s) => {
  s.guest({ ...usualSyn, ts: [100, 0] });
  s.host.accept();
  const first = s.expect({ synAck: true, ack: 1 });
  for (let i = 0; i < 3; i++) {
    s.guest({ ...usualSyn, ts: [100, 0] });
    const again = s.expect({ synAck: true, ack: 1, ts: 100 });
    if (again.seq !== first.seq || again.win !== first.win || again.ws !== first.ws)
      throw new Error('the SYN-ACK has changed');
    if (Buffer.compare(again.frame, first.frame) !== 0) throw new Error('not the same bytes');
  }
  s.expectFlows(1);
  s.guest({ ack: 1 });
  s.expectState('ESTABLISHED');
  s.host.expectEstablished();
});

script('TCP-SYN-04 the host refuses: RST with sequence 0 that acknowledges the SYN', (s) => {
  s.guest(usualSyn);
  s.host.refuse();
  s.expectRst({ rawSeq: 0, ack: 1, win: 0 });
  s.expectClean();
});

script('TCP-SYN-04 the host refuses a SYN with data: the RST acknowledges the data too', (s) => {
  s.guest({ ...usualSyn, data: 10 });
  s.host.refuse();
  s.expectRst({ rawSeq: 0, ack: 11 });
  s.expectClean();
});

script('TCP-SYN-05 ACK to an unknown 4-tuple: RST with its acknowledgement number, no ACK bit', (s) => {
  s.guest({ seq: 1, ack: 77 });
  s.expectRst({ seq: 77, ack: false });
  s.guest({ seq: 1, ack: 500, data: 20 });
  s.expectRst({ seq: 500, ack: false });
  s.guest({ seq: 1, ack: 3, fin: true });
  s.expectRst({ seq: 3, ack: false });
  s.guest({ seq: 1, ack: 3, syn: true });
  s.expectRst({ seq: 3, ack: false });
  s.expectClean();
});

script('TCP-SYN-06 RST to an unknown 4-tuple: silence', (s) => {
  s.guest({ rst: true, seq: 1 });
  s.guest({ rst: true, seq: 1, ack: 5 });
  s.guest({ rst: true, seq: 1, ack: 5, data: 30 });
  s.expectSilence(1000);
  s.expectClean();
});

script('TCP-SYN-07 neither ACK, SYN nor RST to an unknown 4-tuple: dropped, never a flow', (s) => {
  s.guest({ flags: FIN, seq: 1 });
  s.guest({ flags: 0, seq: 1 });
  s.guest({ flags: 0, seq: 1, data: 100 });
  s.guest({ flags: FIN, seq: 1, data: 100 });
  s.expectSilence(1000);
  s.expectClean();
  if (s.dials !== 0) throw new Error('dialled');
});

script(
  'TCP-SYN-08 every flag set to a fresh 4-tuple: only a SYN without ACK, RST and FIN opens',
  { once: true },
  (s) => {
    for (let flags = 0; flags < 64; flags++) {
      const f = s.newFlow();
      f.guest({ flags, seq: 0, ack: 5 });
      const opens = (flags & (SYN | ACK | RST | FIN)) === SYN;
      if (opens !== f.host.dials > 0) throw new Error(`flags ${flags.toString(2)}: ${f.host.dials} dials`);
      if (flags & RST) f.expectNothing();
      else if (flags & ACK) f.expectRst({ seq: 5, ack: false });
      else f.expectNothing();
      if (opens) {
        f.host.refuse();
        f.expectRst();
      }
      s.expectFlows(0);
    }
    s.expectClean();
  },
);

script('TCP-SYN-09 data on a SYN reaches the host once', (s) => {
  s.guest({ ...usualSyn, data: streamBytes(guestByte, 1, 10) });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ seq: 1, ack: 1, data: 10 });
  s.expect({ ack: 11 });
  s.host.expectRead(10);
});

script('TCP-SYN-10 the window of a SYN is not scaled: the first flight keeps to it', (s) => {
  s.guest({ syn: true, seq: 0, win: 1000, mss: 500, ws: 7 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.host.write(5000);
  s.expectSilence(10);
  s.guest({ ack: 1, win: 8 });
  // 8 << 7 = 1024.
  s.expect({ seq: 1, data: 500 });
  s.expect({ seq: 501, data: 500 });
  s.expectSilence(1);
});

script('TCP-SYN-10 the window of our SYN-ACK is not scaled', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1, win: 65_535, ws: 6 });
  s.guest({ ack: 1 });
  s.guest({ data: 10 });
  const ack = s.expect({ ack: 11 });
  if (s.flow.windowOf(ack) < 65_525) throw new Error(`window ${s.flow.windowOf(ack)}`);
});

script('TCP-SYN-11 an unanswered SYN-ACK is repeated after 1, 2, 4, 8 and 16 s, then the flow is gone', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  for (const wait of [1000, 2000, 4000, 8000, 16_000]) s.expectAfter(wait, { synAck: true, ack: 1 });
  s.expectSilence(33_000);
  s.host.expectClosed('retransmit-limit');
  s.expectClean();
});

script('TCP-SYN-12 the third ACK is lost, data comes instead: it completes the handshake and is delivered', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, data: 100 });
  s.expect({ ack: 101 });
  s.host.expectEstablished();
  s.host.expectRead(100);
});

script('TCP-SYN-12 data with FIN completes the handshake too', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1, data: 100, fin: true });
  s.expect({ ack: 102 });
  s.host.expectRead(100);
  s.host.expectEof();
  s.expectState('CLOSE-WAIT');
});

script('TCP-SYN-13 wrong ACK number in SYN-RECEIVED: RST with that number, and the right one still completes', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  for (const ack of [0, 2, 100_000, -100_000]) {
    s.guest({ seq: 1, ack });
    s.expectRst({ seq: ack, ack: false });
    s.expectState('SYN-RECEIVED');
  }
  s.guest({ seq: 1, ack: 1 });
  s.expectState('ESTABLISHED');
});

script('TCP-SYN-14 RST in SYN-RECEIVED frees flow and host at once, 10,000 times over', { once: true }, (s) => {
  for (let i = 0; i < 10_000; i++) {
    const f = s.newFlow({ guestPort: 1024 + (i % 60_000) });
    f.guest(usualSyn);
    f.host.accept();
    f.expect({ synAck: true, ack: 1 });
    f.guest({ rst: true, seq: 1 });
    f.host.expectClosed('guest-reset');
    f.expectNothing();
  }
  s.expectClean();
});

script('TCP-SYN-14 a RST that is not quite right in SYN-RECEIVED frees nothing', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ rst: true, seq: 0 });
  s.expectSilence();
  s.guest({ rst: true, seq: 2 });
  s.expect({ seq: 1, ack: 1 });
  s.guest({ rst: true, seq: 200_000 });
  s.expectSilence();
  s.expectState('SYN-RECEIVED');
});

script('TCP-SYN-14 RST while the host is still dialled: the dial is given up', (s) => {
  s.guest(usualSyn);
  s.guest({ rst: true, seq: 100_000 });
  s.expectState('SYN-PENDING');
  s.guest({ rst: true, seq: 1 });
  s.host.expectClosed('guest-reset');
  s.expectClean();
});

script('TCP-SYN-15 SYN with another ISN in SYN-RECEIVED: the guest started anew, one flow comes of it', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  const first = s.host.flow;
  s.flow.renew(s.flow.guestIsn + 70_000);
  s.guest(usualSyn);
  if (s.host.flow === first) {
    s.guest(usualSyn);
    s.drain();
  }
  s.expectFlows(1);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1 });
  s.host.expectEstablished();
  s.guest({ data: 10 });
  s.expect({ ack: 11 });
  s.host.expectRead(10);
  if (s.dials !== 2) throw new Error(`${s.dials} dials`);
});

script('TCP-SYN-15 SYN with another ISN while the host is dialled takes the place of the first', (s) => {
  s.guest(usualSyn);
  s.flow.renew(s.flow.guestIsn + 70_000);
  s.guest({ ...usualSyn, mss: 1000 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ ack: 1 });
  s.host.expectEstablished();
  if (s.dials !== 1) throw new Error(`${s.dials} dials`);
});

script('TCP-SYN-22 ISNs: unguessable across 4-tuples, rising for the same one', { realIsn: true }, (s) => {
  const isns: number[] = [];
  for (let i = 0; i < 1000; i++) {
    const f = s.newFlow({ guestPort: 2000 + i });
    f.guest(usualSyn);
    f.host.accept();
    isns.push(f.expect({ synAck: true, ack: 1 }).seq);
    f.guest({ rst: true, seq: 1 });
  }
  const steps = new Map<number, number>();
  for (let i = 1; i < isns.length; i++) {
    const step = (isns[i]! - isns[i - 1]!) | 0;
    steps.set(step, (steps.get(step) ?? 0) + 1);
  }
  if (Math.max(...steps.values()) > 2) throw new Error('a constant step between 4-tuples');
  if (new Set(isns).size < 990) throw new Error('ISNs repeat');
  const f = s.newFlow();
  let last: number | undefined;
  for (let i = 0; i < 48; i++) {
    f.renew(1 + i * 10_000);
    f.guest(usualSyn);
    f.host.accept();
    const isn = f.expect({ synAck: true, ack: 1 }).seq;
    if (last !== undefined && ((isn - last) | 0) <= 0) throw new Error('the ISN did not rise');
    last = isn;
    f.guest({ rst: true, seq: 1 });
    s.advance(5000);
  }
});

script('TCP-SYN-22 two stacks with other keys choose other ISNs', { realIsn: true, once: true }, (s) => {
  const other = new Script({ realIsn: true, seed: 99 }, 1, 1);
  const isns = [s, other].map((one) => {
    one.guest(usualSyn);
    one.host.accept();
    return one.expect({ synAck: true, ack: 1 }).seq;
  });
  other.finish();
  if (isns[0] === isns[1]) throw new Error('the same ISN');
});

script('TCP-SYN-23 SYN to nobody, everybody or oneself is dropped silently', (s) => {
  const nobody = [0, 0x7f000001, 0xe0000001, 0xffffffff, 0xc0a841ff, s.guestIp];
  for (const remote of nobody) s.newFlow({ remote, guestPort: 80 }).guest(usualSyn);
  const from = [0, 0x7f000001, 0xe0000001, 0xffffffff, 0xc0a841ff, REMOTE_IP];
  for (const source of from) {
    s.guest({
      ...usualSyn,
      mutate: (frame) => {
        new DataView(frame.buffer).setUint32(26, source);
        fixChecksums(frame);
      },
    });
  }
  s.expectSilence(100);
  s.expectClean();
  if (s.dials !== 0) throw new Error(`${s.dials} dials`);
});

/** IPv4 and TCP checksums of a changed frame. */
function fixChecksums(frame: Uint8Array): void {
  const view = new DataView(frame.buffer);
  const sum = (bytes: Uint8Array, start: number): number => {
    let total = start;
    for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
    while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
    return ~total & 0xffff;
  };
  view.setUint16(24, 0);
  view.setUint16(24, sum(frame.subarray(14, 34), 0));
  view.setUint16(50, 0);
  let pseudo = 6 + frame.length - 34;
  for (let i = 26; i < 34; i += 2) pseudo += view.getUint16(i);
  view.setUint16(50, sum(frame.subarray(34), pseudo));
}

for (const limits of [{ pendingMax: 50 }, { pendingPerVm: 50 }]) {
  const cap = Object.keys(limits)[0]!;
  script(
    `TCP-SYN-24 opens in progress are capped (${cap}): above that silence, and room again when they end`,
    { limits, once: true },
    (s) => {
      const live = s.newFlow();
      live.establish();
      const flood = Array.from({ length: 80 }, () => s.newFlow());
      for (const f of flood) f.guest(usualSyn);
      if (s.dials !== 51) throw new Error(`${s.dials} dials`);
      if (s.stack.stats.drops.get(Drop.TcpSynLimit) !== 30) throw new Error('not counted');
      live.guest({ data: 10 });
      live.expect({ ack: 11 });
      flood[79]!.guest(usualSyn);
      s.expectSilence();
      flood[0]!.host.refuse();
      flood[0]!.expectRst();
      flood[79]!.guest(usualSyn);
      flood[79]!.host.accept();
      flood[79]!.expect({ synAck: true, ack: 1 });
    },
  );
}

script('TCP-SYN-24 all flows are capped too', { limits: { flowsMax: 3 }, once: true }, (s) => {
  for (let i = 0; i < 3; i++) s.newFlow().establish();
  s.guest(usualSyn);
  s.expectSilence();
  if (s.stack.stats.drops.get(Drop.TcpFlowLimit) !== 1) throw new Error('not counted');
});

for (const [reason, code] of [
  [RefuseReason.NetUnreachable, 0],
  [RefuseReason.HostUnreachable, 1],
  [RefuseReason.Prohibited, 13],
] as const) {
  script(`TCP-SYN-25 the host says ${reason}: ICMP 3/${code} that quotes the SYN, nothing left`, (s) => {
    s.guest(usualSyn);
    s.host.refuse(reason);
    const icmp = s.expectIcmp(3, code);
    const quote = new DataView(icmp.quote.buffer, icmp.quote.byteOffset);
    if (quote.getUint32(12) !== s.guestIp || quote.getUint32(16) !== REMOTE_IP)
      throw new Error('wrong addresses quoted');
    if (quote.getUint16(20) !== s.flow.guestPort || quote.getUint16(22) !== 80) throw new Error('wrong ports quoted');
    if (quote.getUint32(24) !== s.flow.guestIsn) throw new Error('wrong sequence number quoted');
    s.expectClean();
  });
}

script('TCP-SYN-25 the host never answers the dial: the guest gets a RST after three minutes', (s) => {
  s.guest(usualSyn);
  s.expectAfter(180_000, { rst: true, ack: 1 });
  s.host.expectClosed('unreachable');
  s.expectClean();
});

script('TCP-SYN-26 port 0 as source or destination: no flow, no dial', (s) => {
  s.newFlow({ guestPort: 0 }).guest(usualSyn);
  s.newFlow({ remotePort: 0 }).guest(usualSyn);
  s.expectSilence();
  s.expectClean();
  if (s.dials !== 0) throw new Error('dialled');
});

script('TCP-SYN-27 a Fast Open cookie request is ignored', (s) => {
  s.guest({ ...usualSyn, options: [34, 2, 1, 1], data: 10 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ seq: 1, ack: 1, data: 10 });
  s.expect({ ack: 11 });
  s.host.expectRead(10);
});

script('TCP-SYN-28 the host ends before the third ACK: FIN once established', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.host.end();
  s.expectSilence(10);
  s.guest({ ack: 1 });
  s.expect({ fin: true, seq: 1 });
  s.guest({ ack: 2, fin: true });
  s.expect({ ack: 2 });
  s.expectClosedCleanly();
});

script('TCP-SYN-28 the host writes and ends before the third ACK: data, then FIN', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.host.write(100);
  s.host.end();
  s.expectSilence(10);
  s.guest({ ack: 1 });
  s.expect({ fin: true, seq: 1, data: 100 });
});

script('TCP-SYN-28 the host resets before the third ACK: RST, no orphan', (s) => {
  s.guest(usualSyn);
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.host.reset();
  s.expectRst({ seq: 1, ack: 1 });
  s.expectClean();
  s.guest({ ack: 1 });
  s.expectRst({ seq: 1, ack: false });
});
