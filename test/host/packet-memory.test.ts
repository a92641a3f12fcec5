import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { HostClock, HostTimers } from '../../src/host/host-clock.ts';
import { HostRandom } from '../../src/host/host-random.ts';
import { OperatorError } from '../../src/host/operator-error.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';

t.test('one fixed memory: the view, the slab and the WebAssembly memory are the same bytes', (t) => {
  const { memory, mem, slab } = createPacketMemory(4 * 1024 * 1024);
  t.ok(Buffer.isBuffer(mem));
  t.equal(mem.buffer, memory.buffer);
  t.equal(slab.mem, mem);
  t.equal(slab.size, 4 * 1024 * 1024);
  t.throws(() => (memory as unknown as { grow(pages: number): void }).grow(1), 'it never grows, so views stay valid');
  t.end();
});

t.test('wrong sizes name what would be right', (t) => {
  for (const bytes of [0, 1, 4096, 3 * 1024 * 1024, 2 ** 31, -1, Number.NaN, 1.5]) {
    t.throws(() => createPacketMemory(bytes), OperatorError);
  }
  t.throws(() => createPacketMemory(1000), /power of two from 1 MiB to 1 GiB/);
  t.end();
});

t.test('pages that were not touched are not resident', (t) => {
  const module = new URL('../../src/host/packet-memory.js', import.meta.url).href;
  t.ok(fileURLToPath(module));
  const script = `
    const { createPacketMemory } = await import(${JSON.stringify(module)});
    const before = process.memoryUsage().rss;
    const { mem, slab } = createPacketMemory(256 * 1024 * 1024);
    const blocks = Array.from({ length: 100 }, () => slab.alloc(256 * 1024));
    const made = process.memoryUsage().rss;
    mem.fill(1, 0, 64 * 1024 * 1024);
    const touched = process.memoryUsage().rss;
    console.log(JSON.stringify([made - before, touched - made, blocks.length]));`;
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const [made, touched] = JSON.parse(out) as [number, number];
  t.ok(made < 16 * 1024 * 1024, `256 MiB made, 25 MiB handed out: ${made} bytes resident`);
  t.ok(touched > 60 * 1024 * 1024, `64 MiB touched: ${touched} bytes resident`);
  t.end();
});

t.test('the clock is monotonic, timers fire once and can be cancelled', async (t) => {
  const clock = new HostClock();
  let last = clock.now();
  for (let i = 0; i < 1000; i++) {
    const now = clock.now();
    if (now < last) t.fail('went back');
    last = now;
  }
  const timers = new HostTimers();
  let cancelled = 0;
  timers.after(1, () => cancelled++)();
  // Timers of the daemon do not keep the process alive; this one does.
  const keep = setTimeout(() => {}, 5000);
  const start = clock.now();
  await new Promise<void>((resolve) => timers.after(5, resolve));
  clearTimeout(keep);
  t.ok(clock.now() - start >= 4);
  t.equal(cancelled, 0);
});

t.test('random numbers: whole int32 range, over several pools, never the same twice in a row of pools', (t) => {
  const random = new HostRandom();
  const seen = new Set<number>();
  let negative = 0;
  for (let i = 0; i < 5000; i++) {
    const value = random.i32();
    if (value !== (value | 0)) t.fail(`${value} is no int32`);
    if (value < 0) negative++;
    seen.add(value);
  }
  t.ok(seen.size > 4980);
  t.ok(negative > 2200 && negative < 2800);
  t.not(new HostRandom().i32(), new HostRandom().i32());
  t.end();
});
