// The commands that ask a running daemon: what they print on a terminal, in a pipe and as JSON, their exit codes, and where they look for
// the daemon.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { defaultControlPath, findControl } from '../../src/control/client.ts';
import { parseCommand } from '../../src/daemon/cli.ts';
import { CLIENT_USAGE, parseClientArgs } from '../../src/daemon/client-args.ts';
import { clientHelpText } from '../../src/daemon/client-help.ts';
import { CLIENT_COMMANDS, type ClientCommandName } from '../../src/daemon/client-names.ts';
import { ageText, bytesText, plain, table } from '../../src/daemon/client-output.ts';
import { completionScript } from '../../src/daemon/completion.ts';
import { ControlRig, exchange, serveHttp } from '../control/rig.ts';

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const environment = { ...process.env, NODE_OPTIONS: '' };

function isthmus(args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [daemonEntry(), ...args],
      { env: { ...environment, ...env } },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      },
    );
  });
}

t.test('publish, ports, unpublish', async (t) => {
  const rig = await ControlRig.start(t);
  const env = { ISTHMUS_CONTROL: rig.socket };
  const guest = await rig.guest({ hostName: 'web' });
  serveHttp(guest, 80, 'by the command');
  const made = await isthmus(['publish', '--json', '--owner', 'me', '--label', 'a=b', '127.0.0.1:0:80'], env);
  t.equal(made.code, 0, made.stderr);
  const [forward] = JSON.parse(made.stdout).forwards;
  t.match(forward, { spec: { owner: 'me', labels: { a: 'b' }, lease: 'permanent' } });
  const port = forward.bound[0].split(':')[1];
  t.match(await exchange(Number(port), 'GET / HTTP/1.0\r\n\r\n'), /by the command/);
  const udp = await isthmus(['publish', '--udp', '--guest', 'web', '--key', 'dns', '127.0.0.1:0:53'], env);
  t.match(udp.stdout, /^\w+\tudp 127\.0\.0\.1:\d+\tweb:53\tlistening\t/, 'piped: fields between tabs, no head');
  const ports = await isthmus(['ports'], env);
  t.equal(ports.stdout.trimEnd().split('\n').length, 2);
  t.equal(JSON.parse((await isthmus(['ports', '--json', '--owner', 'me'], env)).stdout).forwards.length, 1);
  t.match(await isthmus(['unpublish', port], env), { code: 0, stdout: '', stderr: '' });
  t.match(await isthmus(['unpublish', port], env), { code: 65, stderr: /^isthmus: there is no forward/ });
  t.match(await isthmus(['unpublish', 'dns'], env), { code: 0 });
  t.equal((await isthmus(['ports'], env)).stdout, '');
  const again = await isthmus(['publish', '127.0.0.1:1:80'], env);
  t.match(again, { code: 65, stderr: /privileged|permission|ip_unprivileged_port_start/ });
  const refused = await isthmus(['publish', '203.0.113.9:0:80'], env);
  t.match(refused, { code: 65, stderr: /^isthmus: .+\n$/ });
});

t.test('publish --lease connection lasts as long as the command', async (t) => {
  const rig = await ControlRig.start(t);
  const child = spawn(
    process.execPath,
    [daemonEntry(), 'publish', '--control', rig.socket, '--lease', 'connection', '127.0.0.1:0:80'],
    { env: environment },
  );
  const count = async (): Promise<number> => (await rig.ask('GET', '/v1/forwards')).json.forwards.length;
  await rig.until(count, (n) => n === 1, 'it listens');
  child.kill('SIGINT');
  const code = await new Promise((resolve) => child.once('exit', resolve));
  t.equal(code, 0);
  await rig.until(count, (n) => n === 0, 'it is gone');
});

