// The lease file: round trip over a restart by wall clock, atomic and private, and a broken file never lost nor fatal.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { LeaseFile, type StoredIdentities, type StoredLeases } from '../../src/host/lease-file.ts';
import { Cidr4, parseV4 } from '../../src/ip/address.ts';
import { type LeaseClient, Leases } from '../../src/services/leases.ts';
import { VpnkitIdentities } from '../../src/services/vpnkit-identity.ts';

const ip = (text: string): number => parseV4(text) ?? 0;
const UUID = 'c3d8a1f0-0000-4000-8000-000000000001';
const CLIENT: LeaseClient = {
  vmId: 1,
  mac: Uint8Array.of(0x52, 0x54, 0, 0, 0, 1),
  macText: '52:54:00:00:00:01',
  idKey: '',
};

function daemon(path: string, o: { now?: number; wall?: number; network?: string; delayMs?: number } = {}) {
  const network = Cidr4.parse(o.network ?? '10.0.0.0/24')!;
  const leases = new Leases({
    network,
    gateway: network.network + 1,
    hostAlias: undefined,
    fixed: [],
    leaseMs: 60_000,
  });
  const identities = new VpnkitIdentities(leases, { i32: () => 7 });
  const reports: string[] = [];
  const time = { now: o.now ?? 1000, wall: o.wall ?? Date.UTC(2026, 0, 1) };
  // The tables fit the file's own view of them.
  const stored: { leases: StoredLeases; identities: StoredIdentities } = { leases, identities };
  const file = new LeaseFile({
    path,
    ...stored,
    clock: { now: () => time.now },
    wallClock: () => time.wall,
    delayMs: o.delayMs ?? 250,
    report: (m) => reports.push(m),
  });
  const grant = (c: LeaseClient = CLIENT) => {
    const lease = leases.select(c, undefined, time.now)!;
    leases.bind(lease, c, 60_000, 'web', time.now);
  };
  return { leases, identities, file, reports, time, grant };
}

function dir(t: { teardown: (run: () => void) => unknown }): string {
  const d = mkdtempSync(join(tmpdir(), 'lease-file-'));
  t.teardown(() => rmSync(d, { recursive: true, force: true }));
  return d;
}

t.test('a restart: same leases, same names, same identities, time by wall clock', async (t) => {
  const path = join(dir(t), 'state', 'leases.json');
  const a = daemon(path);
  a.file.load();
  a.grant();
  t.equal(a.identities.identify(UUID, ip('10.0.0.99'), a.time.now).ok, true);
  await a.file.close();
  t.same(a.reports, []);
  t.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.same(readdirSync(join(path, '..')), ['leases.json'], 'no temporary file is left');

  const b = daemon(path, { now: 5, wall: Date.UTC(2026, 0, 1) + 20_000 });
  b.file.load();
  t.same(b.reports, []);
  const records = b.leases.serialise(b.time.now);
  t.equal(records.length, 2);
  t.equal(records[0]?.remainingMs, 40_000, '20 s of a minute have gone');
  t.equal(b.leases.names.lookupName('web'), ip('10.0.0.3'));
  const again = b.identities.identify(UUID, undefined, b.time.now);
  t.match(again, { ok: true, address: ip('10.0.0.99'), mac: Uint8Array.of(2, 0x50, 0, 0, 0, 1) });
  await b.file.close();

  const c = daemon(path, { wall: Date.UTC(2030, 0, 1) });
  c.file.load();
  t.ok((c.leases.serialise(c.time.now)[0]?.remainingMs ?? 0) < 0, 'expired, and remembered');
  await c.file.close();
});

t.test('changes are written by themselves, once for many, within a second', async (t) => {
  const path = join(dir(t), 'leases.json');
  const a = daemon(path, { delayMs: 20 });
  a.file.load();
  for (let i = 0; i < 100; i++) a.grant();
  t.notOk(existsSync(path), 'not at once');
  const start = performance.now();
  while (a.file.writes === 0 && performance.now() - start < 5000) await delay(5);
  t.equal(a.file.writes, 1);
  t.match(JSON.parse(readFileSync(path, 'utf8')), { version: 1, leases: [{ address: '10.0.0.3', hostName: 'web' }] });
  a.grant();
  await a.file.close();
  t.equal(a.file.writes, 2, 'close writes what is not yet written');
  a.grant();
  await delay(40);
  t.equal(a.file.writes, 2, 'and nothing after it');
});

t.test('no change, no write', async (t) => {
  const path = join(dir(t), 'leases.json');
  const a = daemon(path);
  a.file.load();
  await a.file.close();
  t.notOk(existsSync(path));
  t.same(a.reports, [], 'a first start is nothing to report');
});

