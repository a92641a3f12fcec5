// The view over a TCP header, and the round-trip estimator by itself. RFC 9293 3.1, 3.2; RFC 6298.

import fc from 'fast-check';
import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { RttEstimator } from '../../src/tcp/rtt.ts';
import { emitTcpHeader, emitTimestamps, SegmentView } from '../../src/tcp/segment.ts';
import { tcpOptions, tcpSegment } from '../helpers/peer-frame.ts';

t.test('property: what is emitted is read', async () => {
  const u16 = fc.nat(0xffff);
  const i32 = fc.integer();
  fc.assert(
    fc.property(
      u16,
      u16,
      i32,
      i32,
      fc.nat(63),
      u16,
      fc.boolean(),
      fc.nat(30),
      (sport, dport, seq, ack, flags, wnd, ts, data) => {
        const header = ts ? 32 : 20;
        const buf = new Uint8Array(100).fill(0xee);
        emitTcpHeader(buf, 7, sport, dport, seq, ack, header, flags, wnd);
        if (ts) emitTimestamps(buf, 27, seq, ack);
        const v = new SegmentView();
        if (v.wrap(buf, 7, 7 + header + data) !== Drop.None) return false;
        return (
          v.srcPort === sport &&
          v.dstPort === dport &&
          v.segSeq === seq &&
          v.segAck === ack &&
          v.flags === flags &&
          v.segWnd === wnd &&
          v.payloadOff === 7 + header &&
          v.payloadLen === data &&
          v.hasTs === ts &&
          v.tsVal === (ts ? seq : 0) &&
          v.tsEcr === (ts ? ack : 0) &&
          v.segLen === data + ((flags >> 1) & 1) + (flags & 1)
        );
      },
    ),
  );
});

t.test('property: options in any order and padding are read as they were meant', async () => {
  fc.assert(
    fc.property(
      fc.option(fc.nat(0xffff), { nil: undefined }),
      fc.option(fc.nat(255), { nil: undefined }),
      fc.boolean(),
      fc.option(fc.tuple(fc.nat(), fc.nat()), { nil: undefined }),
      fc.nat(3),
      (mss, ws, sackOk, ts, nops) => {
        const options = tcpOptions({
          raw: new Array<number>(nops).fill(1),
          ...(mss !== undefined && { mss }),
          ...(ws !== undefined && { ws }),
          ...(ts !== undefined && { ts }),
          sackOk,
        });
        const s = tcpSegment({
          src: 1,
          dst: 2,
          srcPort: 3,
          dstPort: 4,
          seq: 5,
          ack: 6,
          flags: 2,
          win: 7,
          options,
          payload: new Uint8Array(3),
        });
        const v = new SegmentView();
        if (v.wrap(s, 0, s.length) !== Drop.None) return false;
        return (
          v.mss === (mss ?? -1) &&
          v.wndShift === (ws ?? -1) &&
          v.sackPermitted === sackOk &&
          v.hasTs === (ts !== undefined) &&
          (ts === undefined || (v.tsVal >>> 0 === ts[0] && v.tsEcr >>> 0 === ts[1])) &&
          v.payloadLen === 3
        );
      },
    ),
  );
});

t.test('property: no bytes make it throw or look outside of the segment', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 90 }), fc.nat(20), (bytes, shift) => {
      const at = 13;
      const frame = new Uint8Array(at + bytes.length + 60).fill(0x01 + shift);
      frame.set(bytes, at);
      const other = frame.slice();
      other.fill(0xf0, 0, at);
      other.fill(0xf0, at + bytes.length);
      const a = new SegmentView();
      const b = new SegmentView();
      const end = at + bytes.length;
      const drop = a.wrap(frame, at, end);
      if (b.wrap(other, at, end) !== drop) return false;
      if (drop !== Drop.None) return true;
      const fields = (v: SegmentView): unknown[] => [
        v.mss,
        v.wndShift,
        v.sackPermitted,
        v.hasTs,
        v.tsVal,
        v.tsEcr,
        v.sackCount,
        ...v.sack.slice(0, 2 * v.sackCount),
      ];
      return (
        fields(a).join() === fields(b).join() &&
        a.payloadOff <= end &&
        a.payloadOff + a.payloadLen === end &&
        a.sackCount <= 4
      );
    }),
    { numRuns: 2000 },
  );
});

t.test('a view that is used again forgets what it knew', async (t) => {
  const v = new SegmentView();
  const options = tcpOptions({ mss: 1000, ws: 3, sackOk: true, ts: [1, 2] });
  const common = { src: 1, dst: 2, srcPort: 3, dstPort: 4, seq: 5, ack: 6, win: 7, payload: new Uint8Array(0) };
  const syn = tcpSegment({ ...common, flags: 2, options });
  v.wrap(syn, 0, syn.length);
  const sack = tcpSegment({ ...common, flags: 16, options: tcpOptions({ sack: [[1, 2]] }) });
  v.wrap(sack, 0, sack.length);
  t.same([v.mss, v.wndShift, v.sackPermitted, v.hasTs, v.tsVal, v.sackCount], [-1, -1, false, false, 0, 1]);
  const plain = tcpSegment({ ...common, flags: 16, options: new Uint8Array(0) });
  v.wrap(plain, 0, plain.length);
  t.same([v.hasTs, v.sackCount], [false, 0]);
});

t.test('TCP-RTO-01 the estimator by the formulas of RFC 6298 2, floor and ceiling', async (t) => {
  const rtt = new RttEstimator(DEFAULT_TCP_LIMITS);
  t.equal(rtt.rto, 1000);
  rtt.sample(400, 0);
  t.same([rtt.srtt, rtt.rttVar, rtt.rto], [400, 200, 1200]);
  rtt.sample(200, 0);
  t.same([rtt.srtt, rtt.rttVar, rtt.rto], [375, 200, 1175]);
  rtt.backOff();
  t.equal(rtt.rto, 2350);
  rtt.reset();
  t.equal(rtt.rto, 1175);
  for (let i = 0; i < 20; i++) rtt.backOff();
  t.equal(rtt.rto, 60_000);
  rtt.sample(-1, 0);
  t.equal(rtt.srtt, 375, 'a negative sample is none');
  for (let i = 0; i < 100; i++) rtt.sample(0.3, i);
  t.equal(rtt.rto, 200);
});

t.test('without a sample a back-off stays', async (t) => {
  const rtt = new RttEstimator(DEFAULT_TCP_LIMITS);
  rtt.backOff();
  rtt.reset();
  t.equal(rtt.rto, 2000);
});

t.test('the smallest round trip is believed for five minutes (RFC 8985 6.2)', async (t) => {
  const rtt = new RttEstimator(DEFAULT_TCP_LIMITS);
  t.equal(rtt.minRtt, Number.POSITIVE_INFINITY);
  rtt.sample(10, 0);
  rtt.sample(30, 1000);
  t.equal(rtt.minRtt, 10);
  rtt.sample(30, 301_000);
  t.equal(rtt.minRtt, 30);
});