t.test('vms, flows, leases, dns, status', async (t) => {
  const rig = await ControlRig.start(t);
  const env = { ISTHMUS_CONTROL: rig.socket };
  const guest = await rig.guest({ hostName: 'alpha' });
  t.match(
    (await isthmus(['vms'], env)).stdout,
    /^1\tqemu:.*#1\t([0-9a-f]{2}:){5}[0-9a-f]{2}\t192\.168\.65\.3\talpha\t.*\tno\n$/,
  );
  t.match(JSON.parse((await isthmus(['vms', '--json'], env)).stdout), { vms: [{ id: 1, hostName: 'alpha' }] });
  t.match(await isthmus(['vms', 'isolate', '1'], env), { code: 0, stdout: '' });
  t.match((await isthmus(['vms'], env)).stdout, /\tyes\n$/);
  t.match(await isthmus(['vms', 'join', '1'], env), { code: 0 });
  t.match(await isthmus(['vms', 'fly', '1'], env), { code: 64 });
  t.match((await isthmus(['leases'], env)).stdout, /^192\.168\.65\.3\t.*\talpha\tactive\t/);
  t.match(await isthmus(['leases', 'remove', '192.168.65.3'], env), { code: 65, stderr: /active/ });
  t.match(await isthmus(['dns', 'add', 'web.test', '192.0.2.1', '192.0.2.2'], env), {
    code: 0,
    stdout: '',
    stderr: '',
  });
  t.match(await isthmus(['dns', 'add', '--zone', 'all.test', '192.0.2.3'], env), { code: 0 });
  t.match((await guest.resolve('x.all.test')).answers, [{ data: '192.0.2.3' }]);
  t.equal(
    (await isthmus(['dns', 'list'], env)).stdout,
    'name\tweb.test\t192.0.2.1,192.0.2.2\t-\nzone\t*.all.test\t192.0.2.3\t-\n',
  );
  t.match(await isthmus(['dns', 'remove', 'web.test', '192.0.2.1'], env), { code: 0 });
  t.match(await isthmus(['dns', 'remove', '--zone', 'all.test'], env), { code: 0 });
  t.match(await isthmus(['dns', 'remove', 'nothing.test'], env), { code: 65 });
  const udp = guest.udp();
  udp.send(Buffer.from('x'), '192.168.65.254', 9);
  const listed = await rig.until(
    () => isthmus(['flows', '--protocol', 'udp'], env),
    ({ stdout }) => stdout !== '',
    'the flow',
  );
  const [id] = listed.stdout.split('\t');
  t.match(await isthmus(['flows', 'kill', id!], env), { code: 0 });
  t.equal((await isthmus(['flows', '--protocol', 'udp'], env)).stdout, '');
  t.match((await isthmus(['status'], env)).stdout, /^status\tok\nversion\t\d.*\npid\t\d+\n/);
  t.match(JSON.parse((await isthmus(['status', '--json'], env)).stdout), {
    status: 'ok',
    vms: 1,
    control: rig.socket,
    pid: rig.daemon.pid,
  });
});

t.test('events, capture, flows --watch: streams', async (t) => {
  const rig = await ControlRig.start(t);
  const env = { ISTHMUS_CONTROL: rig.socket };
  const events = isthmus(['events', '--types', 'dns.records', '--count', '2'], env);
  const json = isthmus(['events', '--json', '--types', 'dns.records', '--count', '1'], env);
  await rig.until(
    async () => (await rig.daemon.metrics()).samples.size,
    () => rig.daemon.fdCount() > 0,
    'it serves',
  );
  let n = 0;
  const timer = setInterval(
    () => void rig.ask('PUT', `/v1/dns/names/n${n++}.test`, { body: { addresses: ['1.1.1.1'] } }),
    50,
  );
  t.teardown(() => clearInterval(timer));
  t.match(await events, {
    code: 0,
    stdout: /^\S+Z dns\.records name=n\d+\.test\n\S+Z dns\.records name=n\d+\.test\n$/,
  });
  t.match(JSON.parse((await json).stdout), { type: 'dns.records', id: /\.\d+$/ });
  clearInterval(timer);

  const guest = await rig.guest();
  const file = join(t.testdir(), 'c.pcapng');
  const capture = spawn(process.execPath, [daemonEntry(), 'capture', '-w', '-', '--control', rig.socket], {
    env: environment,
  });
  const chunks: Buffer[] = [];
  capture.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  await rig.until(
    async () => {
      await guest.ping('192.168.65.1');
      return Buffer.concat(chunks).length;
    },
    (length) => length > 400,
    'frames came',
    10_000,
  );
  capture.kill('SIGINT');
  t.equal(await new Promise((resolve) => capture.once('exit', resolve)), 0);
  writeFileSync(file, Buffer.concat(chunks));
  t.equal(Buffer.concat(chunks).readUInt32BE(0), 0x0a0d0d0a);
  t.match(await isthmus(['capture'], env), { code: 64, stderr: /-w/ });
  t.match(await isthmus(['capture', '-w', '/nowhere/x'], env), { code: 73 });

  const watch = spawn(process.execPath, [daemonEntry(), 'flows', '--watch', '--json', '--control', rig.socket], {
    env: environment,
  });
  const lines: string[] = [];
  watch.stdout.on('data', (chunk: Buffer) => lines.push(...chunk.toString().trim().split('\n')));
  await rig.until(
    async () => lines.length,
    (length) => length >= 2,
    'two pages',
    10_000,
  );
  watch.kill('SIGINT');
  for (const line of lines) t.type(JSON.parse(line).total, 'number');
});

