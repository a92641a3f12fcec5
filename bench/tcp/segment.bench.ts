// What parsing one segment costs, and what sequence of options makes of it.
//
//   npm run bench -- tcp

import { Drop } from '../../src/base/drop.ts';
import { emitTcpHeader, emitTimestamps, FLAG_ACK, FLAG_SYN, SegmentView } from '../../src/tcp/segment.ts';
import { runSuite } from '../suite.ts';

const mem = new Uint8Array(1 << 16);
emitTcpHeader(mem, 0, 80, 40_000, 1, 2, 32, FLAG_ACK, 1000);
emitTimestamps(mem, 20, 7, 8);
emitTcpHeader(mem, 2048, 80, 40_000, 1, 0, 40, FLAG_SYN, 1000);
mem.set([2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7], 2048 + 20);
emitTcpHeader(mem, 4096, 80, 40_000, 1, 2, 20, FLAG_ACK, 1000);
const seg = new SegmentView();

runSuite('tcp', [
  {
    name: 'parse a segment with timestamps, 1,448 B',
    perRun: 1,
    check: () =>
      seg.wrap(mem, 0, 1480) === Drop.None && seg.tsVal === 7 && seg.payloadLen === 1448 ? undefined : 'misread',
    run: () => seg.wrap(mem, 0, 1480) + seg.tsVal,
  },
  {
    name: 'parse a segment without options',
    perRun: 1,
    check: () => (seg.wrap(mem, 4096, 5556) === Drop.None && seg.payloadLen === 1440 ? undefined : 'misread'),
    run: () => seg.wrap(mem, 4096, 5556) + seg.segAck,
  },
  {
    name: 'parse a SYN with four options',
    perRun: 1,
    check: () =>
      seg.wrap(mem, 2048, 2088) === Drop.None && seg.mss === 1460 && seg.wndShift === 7 ? undefined : 'misread',
    run: () => seg.wrap(mem, 2048, 2088) + seg.mss,
  },
]);
