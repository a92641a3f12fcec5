// Runs: what many segments do in one call is what they do one by one. The same frames go into two stacks, into one each by itself, into
// the other as a link reads them, and both must end alike: what the owner got, what was sent, every count.

import fc from 'fast-check';
import t from 'tap';
import { FrameReader, writePrefix } from '../../src/link/framing.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import type { Connection } from '../../src/tcp/connection.ts';
import { establish, type FakeOwner, OUTSIDE, Rig, segment, type Talk } from './fake-link.ts';
import { ACK, FIN, PSH, RST, SYN } from './frames.ts';

const READ_BYTES = 64 * 1024;

interface Side {
  readonly rig: Rig;
  readonly talk: Talk;
  readonly counters: LinkCounters;
  feed(frames: readonly Uint8Array[]): void;
}

function side(runs: boolean): Side {
  const rig = new Rig();
  const vm = rig.vm(3);
  const talk = establish(vm);
  const block = rig.slab.alloc(READ_BYTES);
  const counters = new LinkCounters();
  const { mem } = rig.slab;
  const { port } = vm;
  const reader = new FrameReader(
    'qemu',
    mem,
    block,
    READ_BYTES,
    counters,
    (off, len) => port.input(mem, off, len, rig.now),
    runs
      ? (frame, at, end) => {
          const used = port.inputRun(frame, at, end, 4, rig.now);
          if (used > 0) {
            counters.rxFrames += port.runFrames;
            counters.rxBytes += used - port.runFrames * 4;
          }
          return used;
        }
      : undefined,
  );
  const feed = (frames: readonly Uint8Array[]): void => {
    for (const frame of frames) {
      const at = reader.roomOffset;
      if (reader.room < frame.length + 4) throw new Error('the test feeds more than one read');
      writePrefix('qemu', mem, at, frame.length);
      mem.set(frame, at + 4);
      reader.received(frame.length + 4);
    }
    if (!reader.parse()) throw new Error('over-long');
    port.endTurn(rig.now);
  };
  return { rig, talk, counters, feed };
}

const OWN_STATE = new Set([
  'env',
  'path',
  'owner',
  'vm',
  'rcv',
  'snd',
  'sent',
  'rtt',
  'cc',
  'assembler',
  'guest',
  'remote',
]);

/** The plain fields of the connection's TCB. */
function tcb(owner: FakeOwner): Record<string, unknown> {
  const c = owner.flow as Connection;
  const out: Record<string, unknown> = {
    used: c.rcv.ring.used,
    snd: c.snd.used,
    sent: c.sent.count,
    target: c.rcv.target,
  };
  for (const [key, value] of Object.entries(c)) if (!OWN_STATE.has(key)) out[key] = value;
  return out;
}

function stateOf({ rig, talk, counters }: Side): unknown {
  const { tcp, drops, turns: _turns, ...rest } = rig.stack.stats;
  const { port } = talk.vm;
  return {
    received: talk.owner.received,
    events: talk.owner.events,
    tcb: tcb(talk.owner),
    tcp: { ...tcp },
    drops: [...drops.counts],
    rest: JSON.stringify(rest),
    port: [port.framesFromGuest, port.bytesFromGuest, port.framesToGuest, port.takes],
    link: { ...counters },
    sent: talk.vm.take().map((f) => [f.tcp?.seq, f.tcp?.ack, f.tcp?.flags, f.tcp?.wnd, f.tcp?.payload.length]),
    bugs: rig.bugs,
  };
}

type Step =
  | { readonly kind: 'data'; readonly len: number; readonly psh: boolean }
  | { readonly kind: 'damage'; readonly len: number; readonly byte: number }
  | { readonly kind: 'again' | 'gap' | 'ack' | 'fin' | 'syn' | 'reset' | 'window' | 'old' }
  | { readonly kind: 'other' };

