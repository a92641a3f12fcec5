// Structure-aware fuzz: frames of every protocol, bent in one place or many, with their checksums put right in half of the cases, into a
// stack whose flows are in every state, with a neighbour who must not notice.
//
// ISTHMUS_FUZZ_RUNS and ISTHMUS_FUZZ_SEED make it longer, or replay what failed.

import fc from 'fast-check';
import t from 'tap';
import { State } from '../../src/tcp/state.ts';
import {
  ALIAS,
  address,
  establish,
  FakeOwner,
  type FakeVm,
  GATEWAY,
  GATEWAY_MAC,
  OUTSIDE,
  Rig,
  segment,
  type Talk,
} from './fake-link.ts';
import { ACK, arp, BROADCAST, checksum, ethernet, FIN, icmp, ipv4, PSH, SYN, tcp, udp } from './frames.ts';

const RUNS = Number(process.env.ISTHMUS_FUZZ_RUNS ?? 250);
const SEED = Number(process.env.ISTHMUS_FUZZ_SEED ?? 20_240_601);
const SLAB_BYTES = 8 * 1024 * 1024;

/** A world with flows of the attacker in every state, and one of the bystander. */
interface World {
  rig: Rig;
  a: FakeVm;
  b: FakeVm;
  flows: Talk[];
  safe: Talk;
  /** Slab bytes before there was a flow. */
  before: number;
  safeSent: number;
}

const bytes = (length: number): Uint8Array => new Uint8Array(length).map((_, i) => i);

function world(): World {
  const rig = new Rig({ slabBytes: SLAB_BYTES });
  const [a, b] = [rig.vm(3, { mtu: 9000 }), rig.vm(4)];
  for (const vm of [a, b]) vm.send(vm.arp({ targetIp: GATEWAY }));
  const before = rig.slab.usedBytes;
  const safe = establish(b, 50_000);
  const flows: Talk[] = [];
  const open = (port: number): Talk => {
    const talk = establish(a, port);
    flows.push(talk);
    return talk;
  };
  const data = (talk: Talk): void => {
    talk.owner.flow.write(bytes(4000), 0, 4000, rig.now);
    rig.turn();
  };
  open(1001);
  data(open(1002));
  const held = open(1003);
  held.owner.reading = false;
  a.send(segment(held, ACK | PSH, 'unread'));
  // A hole, with data behind it.
  const holed = open(1004);
  a.send(
    segment({ ...holed, seq: holed.seq + 10 }, ACK, 'beyond'),
    segment({ ...holed, seq: holed.seq + 30 }, ACK, 'further'),
  );
  const finWait1 = open(1005);
  data(finWait1);
  finWait1.owner.flow.shutdown(rig.now);
  const finWait2 = open(1006);
  finWait2.owner.flow.shutdown(rig.now);
  rig.turn();
  a.send(segment({ ...finWait2, ack: finWait2.ack + 1 }, ACK));
  const closeWait = open(1007);
  a.send(segment(closeWait, ACK | FIN));
  const lastAck = open(1008);
  a.send(segment(lastAck, ACK | FIN));
  lastAck.owner.flow.shutdown(rig.now);
  const timeWait = open(1009);
  timeWait.owner.flow.shutdown(rig.now);
  rig.turn();
  a.send(segment({ ...timeWait, ack: timeWait.ack + 1 }, ACK | FIN));
  // SYN-RECEIVED, an open that the host has not answered, and SYN-SENT.
  for (const [port, accept] of [
    [1010, true],
    [1011, false],
  ] as const) {
    rig.onSyn = (owner) => accept && owner.flow.accept(rig.now);
    const answers = a.send(
      a.tcp(OUTSIDE, { srcPort: port, dstPort: 80, seq: 1000, flags: SYN, options: [2, 4, 5, 180] }),
    );
    const synAck = answers.find((f) => f.tcp?.dstPort === port);
    flows.push({
      vm: a,
      owner: rig.flows.at(-1)!,
      dst: OUTSIDE,
      srcPort: port,
      dstPort: 80,
      seq: 1001,
      ack: (synAck?.tcp?.seq ?? 0) + 1,
    });
  }
  const active = new FakeOwner(rig.stack.connect(address(GATEWAY), address(a.ip), 22, rig.now)!);
  rig.turn();
  const syn = a.take().find((f) => f.tcp?.dstPort === 22)!.tcp!;
  flows.push({ vm: a, owner: active, dst: GATEWAY, srcPort: 22, dstPort: syn.srcPort, seq: 9000, ack: syn.seq + 1 });
  rig.onSyn = (owner) => owner.flow.accept(rig.now);
  // The first fragment of something.
  a.send(a.packet({ dst: GATEWAY, protocol: 1, id: 77, flags: 0x2000 }, bytes(1480)));
  a.take();
  b.take();
  return { rig, a, b, flows, safe, before, safeSent: 0 };
}

