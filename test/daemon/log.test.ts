import t from 'tap';
import { LOG_BACKLOG_BYTES, LogRoot } from '../../src/daemon/log.ts';

class Lines {
  writableLength = 0;
  readonly lines: string[] = [];
  write(line: string): void {
    this.lines.push(line);
  }
  get records(): Record<string, unknown>[] {
    return this.lines.map((line) => JSON.parse(line));
  }
}

t.test('lines before and after pino is loaded have one shape, in order', async (t) => {
  const out = new Lines();
  const root = new LogRoot('info', out);
  const child = root.log.child({ part: 'link' }).child({ vm: 1 });
  child.info({ event: 'a' }, 'first');
  child.debug({ event: 'no' }, 'not logged');
  t.strictSame(out.lines, []);
  const before = Date.now();
  await root.load();
  child.info({ event: 'b' }, 'second');
  root.log.child({ part: 'tcp' }).warn({ event: 'c' }, 'third');
  t.match(out.records, [
    { level: 30, pid: process.pid, part: 'link', vm: 1, event: 'a', msg: 'first' },
    { level: 30, pid: process.pid, part: 'link', vm: 1, event: 'b', msg: 'second' },
    { level: 40, pid: process.pid, part: 'tcp', event: 'c', msg: 'third' },
  ]);
  t.ok((out.records[0]!.time as number) <= before, 'an early line keeps its own time');
  for (const line of out.lines) t.ok(line.endsWith('\n'));
});

t.test('an end before pino is loaded loses nothing, errors included', (t) => {
  const out = new Lines();
  const root = new LogRoot('info', out);
  root.log.child({ part: 'x' }).error({ event: 'e', err: new Error('why') }, 'went wrong');
  root.flushEarly();
  root.flushEarly();
  t.match(out.records, [
    { level: 50, pid: process.pid, part: 'x', event: 'e', err: { message: 'why' }, msg: 'went wrong' },
  ]);
  t.end();
});

t.test('a reader that is too slow costs lines, which are counted, not memory', async (t) => {
  const out = new Lines();
  const root = new LogRoot('info', out);
  await root.load();
  out.writableLength = LOG_BACKLOG_BYTES + 1;
  root.log.info({}, 'lost');
  out.writableLength = 0;
  root.log.info({}, 'kept');
  t.equal(root.dropped, 1);
  t.match(out.records, [{ msg: 'kept' }]);
});

t.test('early lines are bounded', (t) => {
  const out = new Lines();
  const root = new LogRoot('info', out);
  for (let i = 0; i < 5000; i++) root.log.info({ i }, 'line');
  root.flushEarly();
  t.equal(out.lines.length + root.dropped, 5000);
  t.equal(out.lines.length, 1024);
  t.end();
});

t.test('levels', (t) => {
  const silent = new LogRoot('silent', new Lines());
  t.notOk(silent.log.isLevelEnabled('fatal'));
  const trace = new LogRoot('trace', new Lines());
  t.ok(trace.log.child({}).isLevelEnabled('trace'));
  t.end();
});
