// What a segment costs in the stack, from the frame as the link read it to the ring and to the answer in the batch, and the other way; and
// what a flow costs. No socket is in it. In each figure is the numbering of the guest's frames (20 ns each: base/kernel.bench.ts).
//
//   npm run bench -- stack/tcp

import { type BenchCase, runSuite } from '../suite.ts';
import { type Talk, TcpRig } from './tcp-rig.ts';

const cases: BenchCase[] = [];
/** A guest's clock goes on: deadlines of acknowledgements come and go as in life. */
const TICK_MS = 0.05;
/** Source ports of flows that are only there. */
const FIRST_PORT = 10_000;
/** Reads after which a window that has not grown will not. */
const WARM_RUNS = 1000;

/** Data of a guest, `count` segments in one read: taken in, handed to the owner, acknowledged. */
function receiving(mtu: number, payload: number, count: number): BenchCase {
  const rig = new TcpRig(mtu);
  const talk = rig.open(40_000);
  let ran = 0;
  let warmed = 0;
  const warm = (n: number): void => {
    rig.write({ ...talk, fields: { ...talk.fields, ack: talk.c.sndNxt } }, n, payload);
    talk.seq = (talk.seq + n * payload) | 0;
    rig.now += TICK_MS;
    rig.read();
  };
  const run = (): number => {
    rig.number(talk.seq, payload, talk.c.sndNxt);
    talk.seq = (talk.seq + count * payload) | 0;
    rig.now += TICK_MS;
    rig.read();
    ran++;
    return talk.owner.taken;
  };
  const right = (): string | undefined => {
    const arrived = talk.owner.taken - warmed;
    if (arrived !== ran * count * payload) return `${arrived} bytes arrived of ${ran * count * payload}`;
    return talk.c.rcvNxt === talk.seq ? undefined : 'the connection is elsewhere';
  };
  const check = (): string | undefined => {
    // The window has to grow before so much may be sent at once.
    for (let i = 0; i < WARM_RUNS && ((talk.c.rcvAdv - talk.c.rcvNxt) | 0) < count * payload; i++) {
      warm(Math.floor(((talk.c.rcvAdv - talk.c.rcvNxt) | 0) / payload));
    }
    rig.write(talk, count, payload);
    warmed = talk.owner.taken;
    run();
    return right();
  };
  const how = count === 1 ? 'alone in its read' : `one of ${count} in a read`;
  return { name: `in: a segment of ${payload} B, ${how}`, perRun: count, check, run, checkAfter: right };
}

/** Data of the host, `count` segments in one turn, acknowledged by the guest `acks` times. */
function sending(mtu: number, mss: number, count: number, acks: number, what: string): BenchCase {
  const rig = new TcpRig(mtu);
  const talk = rig.open(40_001);
  const { c } = talk;
  const turn = (bytes: number): void => {
    if (c.write(rig.mem, rig.data, bytes, rig.now) !== bytes) throw new Error('the ring is full');
    rig.stack.onEndTurn(rig.now);
  };
  /** Everything that is out is acknowledged. */
  const acknowledge = (times: number, step: number): void => {
    const first = (c.sndNxt - (times - 1) * step) | 0;
    rig.number(talk.seq, 0, first, step);
    rig.now += TICK_MS;
    rig.read();
  };
  const warm = (): void => {
    // The congestion window is to hold all of it.
    rig.write(talk, 1, 0);
    for (let i = 0; i < 40; i++) {
      turn(mss);
      acknowledge(1, 0);
    }
    for (let i = 2; i <= count; i++) {
      for (let n = 0; n < i; n++) turn(mss);
      acknowledge(1, 0);
    }
    rig.write(talk, acks, 0);
  };
  const inOneTurn = what !== 'alone in its turn';
  const run = (): number => {
    rig.now += TICK_MS;
    if (inOneTurn) turn(count * mss);
    else for (let i = 0; i < count; i++) turn(mss);
    acknowledge(acks, acks === 1 ? 0 : mss);
    return rig.egress.bytes;
  };
  const right = (): string | undefined =>
    c.sndNxt === c.sndUna && c.snd.used === 0 ? undefined : `${(c.sndNxt - c.sndUna) | 0} bytes are not acknowledged`;
  const check = (): string | undefined => {
    warm();
    const { frames, bytes } = rig.egress;
    run();
    const sent = rig.egress.frames - frames;
    if (sent !== count) return `${sent} segments were sent`;
    if (rig.egress.bytes - bytes !== count * (mss + 66)) return 'they are of another length';
    return right();
  };
  return { name: `out: a segment of ${mss} B, ${what}`, perRun: count, check, run, checkAfter: right };
}

