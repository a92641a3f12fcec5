// Sixteen guests that ask for names nobody has asked for before, beside names that the cache knows: nothing grows, sockets stay
// few, every question has its answer. Short in the suite; ISTHMUS_SOAK=1 asks 10,000 names a second for a minute, holds cached
// answers to 2 ms at the 99th percentile, and then goes on at a steady pace for an hour (ISTHMUS_SOAK_MINUTES: that many).

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { DnsLoad, DnsLoadReport } from '../helpers/dns-load.ts';
import { soak } from '../helpers/requirements.ts';
import { Rig } from './rig.ts';

t.setTimeout(soak ? 12 * 3_600_000 : 120_000);

const ends = fileURLToPath(new URL('../helpers/dns-load.js', import.meta.url));
const CACHE_BYTES = 8 * 1024 * 1024;
/** 96 and the spare third, and TCP. */
const SOCKETS_MAX = 128 + 32;
const descriptors = () => readdirSync('/proc/self/fd').length;

interface Peaks {
  sockets: number;
  inFlight: number;
  cacheBytes: number;
  descriptors: number;
}

async function network(t: Test): Promise<Rig> {
  const server = fork(ends, ['dns-server'], { execArgv: [] });
  t.teardown(() => server.kill());
  const [port] = (await once(server, 'message')) as [number];
  return Rig.start(t, ['--dns', `127.0.0.1:${port}`]);
}

/** Puts a load on, and sees how much of everything there is at most. */
async function run(t: Test, rig: Rig, load: Omit<DnsLoad, 'path'>): Promise<{ report: DnsLoadReport; peaks: Peaks }> {
  const peaks: Peaks = { sockets: 0, inFlight: 0, cacheBytes: 0, descriptors: 0 };
  const look = (): void => {
    peaks.sockets = Math.max(peaks.sockets, rig.metric('dns_upstream_sockets'));
    peaks.inFlight = Math.max(peaks.inFlight, rig.metric('dns_in_flight'));
    peaks.cacheBytes = Math.max(peaks.cacheBytes, rig.metric('dns_cache_bytes'));
    peaks.descriptors = Math.max(peaks.descriptors, descriptors());
  };
  const watch = setInterval(look, 20);
  const guests: ChildProcess = fork(ends, ['dns-guests', JSON.stringify({ ...load, path: rig.qemu })], {
    execArgv: [],
  });
  t.teardown(() => guests.kill());
  const [report] = (await once(guests, 'message')) as [DnsLoadReport];
  clearInterval(watch);
  look();
  await rig.until(() => rig.metric('vms') === 0, 'the guests have gone');
  t.comment(JSON.stringify({ ...report, ...peaks, residentMb: Math.round(process.memoryUsage().rss / 1e6) }));
  return { report, peaks };
}

function bounded(t: Test, peaks: Peaks, before: number, guests: number): void {
  t.ok(peaks.sockets <= SOCKETS_MAX, `${peaks.sockets} sockets to the server`);
  t.ok(peaks.descriptors - before <= SOCKETS_MAX + guests + 10, `${peaks.descriptors - before} descriptors`);
  t.ok(peaks.cacheBytes <= CACHE_BYTES, `${peaks.cacheBytes} bytes of answers`);
}

t.test('16 guests, new names and known ones: every question answered, everything bounded', async (t) => {
  const rig = await network(t);
  const before = descriptors();
  const load = { guests: 16, seconds: 2, newPerSecond: 2000, knownPerSecond: 500 };
  const { report, peaks } = await run(t, rig, load);
  t.equal(report.asked, 64 + 2 * 2500);
  t.equal(report.answered, report.asked);
  t.equal(report.wrong, 0);
  t.equal(report.knownAnswered, 1000);
  bounded(t, peaks, before, 16);
  t.equal(rig.metric('dns_in_flight'), 0);
  t.equal(rig.metric('dns_lookups_total'), 64 + 2 * 2000, 'each new name once, known ones never again');
  t.equal(rig.metric('dns_cache_hits_total'), 1000);
  await rig.until(() => rig.metric('dns_upstream_sockets') === 0, 'idle sockets are closed', 15_000);
  t.ok(descriptors() <= before + 2, 'and no descriptor is left');
});

t.test(
  'ISTHMUS_SOAK: 10,000 new names a second for a minute, then the long run',
  {
    skip: soak ? false : 'only with ISTHMUS_SOAK=1',
    timeout: 0,
  },
  async (t) => {
    const rig = await network(t);
    const before = descriptors();
    // Compiled and warm; the cache fills here.
    await run(t, rig, { guests: 16, seconds: 10, newPerSecond: 10_000, knownPerSecond: 1000 });
    const warmMb = process.memoryUsage().rss / 1e6;
    const { report, peaks } = await run(t, rig, {
      guests: 16,
      seconds: 60,
      newPerSecond: 10_000,
      knownPerSecond: 1000,
    });
    t.equal(report.answered, report.asked);
    t.equal(report.wrong, 0);
    t.ok(report.p99Ms < 2, `p99 of cached answers ${report.p99Ms} ms`);
    bounded(t, peaks, before, 16);
    const grownMb = process.memoryUsage().rss / 1e6 - warmMb;
    t.ok(grownMb < 32, `${grownMb} MB more after 600,000 names`);
    const minutes = Number(process.env.ISTHMUS_SOAK_MINUTES ?? 60);
    const steady = { guests: 16, seconds: 60, newPerSecond: 500, knownPerSecond: 500 };
    let first: DnsLoadReport | undefined;
    for (let i = 0; i < minutes; i++) {
      const minute = await run(t, rig, steady);
      first ??= minute.report;
      t.equal(minute.report.answered, minute.report.asked);
      t.equal(minute.report.wrong, 0);
      bounded(t, minute.peaks, before, 16);
      if (i === minutes - 1) t.ok(minute.report.p50Ms < first.p50Ms * 1.5 + 0.2, 'as fast as in the first minute');
    }
    t.ok(process.memoryUsage().rss / 1e6 - warmMb < 48, 'no growth');
  },
);