t.test('stop, and what is told when no daemon answers', async (t) => {
  const rig = await ControlRig.start(t);
  const env = { ISTHMUS_CONTROL: rig.socket };
  t.match(await isthmus(['stop', '--json'], env), { code: 0, stdout: '{"status":"stopped"}\n' });
  t.strictSame(await rig.daemon.exited, { code: 0, signal: null });
  t.notOk(existsSync(rig.socket));
  for (const command of ['vms', 'stop', 'status', 'events'])
    t.match(
      await isthmus([command], env),
      { code: 69, stdout: '', stderr: /^isthmus: no daemon answers on .* \(ISTHMUS_CONTROL\): .*\n$/ },
      command,
    );
  const drained = await ControlRig.start(t);
  t.match(await isthmus(['stop', '--drain', '5', '--control', drained.socket]), { code: 0 });
});

t.test('a token on --control-tcp', async (t) => {
  const token = '0123456789abcdefghij';
  const folder = t.testdir({ token });
  const rig = await ControlRig.start(t, [
    '--control-tcp',
    '127.0.0.1:0',
    '--control-token-file',
    join(folder, 'token'),
  ]);
  const control = `tcp:${rig.daemon.ready.controlTcp}`;
  t.match(await isthmus(['vms', '--control', control], { ISTHMUS_CONTROL_TOKEN: token }), { code: 0 });
  t.match(await isthmus(['vms', '--control', control], { ISTHMUS_CONTROL_TOKEN: 'wrong-wrong-wrong' }), {
    code: 65,
    stderr: /token/,
  });
});

t.test('command lines: what is refused, and how', (t) => {
  const refused = (name: ClientCommandName, ...args: string[]): string => {
    try {
      parseClientArgs(name, args);
    } catch (error) {
      t.equal((error as { exitCode: number }).exitCode, 64);
      return (error as Error).message;
    }
    return '';
  };
  t.match(refused('publish'), /something is missing; expected SPEC/);
  t.match(refused('ports', 'x'), /"x" is too much; expected no arguments/);
  t.match(refused('flows', '--protcol', 'tcp'), /did you mean --protocol/);
  t.match(refused('flows', '--vm'), /has no value/);
  t.match(refused('flows', '--vm', '1', '--vm', '2'), /2 times/);
  t.match(refused('status', '--json=x'), /takes no value/);
  t.equal(refused('publish', '--help'), '', 'help needs nothing else');
  t.strictSame(parseClientArgs('publish', ['-h']).options, { help: [''] });
  t.strictSame(parseClientArgs('publish', ['80', '--label', 'a=1', '--label', 'b=2']).options, {
    label: ['a=1', 'b=2'],
  });
  t.match(parseCommand(['vms', '--json']), { kind: 'client', name: 'vms', args: ['--json'] });
  t.end();
});

