// The commands that ask a daemon when something is refused: several things in one command line, errors as JSON, a daemon that is
// killed meanwhile.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { freePort } from '../control/rig.ts';
import { environment, keys, start } from './command-rig.ts';

t.test('publish and unpublish of several: what can be done is done, each refusal has its line', async (t) => {
  const { rig, isthmus } = await start(t);
  const held = createServer();
  held.listen(0, '127.0.0.1');
  await once(held, 'listening');
  t.teardown(() => held.close());
  const taken = (held.address() as AddressInfo).port;
  const [a, b] = [await freePort(), await freePort()];
  const some = await isthmus(
    'publish',
    `127.0.0.1:${taken}:80`,
    `127.0.0.1:${a}:80`,
    '203.0.113.9:0:80',
    `127.0.0.1:${b}:81`,
  );
  t.equal(some.code, 65);
  const lines = some.stderr.trimEnd().split('\n');
  t.equal(lines.length, 2, some.stderr);
  t.match(
    lines[0],
    new RegExp(`^isthmus: 127\\.0\\.0\\.1:${taken}:80: .*another program holds 127\\.0\\.0\\.1:${taken}`),
  );
  t.match(lines[1], /^isthmus: 203\.0\.113\.9:0:80: .*no interface of this host has the address/);
  t.equal(some.stdout.trimEnd().split('\n').length, 2, 'the others are told');
  t.same(await keys(rig), [`tcp:127.0.0.1:${a}`, `tcp:127.0.0.1:${b}`].sort());

  const wrong = await isthmus('publish', '127.0.0.1:0:80', '127.0.0.1:99999:80');
  t.match(
    wrong,
    { code: 64, stdout: '', stderr: /^isthmus: [^\n]*\n$/ },
    'a mistake of grammar stops before anything is done',
  );
  t.equal((await keys(rig)).length, 2);

  const gone = await isthmus('unpublish', 'nothing', String(a), `127.0.0.1:${a}`, '1', `tcp:127.0.0.1:${b}`);
  t.match(gone, { code: 65, stdout: '' });
  t.match(gone.stderr.split('\n'), [
    /^isthmus: nothing: there is no forward "nothing"/,
    /^isthmus: 1: there is no/,
    '',
  ]);
  t.same(await keys(rig), []);

  const json = await isthmus('publish', '--json', `127.0.0.1:${taken}:80`, '127.0.0.1:0:80', '203.0.113.9:0:80');
  t.equal(json.code, 65);
  const told = JSON.parse(json.stdout);
  t.equal(told.forwards.length, 1);
  t.match(told.errors, [
    { argument: `127.0.0.1:${taken}:80`, code: 'ERR_PORT_IN_USE' },
    { argument: '203.0.113.9:0:80', code: 'ERR_ADDRESS_NOT_LOCAL' },
  ]);
  t.equal(json.stderr.trimEnd().split('\n').length, 2, 'the lines are there too');
  const both = await isthmus('unpublish', '--json', told.forwards[0].id, 'nothing');
  t.match(JSON.parse(both.stdout), { removed: [told.forwards[0].id], error: { code: 'ERR_FORWARD_NOT_FOUND' } });
  const lasting = await isthmus(
    'publish',
    '--lease',
    'connection',
    '--json',
    '127.0.0.1:0:80',
    `127.0.0.1:${taken}:80`,
  );
  t.match(lasting, { code: 65 });
  t.same(JSON.parse(lasting.stdout).forwards, [], 'those that would go with the command are not told as made');
  await rig.until(
    () => keys(rig),
    (list) => list.length === 0,
    'and go',
  );
  const kill = await isthmus('flows', 'kill', '--json', 'nope', 'neither');
  t.match(JSON.parse(kill.stdout), { ended: [], errors: [{ argument: 'nope' }, { argument: 'neither' }] });
});

