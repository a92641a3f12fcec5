// The table of forwards with an opener of its own: keys, who holds what, leases, replacing, what is stored, and that whatever many clients do
// at once has the outcome of some order of it.

import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { ForwardChecker } from '../../src/forwarder/forward-check.ts';
import type { ForwardOpener, OpenForward } from '../../src/forwarder/forward-opener.ts';
import {
  type CheckedForward,
  ForwardError,
  type ForwardEvent,
  type ForwardSpec,
} from '../../src/forwarder/forward-spec.ts';
import { Forwards } from '../../src/forwarder/forwards.ts';
import type { ForwardsOptions } from '../../src/forwarder/forwards-options.ts';
import { StateTable } from '../../src/host/state-store.ts';
import { destinations } from './udp-rig.ts';

/** Opens nothing, and knows what would be open. As slow as it likes. */
class FakeOpener implements ForwardOpener {
  readonly open_ = new Map<string, FakeOpen>();
  /** Addresses that another program holds. */
  readonly foreign = new Set<string>();
  #chosen = 40_000;
  slow = false;
  opened = 0;

  async open(spec: CheckedForward): Promise<OpenForward> {
    if (this.slow) await delay(Math.random() * 2);
    const { listen } = spec;
    if (listen.kind !== 'tcp' && listen.kind !== 'udp') throw new Error('not here');
    const atPort = (port: number): string => `${listen.kind} ${listen.address}:${port}`;
    if (listen.port === 0)
      while (this.open_.has(atPort(this.#chosen)) || this.foreign.has(atPort(this.#chosen))) this.#chosen++;
    const port = listen.port === 0 ? this.#chosen : listen.port;
    const at = atPort(port);
    if (this.foreign.has(at) || this.open_.has(at))
      throw new ForwardError('ERR_PORT_IN_USE', `${at} cannot be bound: another program holds it`);
    const open = new FakeOpen(this, at, `${listen.address}:${port}`, spec);
    this.open_.set(at, open);
    this.opened++;
    return open;
  }
}

class FakeOpen implements OpenForward {
  readonly bound: readonly string[];
  counters = { connections: 0, active: 0, refused: 0, bytesToTarget: 0, bytesToClient: 0 };
  spec: CheckedForward;
  resets = 0;
  readonly #opener: FakeOpener;
  readonly #at: string;

  constructor(opener: FakeOpener, at: string, bound: string, spec: CheckedForward) {
    this.#opener = opener;
    this.#at = at;
    this.bound = [bound];
    this.spec = spec;
  }

  retarget(spec: CheckedForward): void {
    this.spec = spec;
  }

  close(): void {
    if (this.#opener.open_.get(this.#at) === this) this.#opener.open_.delete(this.#at);
  }

  reset(): void {
    this.resets++;
    this.counters = { ...this.counters, active: 0 };
  }
}

interface Rig {
  readonly forwards: Forwards;
  readonly opener: FakeOpener;
  readonly events: string[];
  readonly reports: string[];
  readonly stored: Map<string, unknown>;
  now: number;
}

const START = Date.UTC(2026, 0, 1);

function rig(t: Test, more: Partial<ForwardsOptions> = {}, stored = new Map<string, unknown>()): Rig {
  const opener = new FakeOpener();
  const table = new StateTable((key, value) => {
    if (value === undefined) stored.delete(key);
    else stored.set(key, structuredClone(value));
  });
  for (const [key, value] of stored) table.load(key, value);
  let id = 0;
  const reports: string[] = [];
  const r = { opener, events: [] as string[], reports, stored, now: START } as unknown as Rig & { forwards: Forwards };
  r.forwards = new Forwards({
    checker: new ForwardChecker({ destinations, allowBind: [] }),
    opener,
    store: table,
    wallClock: () => r.now,
    newId: () => `id${stored.size}-${id++}`,
    report: (message) => reports.push(message),
    ...more,
  });
  r.forwards.onChange((e: ForwardEvent) => r.events.push(`${e.type} ${e.forward.key}`));
  t.teardown(() => r.forwards.closeAll());
  return r;
}

const tcp = (port: number, more: Partial<ForwardSpec> = {}): ForwardSpec => ({
  listen: { kind: 'tcp', address: '127.0.0.1', port },
  target: { kind: 'guest', port: 80 },
  ...more,
});

async function failure(work: Promise<unknown>): Promise<ForwardError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof ForwardError) return error;
    throw error;
  }
  throw new Error('it was to fail');
}

t.test('add: created once, the same again is found, another one under the key is refused', async (t) => {
  const r = rig(t);
  const a = await r.forwards.add(tcp(8080, { labels: { b: '2', a: '1' } }));
  t.equal(a.created, true);
  t.match(a.forward, {
    key: 'tcp:127.0.0.1:8080',
    state: 'listening',
    bound: ['127.0.0.1:8080'],
    origin: 'api',
    createdAt: '2026-01-01T00:00:00.000Z',
    spec: { client: 'transparent', lease: 'permanent' },
  });
  const same = await r.forwards.add(tcp(8080, { labels: { a: '1', b: '2' }, client: 'transparent' }));
  t.same([same.created, same.forward.id], [false, a.forward.id], 'whatever the order of its members');
  const other = await failure(r.forwards.add(tcp(8080, { target: { kind: 'guest', port: 81 } })));
  t.match(other, { code: 'ERR_FORWARD_EXISTS', status: 409, key: 'tcp:127.0.0.1:8080', holder: { id: a.forward.id } });
  t.equal(r.opener.opened, 1);
  t.same(r.events, ['up tcp:127.0.0.1:8080']);
});

t.test('two on one address: 409, and it says who has it, also where the addresses only overlap', async (t) => {
  const r = rig(t);
  const { forward } = await r.forwards.add(tcp(80, { key: 'web', owner: 'compose' }));
  const held = await failure(r.forwards.add(tcp(80, { key: 'mine' })));
  t.match(held, { code: 'ERR_PORT_IN_USE', status: 409, key: 'mine' });
  t.same(held.holder, { id: forward.id, key: 'web', owner: 'compose' });
  t.match(held.message, /127\.0\.0\.1:80 is held by the forward web of compose/);
  const wide = await failure(r.forwards.add({ ...tcp(80), listen: { kind: 'tcp', address: '0.0.0.0', port: 80 } }));
  t.equal(wide.holder?.key, 'web', '0.0.0.0 is in the way of 127.0.0.1');
  const range = await failure(
    r.forwards.add({ ...tcp(1), listen: { kind: 'tcp', address: '127.0.0.1', port: 75, count: 10 } }),
  );
  t.equal(range.holder?.key, 'web', 'one port of a range');
  await r.forwards.add({ ...tcp(80), listen: { kind: 'udp', address: '127.0.0.1', port: 80 } });
  await r.forwards.add({ ...tcp(80), listen: { kind: 'tcp', address: '127.0.0.2', port: 80 } });
  await r.forwards.add({ ...tcp(80), listen: { kind: 'tcp', address: '::', port: 80 } });
  t.equal(r.forwards.size, 4, 'another protocol, address or family is free');
  r.opener.foreign.add('tcp 127.0.0.1:81');
  const foreign = await failure(r.forwards.add(tcp(81)));
  t.same([foreign.code, foreign.holder, foreign.status], ['ERR_PORT_IN_USE', undefined, 409]);
  t.equal(r.forwards.size, 4);
});

t.test('port 0: each is one more forward, and gets its port again after a restart', async (t) => {
  const r = rig(t);
  const a = await r.forwards.add(tcp(0));
  const b = await r.forwards.add(tcp(0));
  t.not(a.forward.bound[0], b.forward.bound[0]);
  t.not(a.forward.key, b.forward.key);
  const named = await r.forwards.add(tcp(0, { key: 'mine' }));
  t.same(await r.forwards.add(tcp(0, { key: 'mine' })), { forward: named.forward, created: false });
  const taken = await failure(r.forwards.add(tcp(Number(a.forward.bound[0]!.split(':')[1]), { key: 'x' })));
  t.equal(taken.holder?.id, a.forward.id, 'a chosen port is held as any other');
  r.forwards.closeAll();

  const again = rig(t, {}, r.stored);
  again.opener.foreign.add(`tcp ${b.forward.bound[0]}`);
  await again.forwards.restore();
  t.equal(again.forwards.size, 3);
  t.same(again.forwards.get(a.forward.id)?.bound, a.forward.bound);
  t.match(again.forwards.get(b.forward.id), { state: 'listening', key: b.forward.key });
  t.notSame(again.forwards.get(b.forward.id)?.bound, b.forward.bound, 'which somebody has now: another one');
});

t.test('remove: the address is free at once, connections finish, or are reset when asked', async (t) => {
  const r = rig(t);
  for (const close of [false, true]) {
    const { forward } = await r.forwards.add(tcp(8080));
    const open = r.opener.open_.get('tcp 127.0.0.1:8080')!;
    open.counters = { ...open.counters, active: 100 };
    t.equal(await r.forwards.remove(forward.id, { close }), true);
    t.equal(r.opener.open_.size, 0);
    t.equal(open.resets, close ? 1 : 0);
    t.equal(await r.forwards.remove(forward.id), false);
    t.equal(r.forwards.get(forward.id), undefined);
    if (!close) {
      r.forwards.closeAll();
      t.equal(open.resets, 1, 'the end of the daemon ends those that were still running');
    }
    if (!close) Object.assign(r, rig(t));
  }
  t.match(r.events, ['up tcp:127.0.0.1:8080', 'down tcp:127.0.0.1:8080']);
});

t.test(
  'replace of one key: another target without a gap, another address, and back when that cannot be had',
  async (t) => {
    const r = rig(t);
    const { forward } = await r.forwards.add(tcp(8080, { key: 'k' }));
    const open = r.opener.open_.get('tcp 127.0.0.1:8080')!;
    const other = tcp(8080, { key: 'k', target: { kind: 'guest', guest: 'web', port: 81 } });
    const changed = await r.forwards.add(other, { replace: true });
    t.same([changed.created, changed.forward.id, r.opener.opened], [false, forward.id, 1]);
    t.match(open.spec.target, { guest: 'web', port: 81 });
    await r.forwards.add(tcp(8081, { key: 'k' }), { replace: true });
    t.same([...r.opener.open_.keys()], ['tcp 127.0.0.1:8081']);
    r.opener.foreign.add('tcp 127.0.0.1:9999');
    const refused = await failure(r.forwards.add(tcp(9999, { key: 'k' }), { replace: true }));
    t.equal(refused.code, 'ERR_PORT_IN_USE');
    t.same([...r.opener.open_.keys()], ['tcp 127.0.0.1:8081']);
    t.match(r.forwards.get(forward.id), { state: 'listening', spec: { listen: { port: 8081 } } });
    t.match(r.stored.get('k'), { id: forward.id, spec: { listen: { port: 8081 } } });
    await r.forwards.add(tcp(8080, { key: 'x' }));
  },
);

t.test('replace of an owner: what stays is untouched, all or nothing, others are left alone', async (t) => {
  const r = rig(t);
  await r.forwards.add(tcp(1000, { key: 'other', owner: 'bob' }));
  await r.forwards.add(tcp(1001), { origin: 'config' });
  const first = await r.forwards.replace([tcp(1), tcp(2), tcp(3)], 'ann');
  t.same(
    first.map((f) => [f.key, f.spec.owner]),
    [1, 2, 3].map((n) => [`tcp:127.0.0.1:${n}`, 'ann']),
  );
  r.events.length = 0;
  const second = await r.forwards.replace([tcp(2), tcp(3, { client: 'gateway' }), tcp(4)], 'ann');
  t.same([second[0]?.id, second[1]?.id], [first[1]?.id, first[2]?.id]);
  t.same(r.events, ['down tcp:127.0.0.1:1', 'changed tcp:127.0.0.1:3', 'up tcp:127.0.0.1:4']);
  const before = r.forwards.list().map(({ key, spec, state }) => ({ key, spec, state }));
  const storedBefore = [...r.stored.keys()].sort();

  r.opener.foreign.add('tcp 127.0.0.1:6');
  const failed = await failure(r.forwards.replace([tcp(3), tcp(5), tcp(6)], 'ann'));
  t.match(failed, { code: 'ERR_PORT_IN_USE', key: 'tcp:127.0.0.1:6' });
  const byKey = (a: { key: string }, b: { key: string }): number => (a.key < b.key ? -1 : 1);
  t.same(
    r.forwards
      .list()
      .map(({ key, spec, state }) => ({ key, spec, state }))
      .sort(byKey),
    before.sort(byKey),
    'as it was',
  );
  t.same([...r.stored.keys()].sort(), storedBefore);
  t.equal(r.opener.open_.size, before.length);

  t.equal((await failure(r.forwards.replace([tcp(1000, { key: 'other' })], 'ann'))).code, 'ERR_FORWARD_EXISTS');
  t.equal((await failure(r.forwards.replace([tcp(7), tcp(7)], 'ann'))).code, 'ERR_FORWARD_EXISTS');
  t.equal((await failure(r.forwards.replace([tcp(7, { owner: 'bob' })], 'ann'))).field, 'owner');
  t.equal((await failure(r.forwards.replace([tcp(7), tcp(70_000)], 'ann'))).field, 'listen.port');
  t.same(await r.forwards.replace([], 'ann'), []);
  t.same(
    r.forwards.list().map((f) => f.key),
    ['other', 'tcp:127.0.0.1:1001'],
  );
  await r.forwards.replace([tcp(8)], undefined);
  t.same(
    r.forwards.list().map((f) => f.key),
    ['tcp:127.0.0.1:1001', 'tcp:127.0.0.1:8'],
    'without an owner: all of the API',
  );
});

t.test('leases: a connection, a time', async (t) => {
  const r = rig(t);
  const connection = {};
  t.equal((await failure(r.forwards.add(tcp(1, { lease: 'connection' })))).field, 'lease');
  await r.forwards.add(tcp(1, { lease: 'connection' }), { holder: connection });
  await r.forwards.add(tcp(2), { holder: connection });
  t.equal((await failure(r.forwards.add(tcp(1, { lease: 'connection' }), { holder: {} }))).code, 'ERR_FORWARD_EXISTS');
  await r.forwards.release({});
  t.equal(r.forwards.size, 2);
  await r.forwards.release(connection);
  t.same(
    r.forwards.list().map((f) => f.key),
    ['tcp:127.0.0.1:2'],
  );
  t.same([...r.stored.keys()], ['tcp:127.0.0.1:2'], 'a connection does not outlive the process');

  t.equal((await failure(r.forwards.add(tcp(3, { lease: { until: '2020-01-01T00:00:00Z' } })))).field, 'lease.until');
  t.equal((await failure(r.forwards.add(tcp(3, { lease: { until: 'soon' } })))).field, 'lease');
  const until = new Date(START + 40).toISOString();
  await r.forwards.add(tcp(3, { lease: { until } }));
  const gone = new Promise<void>((resolve) => r.forwards.onChange((e) => e.type === 'down' && resolve()));
  r.now += 100;
  // The timer was set for 40 ms, by a clock that this test moves; the loop must live until it fires.
  const alive = setInterval(() => {}, 1000);
  await gone;
  clearInterval(alive);
  t.equal(r.forwards.size, 1);
  t.equal(r.stored.has('tcp:127.0.0.1:3'), false);
});

t.test(
  'restore: the same ids, those over or malformed are left out, options go first, what is taken is tried again',
  async (t) => {
    const a = rig(t);
    const { forward } = await a.forwards.add(tcp(1, { owner: 'x' }));
    const until = new Date(START + 1000).toISOString();
    await a.forwards.add(tcp(2, { lease: { until } }));
    await a.forwards.add(tcp(3, { target: { kind: 'guest', port: 99 } }));
    await a.forwards.add(tcp(4));
    await a.forwards.add(tcp(5), { origin: 'config' });
    a.stored.set('bad', { nothing: true });
    a.stored.set('worse', null);
    a.stored.set('port', { id: 'z', createdAt: until, spec: { ...tcp(99_999), key: 'port' } });
    t.notOk(a.stored.has('tcp:127.0.0.1:5'), 'an option brings its own back');
    a.forwards.closeAll();

    const b = rig(t, { retryMs: 1 }, a.stored);
    b.now = START + 5000;
    b.opener.foreign.add('tcp 127.0.0.1:4');
    await b.forwards.add(tcp(3), { origin: 'config' });
    await b.forwards.restore();
    t.same(
      b.forwards.list().map((f) => [f.key, f.origin, f.state]),
      [
        ['tcp:127.0.0.1:3', 'config', 'listening'],
        ['tcp:127.0.0.1:1', 'state', 'listening'],
        ['tcp:127.0.0.1:4', 'state', 'failed'],
      ],
    );
    t.match(b.forwards.list({ owner: 'x' }), [{ id: forward.id, createdAt: forward.createdAt }]);
    t.match(b.forwards.list()[2], { bound: [], error: { code: 'ERR_PORT_IN_USE' } });
    t.match(b.reports.join('\n'), /3 of the state file gives way/);
    t.equal(b.reports.filter((m) => /bad|worse|port is not restored/.test(m)).length, 3);
    t.same(
      [...b.stored.keys()].sort(),
      ['bad', 'port', 'tcp:127.0.0.1:1', 'tcp:127.0.0.1:4', 'worse'],
      'what failed is not forgotten, and what could not be read is not destroyed',
    );

    t.equal((await failure(b.forwards.add(tcp(4, { key: 'x' })))).holder?.key, 'tcp:127.0.0.1:4');
    const up = new Promise<void>((resolve) => b.forwards.onChange((e) => e.type === 'up' && resolve()));
    b.opener.foreign.clear();
    const alive = setInterval(() => {}, 1000);
    await up;
    clearInterval(alive);
    t.match(b.forwards.list()[2], { state: 'listening', bound: ['127.0.0.1:4'] });
    t.equal(b.reports.filter((m) => /does not listen/.test(m)).length, 1, 'said once, however often it was tried');
  },
);

t.test('what cannot be stored is not made, and what cannot be forgotten is reported', async (t) => {
  const opener = new FakeOpener();
  const reports: string[] = [];
  let full = false;
  const table = new StateTable(() => {
    if (full) throw new Error('ENOSPC: no space left');
  });
  const forwards = new Forwards({
    checker: new ForwardChecker({ destinations, allowBind: [] }),
    opener,
    store: table,
    wallClock: () => START,
    newId: () => String(opener.opened),
    report: (message) => reports.push(message),
  });
  t.teardown(() => forwards.closeAll());
  const { forward } = await forwards.add(tcp(1));
  full = true;
  const error = await failure(forwards.add(tcp(2)));
  t.match(error, { code: 'ERR_STATE', status: 500, message: /ENOSPC.*--state-dir none/ });
  t.equal(opener.open_.size, 1);
  t.equal((await failure(forwards.add(tcp(1, { client: 'gateway' }), { replace: true }))).code, 'ERR_STATE');
  t.equal(forwards.get(forward.id)?.spec.client, 'transparent');
  await forwards.add(tcp(3, { lease: 'connection' }), { holder: {} });
  await forwards.remove(forward.id);
  t.match(reports, [/may come back with a restart: ENOSPC/]);
});

t.test('a limit, and after the end nothing more', async (t) => {
  const r = rig(t, { max: 2 });
  await r.forwards.add(tcp(1));
  await r.forwards.add(tcp(2));
  t.match(await failure(r.forwards.add(tcp(3))), { code: 'ERR_FORWARD_LIMIT', status: 429 });
  r.opener.slow = true;
  const late = failure(r.forwards.add(tcp(2, { key: 'tcp:127.0.0.1:2', client: 'gateway' }), { replace: true }));
  const queued = failure(r.forwards.replace([tcp(9)], undefined));
  r.forwards.closeAll();
  t.equal((await queued).code, 'ERR_STOPPING');
  t.equal((await late).code, 'ERR_STOPPING');
  t.equal(r.opener.open_.size, 0, 'nothing was left open');
});

t.test('filters', async (t) => {
  const r = rig(t);
  await r.forwards.add(tcp(1, { owner: 'a', labels: { app: 'web', env: 'test' } }));
  await r.forwards.add(tcp(2, { owner: 'b', labels: { app: 'web' } }), { origin: 'config' });
  const ports = (filter: object): number[] => r.forwards.list(filter).map((f) => Number(f.bound[0]!.split(':')[1]));
  t.same(ports({}), [1, 2]);
  t.same(ports({ owner: 'b' }), [2]);
  t.same(ports({ origin: 'api' }), [1]);
  t.same(ports({ labels: { app: 'web' } }), [1, 2]);
  t.same(ports({ labels: { app: 'web', env: 'test' } }), [1]);
  t.same(ports({ key: 'tcp:127.0.0.1:2' }), [2]);
});

t.test(
  '200 clients on overlapping keys and addresses: as if one after the other, and no listener is left over',
  async (t) => {
    const operation = fc.record({
      what: fc.constantFrom('add', 'add', 'remove', 'change', 'replace'),
      key: fc.integer({ min: 0, max: 5 }),
      port: fc.integer({ min: 1, max: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 200, maxLength: 200 }), async (operations) => {
        const r = rig(t);
        r.opener.slow = true;
        // The queue's order is the order of the calls; a second table is given the same ones, each after the other's end.
        const one = rig(t);
        const run = async (to: Rig, { what, key, port }: (typeof operations)[0]): Promise<string> => {
          const spec = tcp(port, { key: `k${key}` });
          try {
            switch (what) {
              case 'add':
                return `created ${(await to.forwards.add(spec)).created}`;
              case 'change':
                return `created ${(await to.forwards.add(spec, { replace: true })).created}`;
              case 'remove': {
                // Removing is by id: the client looks it up and may be too late.
                const id = to.forwards.list({ key: `k${key}` })[0]?.id;
                return `removed ${id === undefined ? false : await to.forwards.remove(id)}`;
              }
              default:
                return `replaced ${(await to.forwards.replace([spec, tcp(port + 10)], undefined)).length}`;
            }
          } catch (error) {
            return (error as ForwardError).code;
          }
        };
        // No look-up by key before the queue: only what the queue itself orders is compared.
        const ordered = operations.filter((o) => o.what !== 'remove');
        const results = await Promise.all(ordered.map((o) => run(r, o)));
        const expected: string[] = [];
        for (const o of ordered) expected.push(await run(one, o));
        t.same(results, expected);
        const view = (x: Rig) =>
          x.forwards
            .list()
            .map((f) => `${f.key} ${f.bound} ${f.state}`)
            .sort();
        t.same(view(r), view(one));
        await Promise.all(operations.map((o) => run(r, o)));
        t.same(
          [...r.opener.open_.keys()].sort(),
          r.forwards
            .list()
            .flatMap((f) => f.bound.map((b) => `tcp ${b}`))
            .sort(),
          'what listens is what is in the table',
        );
        t.same(
          [...r.stored.keys()].sort(),
          r.forwards
            .list()
            .map((f) => f.key)
            .sort(),
        );
        for (const f of r.forwards.list()) await r.forwards.remove(f.id);
        t.equal(r.opener.open_.size, 0);
        t.equal(r.stored.size, 0);
        r.forwards.closeAll();
        one.forwards.closeAll();
      }),
      { numRuns: 10 },
    );
  },
);