/** The frames of a program, by the guest's own rules; `at` is where its sequence stands. */
function framesOf(talk: Talk, steps: readonly Step[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  const make = (flags: number, text: string, more = {}): Uint8Array => segment(talk, flags, text, more);
  for (const step of steps) {
    const text = 'x'.repeat('len' in step ? step.len : 300);
    switch (step.kind) {
      case 'data':
        out.push(make(step.psh ? ACK | PSH : ACK, text.replace(/^x/, String.fromCharCode(65 + (out.length % 26)))));
        talk.seq = (talk.seq + step.len) | 0;
        break;
      case 'damage': {
        const frame = make(ACK, text);
        frame[step.byte % frame.length]! ^= 0x10;
        out.push(frame);
        break;
      }
      case 'again':
        out.push(make(ACK, text, { seq: (talk.seq - 300) | 0 }));
        break;
      case 'gap':
        out.push(make(ACK, text, { seq: (talk.seq + 500) | 0 }));
        break;
      case 'ack':
        out.push(make(ACK, ''));
        break;
      case 'window':
        out.push(make(ACK, text, { wnd: 9000 }));
        talk.seq = (talk.seq + 300) | 0;
        break;
      case 'fin':
        out.push(make(ACK | FIN, ''));
        break;
      case 'syn':
        out.push(make(ACK | SYN, text));
        break;
      case 'reset':
        out.push(make(RST, '', { seq: (talk.seq + 7) | 0 }));
        break;
      case 'old':
        out.push(make(ACK, text, { ack: (talk.ack - 1) | 0 }));
        talk.seq = (talk.seq + 300) | 0;
        break;
      case 'other':
        out.push(talk.vm.ping('192.168.65.1'));
    }
  }
  return out;
}

const data = fc.record({
  kind: fc.constant('data' as const),
  len: fc.integer({ min: 1, max: 1460 }),
  psh: fc.boolean(),
});
const damage = fc.record({
  kind: fc.constant('damage' as const),
  len: fc.integer({ min: 1, max: 600 }),
  byte: fc.nat(2000),
});
const rare = fc.constantFrom<Step>(
  ...(['again', 'gap', 'ack', 'fin', 'syn', 'reset', 'window', 'old', 'other'] as const).map((kind) => ({ kind })),
);
const program = fc.array(
  fc.oneof({ arbitrary: data, weight: 12 }, { arbitrary: damage, weight: 1 }, { arbitrary: rare, weight: 2 }),
  {
    minLength: 1,
    maxLength: 30,
  },
);

t.test('property: frames from a guest, one by one and as a link reads them, end alike', async (t) => {
  let runs = 0;
  fc.assert(
    fc.property(fc.array(program, { minLength: 1, maxLength: 3 }), (reads) => {
      const sides = [side(false), side(true)];
      for (const read of reads) {
        for (const s of sides) {
          s.rig.now += 1;
          s.feed(framesOf(s.talk, read));
        }
        runs += sides[1]!.talk.vm.port.runFrames;
        const [one, many] = sides.map(stateOf);
        if (JSON.stringify(one) !== JSON.stringify(many)) {
          t.same(many, one);
          return false;
        }
      }
      return true;
    }),
    { numRuns: 250 },
  );
  t.ok(runs > 500, `${runs} frames went in runs`);
});

/** Bytes of the host for the guest, and the frames that carry them. */
function sendFromHost(s: Side, bytes: number, plain: boolean): void {
  const c = s.talk.owner.flow as Connection;
  if (plain) {
    const { egress } = s.talk.vm;
    Object.assign(egress, { reserveRun: undefined, commitRun: undefined });
  }
  const text = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) text[i] = (i * 7 + (i >> 8)) & 255;
  c.write(text, 0, bytes, s.rig.now);
  s.rig.stack.onEndTurn(s.rig.now);
}

t.test('property: bytes from the host leave in the same frames, in runs and segment by segment', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 5 }),
      fc.boolean(),
      (sizes, fin) => {
        const sides = [side(false), side(true)];
        const sent = sides.map((s, plain) => {
          // A guest that takes all: acknowledges what has come, with a large window.
          const frames: Uint8Array[] = [];
          s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
          for (const [i, size] of sizes.entries()) {
            sendFromHost(s, size, plain === 0);
            if (fin && i === sizes.length - 1) s.talk.owner.flow.shutdown(s.rig.now);
            s.rig.stack.onEndTurn(s.rig.now);
            for (let round = 0; round < 40; round++) {
              const came = s.talk.vm.egress.sent.splice(0);
              if (came.length === 0) break;
              frames.push(...came);
              const c = s.talk.owner.flow as Connection;
              s.rig.now += 1;
              s.talk.ack = c.sndNxt;
              s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
            }
          }
          return Buffer.concat(frames);
        });
        return sent[0]!.length > 0 && Buffer.compare(sent[0]!, sent[1]!) === 0;
      },
    ),
    { numRuns: 120 },
  );
});

