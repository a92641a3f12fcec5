// The state store: what was set is there after a crash at any moment, nothing is applied twice, and a broken file is never the only copy.

import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import { StateStore } from '../../src/host/state-store.ts';

interface Opened {
  readonly store: StateStore;
  readonly reports: string[];
}

/** A store, open. Its lock is given back when the test ends; `crash` gives it back without writing anything. */
async function open(path: string | undefined, delayMs = 60_000): Promise<Opened> {
  const reports: string[] = [];
  const store = new StateStore({ path, delayMs, report: (message) => reports.push(message) });
  await store.open();
  return { store, reports };
}

/** What a killed process leaves: the files as they are, without its lock. */
function crashCopy(from: string): string {
  const to = join(dirname(from), 'copy', 'state.json');
  mkdirSync(dirname(to), { recursive: true });
  for (const suffix of ['', '.journal', '.journal.tmp', '.tmp'])
    if (existsSync(from + suffix)) copyFileSync(from + suffix, to + suffix);
  return to;
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await delay(2);
}

t.test('what was set is there after a clean end: tables, order, any key and value', async (t) => {
  const path = join(t.testdir(), 'deep', 'state.json');
  const a = await open(path);
  const forwards = a.store.table('forwards');
  forwards.set('b', { port: 1, list: [1, 'x', null], on: true });
  forwards.set('a', 'text');
  forwards.set('__proto__', { __proto__key: 1 });
  forwards.set('gone', 1);
  forwards.delete('gone');
  forwards.delete('never there');
  a.store.table('dns').set('b', 'another table');
  t.equal(a.store.table('forwards'), forwards, 'one table of a name');
  await a.store.close();
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
  t.same(readdirSync(join(path, '..')).sort(), ['state.json', 'state.json.journal'], 'no lock, no temporary file');
  t.equal(readFileSync(`${path}.journal`, 'utf8'), '', 'all of it is in the file');

  const b = await open(path);
  t.same(
    [...b.store.table('forwards').entries()],
    [
      ['b', { port: 1, list: [1, 'x', null], on: true }],
      ['a', 'text'],
      ['__proto__', { __proto__key: 1 }],
    ],
  );
  t.equal(b.store.table('dns').get('b'), 'another table');
  t.equal(b.store.table('other').size, 0);
  t.same(b.reports, []);
  await b.store.close();
});

t.test('a change is on the disk when the call returns: a crash right after loses nothing', async (t) => {
  const path = join(t.testdir(), 'state.json');
  const { store } = await open(path);
  t.teardown(() => store.close());
  store.table('x').set('one', 1);
  const copy = crashCopy(path);
  t.notOk(existsSync(copy), 'the whole is not written yet');
  const b = await open(copy, 1);
  t.equal(b.store.table('x').get('one'), 1);
  await until(() => existsSync(copy) && readFileSync(`${copy}.journal`, 'utf8') === '');
  t.match(readFileSync(copy, 'utf8'), '"one"', 'and it is written as a whole soon after');
  await b.store.close();
});

t.test('lines that the file has already are not applied again, and those after it are', async (t) => {
  const path = join(t.testdir(), 'state.json');
  const a = await open(path);
  const x = a.store.table('x');
  x.set('k', 'old');
  const oldJournal = readFileSync(`${path}.journal`, 'utf8');
  x.set('k', 'new');
  x.delete('k');
  x.set('m', 1);
  await a.store.close();
  // A crash between the file's rename and the journal's: the old journal is still there.
  writeFileSync(`${path}.journal`, oldJournal);
  const b = await open(path);
  t.same([...b.store.table('x').entries()], [['m', 1]]);
  b.store.table('x').set('n', 2);
  const copy = crashCopy(path);
  await b.store.close();
  const c = await open(copy);
  t.same(
    [...c.store.table('x').entries()],
    [
      ['m', 1],
      ['n', 2],
    ],
  );
  await c.store.close();
});

t.test('a journal that broke off in the middle of a line loses that line only, and goes on', async (t) => {
  const path = join(t.testdir(), 'state.json');
  const a = await open(path);
  a.store.table('x').set('k', 1);
  const copy = crashCopy(path);
  await a.store.close();
  appendFileSync(`${copy}.journal`, '{"s":2,"t":"x","k":"torn","v":{"a":');
  const b = await open(copy);
  t.same([...b.store.table('x').entries()], [['k', 1]]);
  b.store.table('x').set('after', 2);
  const again = join(dirname(path), 'again.json');
  copyFileSync(`${copy}.journal`, `${again}.journal`);
  await b.store.close();
  const c = await open(again);
  t.equal(c.store.table('x').get('after'), 2, 'it stands on a line of its own');
  await c.store.close();
});