/** Acknowledgements that carry nothing else, each of something new, in reads of their own: none is passed over. */
function acknowledgements(): BenchCase {
  const mss = 1448;
  const count = 32;
  const rig = new TcpRig(1500);
  const talk = rig.open(40_002);
  const { c } = talk;
  const run = (): number => {
    rig.now += TICK_MS;
    if (c.write(rig.mem, rig.data, count * mss, rig.now) !== count * mss) throw new Error('the ring is full');
    rig.stack.onEndTurn(rig.now);
    const una = c.sndUna;
    for (let i = 1; i <= count; i++) {
      rig.number(talk.seq, 0, (una + i * mss) | 0);
      rig.read();
    }
    return c.sndUna;
  };
  const right = (): string | undefined => (c.sndNxt === c.sndUna ? undefined : 'not all is acknowledged');
  const check = (): string | undefined => {
    rig.write(talk, 1, 0);
    for (let i = 0; i < 20; i++) run();
    const before = rig.stack.stats.tcp.segmentsFromGuest;
    run();
    return rig.stack.stats.tcp.segmentsFromGuest - before === count ? right() : 'not all were heard';
  };
  const name = 'an acknowledgement in a read of its own, and its segment';
  return { name, perRun: count, check, run, checkAfter: right };
}

/** Request and answer, as small messages are. */
function exchange(): BenchCase {
  const bytes = 64;
  const rig = new TcpRig(1500);
  const talk = rig.open(40_003);
  const { c } = talk;
  let ran = 0;
  rig.write(talk, 1, bytes);
  const run = (): number => {
    rig.now += TICK_MS;
    rig.number(talk.seq, bytes, c.sndNxt);
    talk.seq = (talk.seq + bytes) | 0;
    rig.read();
    c.write(rig.mem, rig.data, bytes, rig.now);
    rig.stack.onEndTurn(rig.now);
    ran++;
    return rig.egress.bytes;
  };
  const right = (): string | undefined =>
    talk.owner.taken === ran * bytes && ((c.sndNxt - c.sndUna) | 0) === bytes ? undefined : 'a message is missing';
  const check = (): string | undefined => {
    run();
    return right();
  };
  return { name: 'a request of 64 B and its answer', perRun: 1, check, run, checkAfter: right };
}

function lookup(flows: number): BenchCase {
  const rig = new TcpRig(1500);
  const { table } = rig.stack.tcp;
  const connections: unknown[] = [];
  let talk: Talk | undefined;
  let next = 0;
  let [src, dst, dstPort] = [0, 0, 0];
  const run = (): unknown => {
    next = (next + 7919) % flows;
    const it = table.find4(src, FIRST_PORT + next, dst, dstPort);
    if (it !== connections[next]) throw new Error('another flow');
    return it;
  };
  const check = (): string | undefined => {
    for (let i = 0; i < flows; i++) {
      talk = rig.open(FIRST_PORT + i);
      connections.push(talk.c);
    }
    ({ src, dst, dstPort } = talk!.fields);
    run();
    return table.size === flows && table.find4(1, 2, 3, 4) === undefined ? undefined : 'the table is not right';
  };
  return { name: `flow lookup, one of ${flows}`, perRun: 1, check, run };
}

/** SYN, the host's answer, FIN both ways, with so many others held. */
function lives(held: number): BenchCase {
  const rig = new TcpRig(1500);
  const { stats, tcp } = rig.stack;
  let port = 0;
  let ran = 0;
  const run = (): number => {
    port = (port + 1) % 20_000;
    rig.now += TICK_MS;
    const talk = rig.open(40_000 + port);
    rig.close(talk);
    if (talk.owner.closed !== 'done') throw new Error(`the flow ended with ${talk.owner.closed}`);
    ran++;
    return tcp.table.size;
  };
  const right = (): string | undefined =>
    stats.tcp.passiveOpens === ran + held && tcp.table.size === held && tcp.opening === 0
      ? undefined
      : 'flows are left';
  const check = (): string | undefined => {
    for (let i = 0; i < held; i++) rig.open(FIRST_PORT + i);
    run();
    return right();
  };
  return { name: `a new flow and its end, beside ${held}`, perRun: 1, check, run, checkAfter: right };
}

cases.push(
  receiving(1500, 1448, 1),
  receiving(1500, 1448, 64),
  receiving(1500, 64, 64),
  receiving(65_520, 65_468, 1),
  receiving(65_520, 65_468, 3),
  sending(1500, 1448, 16, 1, 'alone in its turn'),
  sending(1500, 1448, 32, 1, 'one of 32 in a turn'),
  sending(1500, 1448, 32, 16, 'one of 32, acknowledged in 16'),
  // No segment is longer than half of the guest's first window (tcp/handshake.ts).
  sending(65_520, 32_755, 6, 1, 'one of 6 in a turn'),
  acknowledgements(),
  exchange(),
  lookup(1),
  lookup(10_000),
  lives(0),
  lives(10_000),
);
runSuite('TCP in the stack', cases);