t.test('acknowledgements that come together: the last one counts for all, a duplicate is never passed over', (t) => {
  for (const runs of [false, true]) {
    const s = side(runs);
    s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
    sendFromHost(s, 14_600, false);
    const first = s.talk.ack;
    const frames = s.talk.vm.take();
    t.equal(frames.length, 10);
    const c = s.talk.owner.flow as Connection;
    const acks = frames
      .slice(0, 8)
      .map((_, i) => segment(s.talk, ACK, '', { ack: (first + 1460 * (i + 1)) | 0, wnd: 60_000 - i }));
    s.rig.now += 1;
    const before = s.rig.stack.stats.tcp.segmentsFromGuest;
    s.feed(acks);
    t.equal(c.sndUna, (first + 8 * 1460) | 0);
    t.equal(c.sent.count, 2);
    t.equal(c.sndWnd, 60_000 - 7, 'the last window counts');
    t.equal(s.talk.vm.port.runFrames, runs ? 6 : 0);
    t.equal(s.rig.stack.stats.tcp.segmentsFromGuest - before, 8, 'each is counted');
    // The same again three times: each is a duplicate.
    const again = segment(s.talk, ACK, '', { ack: c.sndUna, wnd: c.sndWnd });
    s.feed([again, again, again]);
    t.equal(c.dupAcks, 3);
    // What acknowledges more than was sent stops a run, and changes nothing.
    const beyond = segment(s.talk, ACK, '', { ack: (c.sndNxt + 5000) | 0 });
    s.feed([beyond, beyond]);
    t.equal(c.sent.count, 2);
  }
  t.end();
});

t.test('a segment that comes once more begins no run: its window is not the one that counts', (t) => {
  const steps: Step[] = [
    { kind: 'window' },
    { kind: 'again' },
    { kind: 'data', len: 1, psh: false },
    { kind: 'again' },
  ];
  const [one, many] = [false, true].map((runs) => {
    const s = side(runs);
    s.feed(framesOf(s.talk, steps));
    return stateOf(s);
  });
  t.same(many, one);
  t.end();
});

t.test('an acknowledgement of what was not sent does not take a good one with it', (t) => {
  const ends = [false, true].map((runs) => {
    const s = side(runs);
    s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
    sendFromHost(s, 14_600, false);
    const first = s.talk.ack;
    s.talk.vm.take();
    const ack = (bytes: number): Uint8Array => segment(s.talk, ACK, '', { ack: (first + bytes) | 0, wnd: 65_535 });
    s.feed([ack(1460), ack(2920), ack(4380), ack(20_000)]);
    const c = s.talk.owner.flow as Connection;
    return [(c.sndUna - first) | 0, c.sent.count];
  });
  t.same(ends, [
    [4380, 7],
    [4380, 7],
  ]);
  t.end();
});

t.test('while a loss is being recovered no acknowledgement is passed over', (t) => {
  const s = side(true);
  s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
  sendFromHost(s, 14_600, false);
  const first = s.talk.ack;
  s.talk.vm.take();
  const ack = (n: number): Uint8Array => segment(s.talk, ACK, '', { ack: (first + 1460 * n) | 0, wnd: 65_535 });
  s.feed([ack(1), ack(1), ack(1), ack(1)]);
  const c = s.talk.owner.flow as Connection;
  t.not(c.recovery, 0, 'three duplicates begin it');
  s.talk.vm.port.runFrames = 0;
  s.feed([ack(2), ack(3), ack(4)]);
  t.equal(s.talk.vm.port.runFrames, 0);
  t.equal(c.sndUna, (first + 1460 * 4) | 0);
  t.end();
});

t.test('the last segment of a run pushes if it carries the last byte there is', (t) => {
  const s = side(true);
  s.feed([segment(s.talk, ACK, '', { wnd: 65_535 })]);
  sendFromHost(s, 4 * 1460, false);
  const flags = s.talk.vm.take().map((f) => f.tcp!.flags);
  t.same(flags, [ACK, ACK, ACK, ACK | PSH]);
  t.end();
});

t.test('a run stays within the window, and what lies beyond it is refused as ever', (t) => {
  const [one, many] = [false, true].map((runs) => {
    const s = side(runs);
    s.talk.owner.reading = false;
    for (let read = 0; read < 8; read++) {
      s.feed(
        framesOf(
          s.talk,
          Array.from({ length: 20 }, () => ({ kind: 'data', len: 1460, psh: false }) as const),
        ),
      );
    }
    return stateOf(s);
  });
  t.same(many, one);
  t.equal((many as { received: string }).received, '');
  t.end();
});

t.test('two flows and another protocol between them', (t) => {
  const [one, many] = [false, true].map((runs) => {
    const s = side(runs);
    const other = establish(s.talk.vm, 41_000, OUTSIDE, 81);
    const steps = Array.from({ length: 6 }, () => ({ kind: 'data', len: 1000, psh: false }) as const);
    s.feed([...framesOf(s.talk, steps), ...framesOf(other, steps), ...framesOf(s.talk, [{ kind: 'other' }, ...steps])]);
    return [stateOf(s), other.owner.received, tcb(other.owner)];
  });
  t.same(many, one);
  t.equal((many as [{ received: string }])[0].received.length, 12_000);
  t.end();
});