t.test('a broken file is put aside, reported and never fatal', async (t) => {
  const rows: [string, string, RegExp][] = [
    ['empty', '', /is not JSON/],
    ['cut off', '{"version":1,"leases":[{"cli', /is not JSON/],
    ['not an object', '[]', /is not of version 1/],
    ['of the future', '{"version":2,"leases":[]}', /is not of version 1/],
    ['no leases', '{"version":1}', /is not of version 1/],
    ['leases of another type', '{"version":1,"leases":{}}', /is not of version 1/],
  ];
  for (const [name, text, report] of rows) {
    const path = join(dir(t), 'leases.json');
    writeFileSync(path, text);
    const a = daemon(path);
    a.file.load();
    t.equal(a.reports.length, 1, name);
    t.match(a.reports[0], report, name);
    t.ok(a.reports[0]?.includes(`${path}.bad`), name);
    t.equal(readFileSync(`${path}.bad`, 'utf8'), text, `${name}: kept as it was`);
    t.notOk(existsSync(path), name);
    a.grant();
    await a.file.close();
    t.ok(existsSync(path), `${name}: leases start anew`);
  }
});

t.test('an earlier broken file is not replaced by a later one', async (t) => {
  const path = join(dir(t), 'leases.json');
  for (let i = 1; i <= 12; i++) {
    writeFileSync(path, `broken ${i}`);
    daemon(path).file.load();
  }
  t.equal(readFileSync(`${path}.bad`, 'utf8'), 'broken 1');
  t.equal(readFileSync(`${path}.bad.2`, 'utf8'), 'broken 2');
  t.equal(readFileSync(`${path}.bad.9`, 'utf8'), 'broken 12', 'bounded: the last one is');
  t.equal(readdirSync(join(path, '..')).length, 9);
});

t.test('entries that cannot be used are left out, and a copy is kept', async (t) => {
  const path = join(dir(t), 'leases.json');
  const a = daemon(path);
  a.file.load();
  a.grant();
  a.identities.identify(UUID, undefined, a.time.now);
  await a.file.close();
  const before = readFileSync(path, 'utf8');
  const b = daemon(path, { network: '192.168.7.0/24' });
  b.file.load();
  t.equal(b.reports.length, 1);
  t.match(b.reports[0], /2 entries do not fit this network/);
  b.grant();
  await b.file.close();
  t.equal(readFileSync(`${path}.bad`, 'utf8'), before);
  t.match(
    b.identities.identify(UUID, undefined, 0),
    { mac: Uint8Array.of(2, 0x50, 0, 0, 0, 1) },
    'MACs hold in any network',
  );

  const odd = join(dir(t), 'leases.json');
  const leases = [7, null, [], {}, { expires: 'soon' }, { client: '__proto__', expires: '2026-01-01T00:00:00Z' }];
  writeFileSync(odd, JSON.stringify({ version: 1, leases, identities: 'x' }));
  const c = daemon(odd);
  c.file.load();
  t.match(c.reports[0], /7 entries/);
});

t.test('a directory that cannot be: reported, and the daemon goes on', async (t) => {
  const d = dir(t);
  writeFileSync(join(d, 'file'), '');
  const a = daemon(join(d, 'file', 'leases.json'));
  a.file.load();
  t.match(a.reports, [/its directory cannot be made/]);
  a.grant();
  await a.file.close();
  t.equal(a.file.writeFailures, 1);
  t.match(a.reports[1], /cannot be written/);
});

t.test('what lies at the path and is no file of ours is left alone or put aside', async (t) => {
  const d = dir(t);
  const path = join(d, 'leases.json');
  mkdirSync(path);
  const a = daemon(path);
  a.file.load();
  t.match(a.reports, [/cannot be read.*kept as/]);
  t.ok(statSync(`${path}.bad`).isDirectory());

  // A link at the name of the temporary file is not followed.
  const victim = join(d, 'victim');
  writeFileSync(victim, 'precious');
  symlinkSync(victim, `${path}.tmp`);
  a.grant();
  await a.file.close();
  t.equal(readFileSync(victim, 'utf8'), 'precious');
  t.ok(statSync(path).isFile());
});

t.test('a write that fails is tried again and loses nothing', async (t) => {
  const d = join(dir(t), 'state');
  const path = join(d, 'leases.json');
  const a = daemon(path, { delayMs: 5 });
  a.file.load();
  rmSync(d, { recursive: true });
  a.grant();
  const start = performance.now();
  while (a.file.writeFailures === 0 && performance.now() - start < 5000) await delay(5);
  t.match(a.reports, [/cannot be written/]);
  mkdirSync(d);
  chmodSync(d, 0o700);
  await a.file.close();
  t.match(readFileSync(path, 'utf8'), '10.0.0.3');
});
