// What is left of questions that have been answered: nothing that a collection of young objects does not take. Each of those stops the
// daemon for as long as it has survivors to copy, and a cached answer waits for it.

import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { getU16 } from '../../src/base/bytes.ts';
import { Lookup } from '../../src/dns/lookup.ts';
import { QueryView } from '../../src/dns/message.ts';
import { OpenLookups } from '../../src/dns/open-lookups.ts';
import { QuestionKey } from '../../src/dns/question-table.ts';
import { query, rig } from './rig.ts';

const NAMES = 20_000;
const IN_FLIGHT = 24;
const COLLECT_EVERY = 500;

const oldBytes = (): number => getHeapSpaceStatistics().find((s) => s.space_name === 'old_space')!.space_used_size;

t.test('new names all the time: answered questions do not grow old', (t) => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options?: { type: 'minor' }) => void;
  const r = rig({ cacheBytes: 0 });
  const flight = r.transport.sent;
  const pass = (): void => {
    for (let i = 0; i < NAMES; i++) {
      r.ask(query(`n${10_000 + i}.load.example`, 'A'), i);
      if (flight.length >= IN_FLIGHT) {
        const a = flight.shift()!;
        const message = a.wire;
        message[2] = 0x81;
        message[3] = 0x83;
        r.replyRaw(a, message, i);
      }
      if (i % COLLECT_EVERY === 0) gc({ type: 'minor' });
      r.guest.raw.length = 0;
    }
  };
  pass();
  gc();
  const before = oldBytes();
  pass();
  const grown = oldBytes() - before;
  t.ok(grown < 3_000_000, `${grown} bytes of ${NAMES} questions have grown old`);
  t.equal(r.responder.resolver.inFlight, IN_FLIGHT - 1);
  t.end();
});

t.test('queries whose ids share a bucket are told apart', (t) => {
  const r = rig({ maxInFlight: 5000, maxPerClient: 5000 });
  for (let i = 0; i < 5000; i++) r.ask(query(`n${i}.example`, 'A'), 0);
  const { sent } = r.transport;
  t.equal(new Set(sent.map((a) => getU16(a.wire, 0))).size, 5000);
  t.equal(r.responder.resolver.attemptsInFlight, 5000);
  // From the middle outwards, so that heads, tails and what lies between leave their buckets.
  const order = sent.map((a, i) => ({ a, far: Math.abs(i - 2500) })).sort((x, y) => x.far - y.far);
  let taken = 0;
  for (const { a } of order) {
    const message = a.wire;
    message[2] = 0x81;
    message[3] = 0x83;
    if (r.replyRaw(a, message, 1)) taken++;
    if (r.replyRaw(a, message, 1)) t.fail('an answer is taken once');
  }
  t.equal(taken, 5000);
  t.equal(r.responder.resolver.attemptsInFlight, 0);
  t.equal(r.responder.resolver.inFlight, 0);
  t.end();
});

t.test('open questions keep their order whichever leaves', (t) => {
  const key = new QuestionKey(1);
  const view = new QueryView();
  const wire = query('a.example', 'A');
  view.wrap(wire, 0, wire.length);
  const [a, b, c, d] = Array.from({ length: 4 }, () => new Lookup(view, key, 0, () => {})) as [
    Lookup,
    Lookup,
    Lookup,
    Lookup,
  ];
  const open = new OpenLookups();
  for (const l of [a, b, c, d]) open.add(l);
  open.remove(b);
  t.ok(open.list().every((l, i) => l === [a, c, d][i]));
  open.remove(a);
  open.remove(d);
  open.add(b);
  t.ok(open.list().every((l, i) => l === [c, b][i]));
  t.equal(open.size, 2);
  open.remove(c);
  open.remove(b);
  t.same(open.list(), []);
  t.end();
});