/** Frame number `kind` as its sender would have written it; `n` varies what is inside. */
function template(w: World, kind: number, n: number): Uint8Array {
  const { a, b } = w;
  const talk = w.flows[n % w.flows.length]!;
  const dsts = [GATEWAY, ALIAS, OUTSIDE, b.ip, '192.168.65.77', '255.255.255.255'];
  const dst = dsts[n % dsts.length]!;
  const payload = bytes([0, 1, 40, 1400, 8900][n % 5]!);
  const datagram = (src: string, to: string, srcPort: number, dstPort: number): Uint8Array =>
    ipv4({ src, dst: to, protocol: 17 }, udp({ src, dst: to, srcPort, dstPort }, payload));
  switch (kind) {
    case 0:
      return ethernet(
        n & 1 ? BROADCAST : GATEWAY_MAC,
        a.mac,
        0x0806,
        arp({ op: (n % 2) + 1, senderMac: a.mac, senderIp: n & 4 ? a.ip : '0.0.0.0', targetIp: dst }),
      );
    case 1:
      // Half of them without a checksum, which then says nothing of a wrong length.
      return a.packet(
        { dst, protocol: 17 },
        udp(
          { src: a.ip, dst, srcPort: 1024 + n, dstPort: [53, 67, 123, 9][n % 4]!, ...(n & 16 ? { checksum: 0 } : {}) },
          payload,
        ),
      );
    case 2:
      return ethernet(BROADCAST, a.mac, 0x0800, datagram('0.0.0.0', '255.255.255.255', 68, 67));
    case 3:
      return a.ping(dst, payload, n % 3);
    case 4:
      return a.packet(
        { dst: GATEWAY, protocol: [1, 6, 17][n % 3]!, id: 70 + (n % 9), flags: (n * 37) & 0x20ff },
        payload,
      );
    case 15: {
      // Pieces of echo requests and datagrams that make a whole if nobody bends them.
      const whole =
        n & 8 ? icmp(8, 0, 1, bytes(2000)) : udp({ src: a.ip, dst: OUTSIDE, srcPort: 9, dstPort: 9 }, bytes(2000));
      const [start, end] = [
        [0, 800],
        [800, 1480],
        [1480, 2008],
        [0, 1480],
      ][n & 3]!;
      const flags = (start! >>> 3) | (end! < 2008 ? 0x2000 : 0);
      const to = n & 8 ? GATEWAY : OUTSIDE;
      return a.packet(
        { dst: to, protocol: n & 8 ? 1 : 17, id: 40 + ((n >> 2) & 1), flags },
        whole.subarray(start, end),
      );
    }
    case 5: {
      // An error about a segment that we may have sent.
      const t = tcp({
        src: talk.dst,
        dst: a.ip,
        srcPort: talk.dstPort,
        dstPort: talk.srcPort,
        seq: talk.ack,
        flags: ACK,
      });
      return a.packet(
        { dst: GATEWAY, protocol: 1 },
        icmp(3, n % 6, 500 + n, ipv4({ src: talk.dst, dst: a.ip, protocol: 6 }, t)),
      );
    }
    case 6:
      return a.tcp(OUTSIDE, {
        srcPort: 2000 + (n % 50),
        dstPort: 80,
        seq: n,
        flags: SYN,
        options: [2, 4, n & 255, 180, 1, 3, 3, n & 15, 4, 2, 8, 10, 0, 0, 0, n, 0, 0, 0, 0, 0, 0].slice(0, 20),
      });
    case 7:
      return ethernet(n & 1 ? b.mac : BROADCAST, a.mac, 0x0800, datagram(a.ip, b.ip, 5, 6));
    case 8:
      // Options with a SACK block near what is in flight.
      return segment(talk, ACK, '', {
        ack: talk.ack,
        options: [1, 1, 5, 10, ...word(talk.ack + (n % 3000)), ...word(talk.ack + 4000)],
      });
    default: {
      const near = [0, 0, 0, 1, -1, 10, 30, 60_000, -60_000, 2 ** 31][n % 10]!;
      const nearAck = [0, 0, 1, 2, 1460, 4000, 4001, 5000, -1, 2 ** 31][(n >> 3) % 10]!;
      const flags = [ACK, ACK | PSH, ACK | FIN, SYN, SYN | ACK, ACK | 4, 4, n & 63][(n >> 5) % 8]!;
      const more = { seq: (talk.seq + near) | 0, ack: (talk.ack + nearAck) | 0, wnd: [65_535, 0, 1, 1000][n % 4]! };
      return segment(talk, flags, 'x'.repeat([0, 1, 20, 1400][(n >> 2) % 4]!), more);
    }
  }
}