t.test('a file that is broken is put aside and reported, never overwritten', async (t) => {
  const dir = t.testdir();
  const path = join(dir, 'state.json');
  for (const [text, problem] of [
    ['{"version":1,"seq":3,"tab', /is not JSON/],
    ['{"version":2}', /is not of version 1/],
    ['null', /is not of version 1/],
  ] as const) {
    writeFileSync(path, text);
    const { store, reports } = await open(path);
    t.match(reports, [problem]);
    const aside = /kept as (\S+),/.exec(reports[0]!)![1]!;
    t.equal(readFileSync(aside, 'utf8'), text);
    store.table('x').set('k', 1);
    await store.close();
    t.match(readFileSync(path, 'utf8'), '"k"');
  }
  writeFileSync(path, '{"version":1,"seq":3,"tables":{"x":[["good",1],["good"],[2,3],"bad"],"y":7}}');
  const { store, reports } = await open(path);
  t.equal(store.table('x').get('good'), undefined, 'the later entry of a key holds: no value');
  t.match(reports, [/2 entries are malformed.*a copy of the file is/]);
  await store.close();
});

t.test(
  'without a path it is in memory; a directory that cannot be written makes set throw and change nothing',
  async (t) => {
    const memory = await open(undefined);
    memory.store.table('x').set('k', 1);
    t.equal(memory.store.table('x').get('k'), 1);
    await memory.store.close();

    const dir = t.testdir({ file: '' });
    const { store, reports } = await open(join(dir, 'file', 'state.json'));
    t.match(reports.join('\n'), /its journal cannot be made/);
    t.throws(() => store.table('x').set('k', 1), /cannot be written/);
    t.equal(store.table('x').get('k'), undefined);
    await store.close();
  },
);

t.test('a second daemon on the same state keeps its own in memory; after the first one it has the file', async (t) => {
  const path = join(t.testdir(), 'state.json');
  const a = await open(path);
  a.store.table('x').set('k', 'a');
  const b = await open(path);
  t.match(b.reports, [/is another daemon's.*--state-dir/]);
  t.equal(b.store.table('x').size, 0);
  b.store.table('x').set('k', 'b');
  await b.store.close();
  await a.store.close();
  const c = await open(path);
  t.equal(c.store.table('x').get('k'), 'a');
  t.same(c.reports, []);
  await c.store.close();
});

t.test(
  'any changes, with the whole written in between at any time, and a crash at the end: the same tables',
  async (t) => {
    const change = fc.record({
      table: fc.constantFrom('x', 'y'),
      key: fc.constantFrom('a', 'b', 'c'),
      value: fc.option(fc.jsonValue(), { nil: undefined }),
      pause: fc.boolean(),
    });
    let run = 0;
    const base = t.testdir();
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 30 }), async (changes) => {
        const path = join(base, `${run++}`, 'state.json');
        const { store } = await open(path, 0);
        const model = new Map<string, unknown>();
        try {
          for (const { table, key, value, pause } of changes) {
            if (value === undefined) {
              store.table(table).delete(key);
              model.delete(table + key);
            } else {
              store.table(table).set(key, value);
              model.set(table + key, value);
            }
            if (pause) await delay(1);
          }
          const copy = join(base, `${run++}`, 'state.json');
          mkdirSync(dirname(copy), { recursive: true });
          for (const suffix of ['', '.journal'])
            if (existsSync(path + suffix)) copyFileSync(path + suffix, copy + suffix);
          const { store: again } = await open(copy);
          const found = new Map<string, unknown>();
          for (const name of ['x', 'y'])
            for (const [key, value] of again.table(name).entries()) found.set(name + key, value);
          await again.close();
          t.same(
            [...found].sort(([a], [b]) => (a < b ? -1 : 1)),
            JSON.parse(JSON.stringify([...model].sort(([a], [b]) => (a < b ? -1 : 1)))),
          );
        } finally {
          await store.close();
        }
      }),
      { numRuns: 40 },
    );
  },
);