t.test('--json: every failure is an object on standard output, and a line on standard error', async (t) => {
  const { rig, isthmus } = await start(t);
  const cases: [code: number, error: object, words: string[]][] = [
    [64, { code: 'ERR_USAGE_COMMAND' }, ['portz']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['vms', '--bogus']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['publish']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['publish', 'x:y:z']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['vms', 'fly', '1']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['capture']],
    [64, { code: 'ERR_USAGE_ARGUMENT' }, ['completion', 'tcsh']],
    [65, { code: 'ERR_VM_NOT_FOUND' }, ['vms', 'disconnect', '77']],
    [65, { code: 'ERR_LEASE_NOT_FOUND' }, ['leases', 'remove', '192.168.65.99']],
    [65, { code: 'ERR_DNS_NOT_FOUND' }, ['dns', 'remove', 'nothing.test']],
    [65, { code: 'ERR_FLOW_NOT_FOUND' }, ['flows', 'kill', 'nothing']],
    [65, { code: 'ERR_FORWARD_NOT_FOUND' }, ['unpublish', 'nothing']],
    [65, { code: 'ERR_VALUE', key: /./ }, ['flows', '--limit', 'many']],
    [65, { code: 'ERR_VM_NOT_FOUND', key: 'query.vm' }, ['capture', '--vm', '77', '-w', '/dev/null']],
    [65, { code: /^ERR_/ }, ['events', '--types', 'no.such']],
    [73, { code: 'ERR_CAPTURE_FILE' }, ['capture', '-w', '/nowhere/x']],
  ];
  for (const [code, error, words] of cases) {
    const name = words.join(' ');
    const ran = await isthmus(...words, '--json');
    t.equal(ran.code, code, name);
    const said = JSON.parse(ran.stdout).error;
    t.match(said, error, name);
    t.match(ran.stderr, /^isthmus: [^\n]+\n$/, name);
    t.ok(ran.stderr.includes(said.message), 'the same words');
    t.equal((await isthmus(...words)).stdout, '', 'nothing of it without --json');
  }
  t.equal(
    (await isthmus('capture', '--vm', '77', '-w', '-', '--json')).stdout,
    '',
    'a capture is all that stands there',
  );
  const { stderr } = await isthmus('publish', '203.0.113.9:81:80');
  t.notMatch(stderr, /\(tcp:203/, 'no key behind a message that has it in words');
  await rig.daemon.stop();
  for (const command of ['vms', 'ports', 'flows', 'leases', 'status', 'stop', 'events', 'dns']) {
    const { code, stdout } = await isthmus(command, '--json');
    t.match(JSON.parse(stdout), { error: { code: 'ERR_CONTROL_UNREACHABLE', message: /no daemon answers/ } }, command);
    t.equal(code, 69);
  }
});

t.test('the daemon is killed: events, capture, flows --watch and publish --lease connection end with 69', async (t) => {
  const { rig } = await start(t);
  const folder = t.testdir();
  const children = [
    ['events', '--json'],
    ['capture', '-w', join(folder, 'a.pcapng')],
    ['capture', '-w', '-'],
    ['flows', '--watch', '--json'],
    ['publish', '--lease', 'connection', '127.0.0.1:0:80'],
  ].map((words) => {
    const child = spawn(process.execPath, [daemonEntry(), ...words, '--control', rig.socket], { env: environment });
    const it = { words, stdout: Buffer.alloc(0), stderr: '', code: once(child, 'exit') };
    child.stdout.on('data', (chunk: Buffer) => {
      it.stdout = Buffer.concat([it.stdout, chunk]);
    });
    child.stderr.on('data', (chunk: Buffer) => {
      it.stderr += chunk;
    });
    return it;
  });
  const guest = await rig.guest();
  await rig.until(
    async () => {
      await guest.ping('192.168.65.1');
      await rig.ask('PUT', '/v1/dns/names/n.test', { body: { addresses: ['1.1.1.1'] } });
      const file = ((): number => {
        try {
          return readFileSync(join(folder, 'a.pcapng')).length;
        } catch {
          return 0;
        }
      })();
      return children.filter((c) => c.stdout.length > 0).length + (file > 400 ? 1 : 0);
    },
    (n) => n === children.length,
    'all of them have something',
    20_000,
  );
  await rig.daemon.stop('SIGKILL');
  for (const { words, code, stderr } of children) t.equal((await code)[0], 69, `${words.join(' ')}: ${stderr}`);
  for (const it of children) t.match(it.stderr, /^isthmus: [^\n]+\n$/, 'a line that says so');
  const last = children[0]!.stdout.toString().trimEnd().split('\n').at(-1)!;
  t.match(JSON.parse(last), { error: { code: 'ERR_CONTROL_LOST' } });
  t.equal(children[2]!.stdout.readUInt32BE(0), 0x0a0d0d0a);
});

t.test('a capture ends with 69 when the daemon is told to end, with 0 when its VM goes', async (t) => {
  const { rig } = await start(t);
  const folder = t.testdir();
  const capture = (name: string, ...more: string[]): { code: Promise<unknown[]>; file: string } => {
    const file = join(folder, name);
    const child = spawn(process.execPath, [daemonEntry(), 'capture', '-w', file, '--control', rig.socket, ...more], {
      env: environment,
    });
    return { code: once(child, 'exit'), file };
  };
  const guest = await rig.guest();
  const size = async (file: string): Promise<number> => {
    await guest.ping('192.168.65.1');
    try {
      return readFileSync(file).length;
    } catch {
      return 0;
    }
  };
  const [all, one] = [capture('all'), capture('one', '--vm', '1')];
  for (const { file } of [all, one])
    await rig.until(
      () => size(file),
      (bytes) => bytes > 400,
      'frames came',
      10_000,
    );
  await guest.close();
  t.equal((await one.code)[0], 0);
  await rig.daemon.stop();
  t.equal((await all.code)[0], 69);
});

t.test('publish without a guest while several VMs are connected: refused, with what would be right', async (t) => {
  const { rig, isthmus } = await start(t);
  await rig.guest({ hostName: 'one' });
  await rig.guest({ hostName: 'two' });
  const refused = await isthmus('publish', '--json', '127.0.0.1:0:80');
  t.match(refused, { code: 65, stderr: /^isthmus: 2 VMs are connected, and no guest is named; name one by [^\n]+\n$/ });
  t.match(JSON.parse(refused.stdout), { forwards: [], error: { code: 'ERR_GUEST_AMBIGUOUS' } });
  t.equal((await isthmus('publish', '--guest', 'two', '127.0.0.1:0:80')).code, 0);
  t.equal((await keys(rig)).length, 1);
});