function word(v: number): number[] {
  return [(v >>> 24) & 255, (v >>> 16) & 255, (v >>> 8) & 255, v & 255];
}

/** Puts IPv4 and transport checksums right, as far as the lengths of the frame make sense. */
function repair(frame: Uint8Array): void {
  const put = (at: number, sum: number): void => frame.set([sum >>> 8, sum & 255], at);
  if (frame.length < 34 || frame[12] !== 8 || frame[13] !== 0) return;
  const header = (frame[14]! & 15) * 4;
  const end = 14 + Math.min((frame[16]! << 8) | frame[17]!, frame.length - 14);
  if (header < 20 || 14 + header > end) return;
  put(24, 0);
  put(24, checksum(frame.subarray(14, 14 + header)));
  const body = frame.subarray(14 + header, end);
  const at = { 1: 2, 6: 16, 17: 6 }[frame[23]!];
  if (at === undefined || body.length < at + 2) return;
  put(14 + header + at, 0);
  const pseudo = [...frame.subarray(26, 34), 0, frame[23]!, body.length >>> 8, body.length & 255];
  put(14 + header + at, checksum(...(frame[23] === 1 ? [] : [pseudo]), body));
}

interface Step {
  kind: number;
  n: number;
  /** Where, and to what. Mostly headers; `at` may lie behind the end. */
  bends: [number, number][];
  /** Bytes cut from the end (negative: put behind it). */
  cut: number;
  fix: boolean;
  inSlab: boolean;
  /** Goes in with the next frame, as one read. */
  joined: boolean;
  waitMs: number;
  link: 'as it is' | 'refuses' | 'drains';
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 14 }) }, { weight: 1, arbitrary: fc.constant(15) }),
  n: fc.nat(4095),
  bends: fc.array(
    fc.tuple(
      fc.oneof(
        { weight: 8, arbitrary: fc.nat(80) },
        { weight: 1, arbitrary: fc.nat(9000) },
        // Lengths: of the packet, of the header, of the datagram, of the segment's header.
        { weight: 4, arbitrary: fc.constantFrom(16, 17, 14, 38, 39, 46) },
      ),
      fc.oneof(fc.constantFrom(0, 1, 4, 5, 0x45, 0x7f, 0x80, 0xff), fc.nat(255)),
    ),
    { maxLength: 4 },
  ),
  cut: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: -60, max: 80 }) }),
  fix: fc.boolean(),
  inSlab: fc.boolean(),
  joined: fc.boolean(),
  waitMs: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 0, max: 15 }) },
    { weight: 1, arbitrary: fc.constantFrom(200, 3000, 40_000) },
  ),
  link: fc.oneof(
    { weight: 12, arbitrary: fc.constant('as it is' as const) },
    fc.constantFrom('refuses' as const, 'drains' as const),
  ),
});

function frameOf(w: World, s: Step): Uint8Array {
  const frame = template(w, s.kind, s.n);
  for (const [at, value] of s.bends) if (at < frame.length) frame[at] = value;
  const bent = new Uint8Array(Math.max(0, frame.length - s.cut));
  bent.set(frame.subarray(0, bent.length));
  if (s.fix) repair(bent);
  return bent;
}