t.test('where the daemon is looked for', (t) => {
  t.equal(defaultControlPath({}, 0), '/run/isthmus.sock');
  t.equal(defaultControlPath({ XDG_RUNTIME_DIR: '/run/user/7' }, 7), '/run/user/7/isthmus.sock');
  t.equal(defaultControlPath({}, 7), '/run/user/7/isthmus.sock');
  t.match(findControl('/a', { ISTHMUS_CONTROL: '/b' }, 0), { kind: 'unix', path: '/a', from: '--control' });
  t.match(findControl(undefined, { ISTHMUS_CONTROL: '/b' }, 0), { path: '/b', from: 'ISTHMUS_CONTROL' });
  t.match(findControl(undefined, { ISTHMUS_CONTROL: '' }, 0), { path: '/run/isthmus.sock', from: 'the default' });
  t.match(findControl('tcp:[::1]:80', { ISTHMUS_CONTROL_TOKEN: 't' }, 0), {
    kind: 'tcp',
    host: '::1',
    port: 80,
    token: 't',
  });
  t.end();
});

t.test('tables, numbers, and what a guest cannot do to a terminal', (t) => {
  const rows = [
    { a: 'x', n: 1 },
    { a: 'longer\x1b[2J\t', n: 20 },
  ];
  const columns = [
    { head: 'NAME', of: (r: { a: string }) => r.a },
    { head: 'N', right: true as const, of: (r: { n: number }) => String(r.n) },
  ];
  t.equal(table(rows, columns, false), 'x\t1\nlonger\\x1b[2J\\x09\t20\n');
  const lines = table(rows, columns, true).split('\n');
  t.match(lines[0], /NAME {15,17}N/);
  t.match(lines[1], /^x +1$/);
  t.notMatch(lines[2], '\x1b');
  t.equal(plain('a\x00b'), 'a\\x00b');
  t.strictSame([0, 999, 1000, 123_456, 1.5e9].map(bytesText), ['0 B', '999 B', '1.0 kB', '123 kB', '1.5 GB']);
  t.strictSame([0, 99, 120, 7200, 400_000, null].map(ageText), ['0s', '99s', '2m', '2h', '5d', '-']);
  t.end();
});

t.test('help and completion have every command and option', (t) => {
  for (const name of Object.keys(CLIENT_COMMANDS) as ClientCommandName[]) {
    const help = clientHelpText(name);
    for (const option of Object.keys(CLIENT_USAGE[name].options))
      t.match(help, new RegExp(`^ {2}--${option}( |,|$)`, 'm'));
    for (const line of help.split('\n')) t.ok(line.length <= 100, line);
    for (const shell of ['bash', 'zsh', 'fish']) {
      const script = completionScript(shell);
      t.match(script, new RegExp(`\\b${name}\\b`));
      for (const option of Object.keys(CLIENT_USAGE[name].options))
        t.ok(script.includes(option), `${shell}: ${name} ${option}`);
    }
  }
  const folder = t.testdir({ 'c.bash': completionScript('bash') });
  const complete = (...words: string[]): string[] =>
    execFileSync(
      'bash',
      [
        '-c',
        `source ${join(folder, 'c.bash')}; COMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _isthmus; printf '%s\\n' "\${COMPREPLY[@]}"`,
      ],
      { encoding: 'utf8' },
    )
      .trim()
      .split('\n');
  t.strictSame(complete('isthmus', 'unp'), ['unpublish']);
  t.strictSame(complete('isthmus', 'publish', '--cl'), ['--client']);
  t.ok(complete('isthmus', 'publish', '--client', '').includes('proxy-protocol-v2'));
  t.strictSame(complete('isthmus', 'dns', 'r'), ['remove']);
  t.ok(complete('isthmus', 'run', '--control').includes('--control-tcp'));
  t.throws(() => completionScript('tcsh'), /expected bash, zsh or fish/);
  t.end();
});

t.test('openapi needs no daemon', async (t) => {
  const { code, stdout } = await isthmus(['openapi']);
  t.equal(code, 0);
  t.ok(JSON.parse(stdout).paths['/v1/forwards'].post);
});