function must(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

/** The bystander's flow takes a byte and gives one, whatever has happened around it. */
function checkBystander(w: World): void {
  const { rig, safe, b } = w;
  const text = `${w.safeSent % 10}`;
  b.send(segment(safe, ACK | PSH, text));
  safe.seq++;
  w.safeSent++;
  must(safe.owner.received.length === w.safeSent && safe.owner.received.endsWith(text), 'the bystander is heard');
  must(safe.owner.flow.write(bytes(1), 0, 1, rig.now) === 1, 'the bystander is written to');
  rig.turn();
  const got = b.take().filter((f) => f.tcp?.dstPort === safe.srcPort && f.tcp.payload.length > 0);
  must(got.length >= 1 && got[0]!.tcp!.seq === safe.ack, 'the bystander gets its byte');
  safe.ack = (safe.ack + 1) | 0;
  b.send(segment(safe, ACK));
  b.take();
}

/** Whether the canaries around a frame show in what was read from it. */
function readsBeyond(payload: Uint8Array): boolean {
  return new TextDecoder('latin1').decode(payload).includes('\xa5'.repeat(8));
}

/** Answers to `frames` frames: everything that is not data of a flow, or a later piece of a large echo. */
function checkReplies(w: World, frames: number): void {
  const all = w.a.take();
  for (const f of all)
    if (f.icmp?.type === 0) must(!readsBeyond(f.icmp.payload), 'an echo of what lies behind the frame');
  for (const h of w.rig.heard.splice(0)) must(!readsBeyond(h.payload), 'a datagram longer than its frame');
  const replies = all.filter(
    (f) => (f.tcp === undefined || f.tcp.payload.length === 0) && (f.ip === undefined || f.ip.offset === 0),
  );
  must(replies.length <= 2 * frames, `${replies.length} replies to ${frames} frames`);
}

function run(steps: Step[]): void {
  const w = world();
  const { rig, a, b } = w;
  let frames = 0;
  for (const s of steps) {
    if (s.waitMs > 100) {
      rig.advance(s.waitMs);
      a.take();
    } else rig.now += s.waitMs;
    if (s.link === 'refuses') a.egress.refusing = true;
    else if (s.link === 'drains' && a.egress.refusing) {
      a.egress.refusing = false;
      a.port.writable(rig.now);
      a.take();
    }
    // It talks all the time, so nobody can say to be it.
    checkBystander(w);
    const flowsBefore = rig.stack.tcp.table.size;
    a.input(frameOf(w, s), s.inSlab);
    frames++;
    must(rig.stack.tcp.table.size <= flowsBefore + 1, 'one frame, at most one flow');
    if (s.joined) continue;
    a.port.endTurn(rig.now);
    checkReplies(w, frames);
    frames = 0;
    must(
      rig.bugs.length === 0 && rig.stack.stats.bugs === 0,
      `a bug: ${String((rig.bugs[0] as Error | undefined)?.stack)}`,
    );
    for (const c of a.port.blocked) must(c.state !== State.Closed, 'only those who live wait for the link');
  }
  a.port.endTurn(rig.now);
  checkBystander(w);
  must(w.safe.owner.closedWith === undefined, 'the bystander lives');
  // The end: everything that was taken is given back.
  for (const owner of rig.flows) {
    owner.reading = true;
    owner.onReadable(rig.now);
  }
  rig.turn();
  a.port.close(rig.now);
  must(rig.stack.tcp.table.size === 1, `${rig.stack.tcp.table.size - 1} flows of the VM that has gone`);
  must(a.port.flows === 0 && a.port.blocked.size === 0, 'flows of the port');
  must(rig.stack.tcp.opening === 0, 'opens in progress');
  b.port.close(rig.now);
  rig.turn();
  must(rig.slab.usedBytes === w.before, `${rig.slab.usedBytes - w.before} bytes of packet memory are lost`);
  must(
    rig.stack.reassembler.size === 0 && rig.stack.neighbours.size === 0 && rig.stack.macTable.size === 0,
    'tables are empty',
  );
  rig.advance(1000);
  must(rig.stack.nextDeadline() === Number.POSITIVE_INFINITY, 'no timer is left');
  must(rig.stack.stats.bugs === 0, 'no bug');
}

t.test('the world has flows in every state', (t) => {
  const w = world();
  const states = w.flows.map((talk) => (talk.owner.flow as unknown as { state: number }).state);
  t.equal(new Set(states).size >= 9, true, states.join(' '));
  t.doesNotThrow(() => run([]));
  t.end();
});

t.test(`bent frames: no throw, no bug, no flood, no harm to others, nothing lost (seed ${SEED})`, (t) => {
  fc.assert(fc.property(fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }), run), {
    numRuns: RUNS,
    seed: SEED,
  });
  t.end();
});

t.test('plain noise of every length', (t) => {
  const noise = fc.array(fc.tuple(fc.uint8Array({ maxLength: 200 }), fc.boolean()), { maxLength: 40 });
  fc.assert(
    fc.property(noise, (list) => {
      const w = world();
      for (const [body, toUs] of list) {
        checkBystander(w);
        const frame = body.slice();
        if (toUs && frame.length >= 14) frame.set(ethernet(GATEWAY_MAC, w.a.mac, frame[12]! & 1 ? 0x0800 : 0x0806, []));
        w.a.input(frame);
        w.a.port.endTurn(w.rig.now);
        checkReplies(w, 1);
      }
      must(w.rig.stack.stats.bugs === 0, 'no bug');
      checkBystander(w);
    }),
    { numRuns: Math.ceil(RUNS / 2), seed: SEED },
  );
  t.end();
});
