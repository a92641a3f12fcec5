// The command as a user runs it: child processes, exit codes, one-line errors, signals, and what is left behind.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';

const PROGRAM = fileURLToPath(new URL('./fixture/fake-daemon.js', import.meta.url));
const ENV = { PATH: process.env.PATH ?? '', HOME: '/nonexistent' };

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

class Run {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly ended: Promise<Ended>;

  constructor(
    t: Test,
    args: readonly string[],
    env: Record<string, string> = {},
    stdio: ('pipe' | 'ignore')[] = ['ignore', 'pipe', 'pipe'],
  ) {
    this.child = spawn(process.execPath, [PROGRAM, ...args], { env: { ...ENV, ...env }, stdio });
    this.child.stdout?.on('data', (chunk) => {
      this.stdout += chunk;
    });
    this.child.stderr?.on('data', (chunk) => {
      this.stderr += chunk;
    });
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code) => resolve({ code, stdout: this.stdout, stderr: this.stderr }));
    });
    t.teardown(() => this.child.kill('SIGKILL'));
  }

  /** Waits until one of the outputs has this text. */
  async until(text: string): Promise<void> {
    while (!this.stdout.includes(text) && !this.stderr.includes(text)) {
      const more = await Promise.race([
        this.ended.then(() => false),
        ...[this.child.stdout, this.child.stderr].map(
          (stream) => new Promise<boolean>((resolve) => stream?.once('data', () => resolve(true))),
        ),
      ]);
      if (!more && !this.stdout.includes(text) && !this.stderr.includes(text)) {
        throw new Error(`ended without "${text}": ${this.stderr}`);
      }
    }
  }

  async ready(): Promise<Record<string, unknown>> {
    await this.until('"event":"ready"');
    return JSON.parse(this.stdout.split('\n')[0]!);
  }

  /** Sends a signal and tells how long the end takes. */
  async end(signal: NodeJS.Signals): Promise<Ended & { ms: number }> {
    const start = performance.now();
    this.child.kill(signal);
    return { ...(await this.ended), ms: performance.now() - start };
  }
}

function tempDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-run-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

function now(args: readonly string[], env: Record<string, string> = {}): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], {
    env: { ...ENV, ...env },
    encoding: 'utf8',
    timeout: 10_000,
  });
  return { code: status, stdout, stderr };
}

function get(socketPath: string, path: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, path, agent: false }, (res) => {
      let text = '';
      res.on('data', (chunk) => {
        text += chunk;
      });
      res.on('end', () => resolve({ status: res.statusCode ?? 0, text }));
    });
    req.on('error', reject);
    req.end();
  });
}

function records(stderr: string): Record<string, unknown>[] {
  return stderr
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
}

t.test('help and version: standard output, exit 0', (t) => {
  for (const args of [
    ['--help'],
    ['-h'],
    ['help'],
    ['help', 'run'],
    ['run', '--help'],
    ['run', '-h'],
    ['version', '--help'],
  ]) {
    t.match(now(args), { code: 0, stdout: /^Usage: isthmus/, stderr: '' }, args.join(' '));
  }
  for (const args of [['--version'], ['-V'], ['version']])
    t.match(now(args), { code: 0, stdout: /^isthmus \d+\.\d+\.\d+/ });
  t.match(JSON.parse(now(['version', '--json']).stdout), { version: /^\d/, node: process.versions.node });
  t.end();
});

t.test('a wrong command line: one line on standard error, exit 64', (t) => {
  const cases: [string[], RegExp][] = [
    [[], /no command is given/],
    [['rnu'], /did you mean run\?/],
    [['--vm', 'qemu:/x'], /isthmus run --vm/],
    [['run', '--vn', 'qemu:/x'], /--vn is not a flag of isthmus run; did you mean --vm\?/],
    [['run', '--bananas'], /--bananas is not a flag/],
    [['run', '-x'], /-x is not a flag/],
    [['run', '--vm'], /vm \(--vm\): has no value; expected --vm URL/],
    [['run', '--vm', '--strict'], /has no value \(--strict follows/],
    [['run', '--vm', 'qemu:/x', 'more'], /"more" is not a flag/],
    [['run', '--vm', 'qemu:/x', '--json'], /--json belongs to --print-config/],
    [['run', '--vm', 'qemu:fd:x\ny'], /vm \(--vm\): "qemu:fd:x\\x0ay"/],
    [['run', '--help=yes'], /--help takes no value/],
    [['run', '--vm', 'qemu:/x', '--strict=perhaps'], /strict \(--strict\): "perhaps"/],
    [['version', 'now'], /"now" does not belong here/],
    [['help', 'me'], /"me" is not a command/],
  ];
  for (const [args, words] of cases) {
    const { code, stdout, stderr } = now(args);
    t.match(stderr, words, args.join(' '));
    t.match(stderr, /^isthmus: [^\n]+\n$/, 'one line');
    t.equal(code, 64);
    t.equal(stdout, '');
  }
  t.end();
});

t.test('configuration mistakes: one line, exit 78; unreadable files 66', (t) => {
  t.match(now(['run', '--vm', 'qemu:/x'], { ISTHMUS_MTU: '1' }), {
    code: 78,
    stderr: /^isthmus: mtu \(ISTHMUS_MTU\): [^\n]+\n$/,
  });
  t.match(now(['run', '--config', '/nonexistent']), { code: 66, stderr: /^isthmus: config [^\n]+\n$/ });
  t.end();
});

t.test('--print-config as text and as JSON, needing no VM', (t) => {
  const text = now(['run', '--print-config', '--mtu', '9000'], { ISTHMUS_DOMAIN: 'corp.example', ISTHMUS_MUT: '1' });
  t.equal(text.code, 0);
  t.match(text.stdout, /^mtu: 9000 # --mtu$/m);
  t.match(text.stdout, /^domain: corp\.example # ISTHMUS_DOMAIN$/m);
  t.match(text.stderr, /ISTHMUS_MUT is not a variable of isthmus; did you mean ISTHMUS_MTU\?/);
  const json = JSON.parse(now(['run', '--print-config', '--json', '--mtu=9000']).stdout);
  t.strictSame(json.mtu, { value: '9000', source: 'flag', from: '--mtu' });
  t.end();
});

t.test('a life: ready, health, metrics, reload, SIGTERM; nothing is left behind', async (t) => {
  const dir = tempDir(t);
  const [vm, control, pid] = ['vm.sock', 'control.sock', 'pid'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  const run = new Run(
    t,
    [
      'run',
      '--vm',
      `qemu:${vm}`,
      '--control',
      control,
      '--pid-file',
      pid,
      '--metrics',
      '127.0.0.1:0',
      '--ready-fd',
      '3',
    ],
    {},
    ['ignore', 'pipe', 'pipe', 'pipe'],
  );
  let told = '';
  const fdClosed = new Promise((resolve) => {
    run.child.stdio[3]!.on('data', (chunk) => {
      told += chunk;
    });
    run.child.stdio[3]!.on('end', resolve);
  });
  const ready = await run.ready();
  t.match(ready, {
    event: 'ready',
    pid: run.child.pid,
    version: /^\d/,
    vm: [{ url: `qemu:${vm}`, path: vm, mtu: 65520 }],
    publish: [],
    control,
    metrics: /^127\.0\.0\.1:\d+$/,
  });
  await fdClosed;
  t.equal(told, run.stdout, '--ready-fd gets the same line and is closed');
  t.equal(readFileSync(pid, 'utf8'), `${run.child.pid}\n`);
  t.equal(statSync(control).mode & 0o777, 0o600);
  t.strictSame(readdirSync(dir).sort(), ['control.sock', 'pid', 'vm.sock']);

  t.match(await get(control, '/healthz'), { status: 200, text: /"status":"ok"/ });
  run.child.kill('SIGHUP');
  await run.until('daemon.reloaded');
  const { text } = await get(control, '/metrics');
  t.match(text, /^isthmus_fake_reloads_total 1$/m);
  t.match(text, /^isthmus_daemon_reloads_total 1$/m);
  t.match(text, /^isthmus_build_info\{version="[^"]+",node="[^"]+"\} 1$/m);

  const { code, ms, stderr } = await run.end('SIGTERM');
  t.equal(code, 0);
  t.ok(ms < 1000, `ended after ${ms} ms`);
  t.strictSame(readdirSync(dir), []);
  t.match(
    records(stderr).map((record) => record.event),
    ['network.starting', 'daemon.ready', 'daemon.reloaded', 'daemon.stopping', 'daemon.stopped'],
  );
});

t.test('SIGINT ends it too, and so does a signal while it starts', async (t) => {
  const dir = tempDir(t);
  const args = ['run', '--vm', `qemu:${join(dir, 'vm')}`];
  const one = new Run(t, args);
  await one.ready();
  t.equal((await one.end('SIGINT')).code, 0);
  const two = new Run(t, args, { FAKE_NETWORK: 'starts-slowly' });
  const sock = join(dir, 'vm');
  while (!existsSync(sock)) await new Promise((resolve) => setTimeout(resolve, 5));
  const { code, stdout, ms } = await two.end('SIGTERM');
  t.equal(code, 0);
  t.ok(ms < 1000);
  t.equal(stdout, '', 'readiness is not told any more');
  t.strictSame(readdirSync(dir), []);
});

t.test('a network that does not end is left after a second; a second signal is obeyed at once', async (t) => {
  const dir = tempDir(t);
  const args = ['run', '--vm', `qemu:${join(dir, 'vm')}`];
  const one = new Run(t, args, { FAKE_NETWORK: 'hangs' });
  await one.ready();
  const { code, ms, stderr } = await one.end('SIGTERM');
  t.equal(code, 0);
  t.ok(ms < 1100, `ended after ${ms} ms`);
  t.match(stderr, 'daemon.stop.late');
  t.strictSame(readdirSync(dir), []);

  const two = new Run(t, args, { FAKE_NETWORK: 'hangs' });
  await two.ready();
  two.child.kill('SIGTERM');
  await two.until('daemon.stopping');
  const again = await two.end('SIGTERM');
  t.equal(again.code, 1);
  t.ok(again.ms < 500, `ended after ${again.ms} ms`);
  t.strictSame(readdirSync(dir), []);
});

t.test('a start that fails: one line, its exit code, nothing left behind', async (t) => {
  const dir = tempDir(t);
  const args = ['run', '--vm', `qemu:${join(dir, 'vm')}`, '--control', join(dir, 'c'), '--pid-file', join(dir, 'pid')];
  const refused = now(args, { FAKE_NETWORK: 'refuses' });
  t.match(refused, { code: 69, stdout: '' });
  t.equal(refused.stderr.replace('fake: stopped\n', ''), 'isthmus: publish: 127.0.0.1:80 is taken\n');
  const broken = now(args, { FAKE_NETWORK: 'breaks' });
  t.match(broken, { code: 1, stdout: '', stderr: /isthmus: unexpected error: TypeError: not a function[^\n]*\n$/ });
  t.strictSame(readdirSync(dir), []);
  const debug = now([...args, '--log-level', 'debug'], { FAKE_NETWORK: 'refuses' });
  t.match(records(debug.stderr), [{ event: 'network.starting' }], 'with debug, what led to it is logged');
  // Some of these are open, as descriptors of Node itself.
  for (let fd = 3; fd < 24; fd += 2) {
    t.match(now([...args, '--ready-fd', `${fd}`]), {
      code: 64,
      stderr: /^isthmus: ready-fd: descriptor \d+ (is not open|was not handed down for writing); expected/,
    });
  }
  t.match(now(['run', '--vm', `qemu:${join(dir, 'no', 'vm')}`]), {
    code: 73,
    stderr: /^isthmus: vm: .*there is no directory/m,
  });
  t.match(now([...args, '--pid-file', join(dir, 'no', 'pid')]), { code: 64 }, 'twice given');
  t.strictSame(readdirSync(dir), []);
});

t.test('taken sockets and pid files: exit 69, and the first daemon lives on', async (t) => {
  const dir = tempDir(t);
  const [vm, control, pid] = ['vm', 'c', 'pid'].map((name) => join(dir, name)) as [string, string, string];
  const first = new Run(t, ['run', '--vm', `qemu:${vm}`, '--control', control, '--pid-file', pid]);
  await first.ready();
  const start = (v: string, c: string, p: string) => now(['run', '--vm', `qemu:${v}`, '--control', c, '--pid-file', p]);
  t.match(start(vm, `${control}2`, `${pid}2`), { code: 69, stderr: /isthmus: vm: .* is in use/ });
  t.match(start(`${vm}2`, control, `${pid}2`), { code: 69, stderr: /isthmus: control: .* is in use/ });
  t.match(start(`${vm}2`, `${control}2`, pid), { code: 69, stderr: /^isthmus: pid-file: .* is held by process \d+/ });
  t.strictSame(readdirSync(dir).sort(), ['c', 'pid', 'vm']);
  t.match(await get(control, '/healthz'), { status: 200 });
  first.child.kill('SIGKILL');
  await first.ended;
  t.strictSame(readdirSync(dir).sort(), ['c', 'pid', 'vm'], 'killed: all is left');
  const second = new Run(t, ['run', '--vm', `qemu:${vm}`, '--control', control, '--pid-file', pid]);
  await second.ready();
  t.equal(readFileSync(pid, 'utf8'), `${second.child.pid}\n`, 'and all is taken over');
  t.equal((await second.end('SIGTERM')).code, 0);
  t.strictSame(readdirSync(dir), []);
});

t.test('pid files: of a number used again, empty, and not a pid file', async (t) => {
  const dir = tempDir(t);
  const pid = join(dir, 'pid');
  const args = ['run', '--vm', `qemu:${join(dir, 'vm')}`, '--pid-file', pid];
  writeFileSync(pid, 'precious data\n');
  t.match(now(args), { code: 73, stderr: /^isthmus: pid-file: .* is not a pid file/ });
  t.equal(readFileSync(pid, 'utf8'), 'precious data\n');
  for (const stale of ['', `${process.pid}\n`]) {
    writeFileSync(pid, stale);
    // Written long before this process began: its number has been used again. Only Linux can tell.
    utimesSync(pid, 1, 1);
    if (stale !== '' && process.platform !== 'linux') continue;
    const run = new Run(t, args);
    await run.ready();
    t.equal(readFileSync(pid, 'utf8'), `${run.child.pid}\n`);
    await run.end('SIGTERM');
    t.notOk(existsSync(pid));
  }
});

t.test('an error that nobody catches: one line of log, nothing left behind, exit 1', async (t) => {
  for (const mode of ['crashes', 'rejects']) {
    const dir = tempDir(t);
    const vm = join(dir, 'vm');
    const run = new Run(t, ['run', '--vm', `qemu:${vm}`, '--control', join(dir, 'c'), '--pid-file', join(dir, 'pid')], {
      FAKE_NETWORK: mode,
    });
    await run.ready();
    connect({ path: vm }).on('error', () => {});
    const { code, stderr } = await run.ended;
    t.equal(code, 1, mode);
    const last = stderr.trimEnd().split('\n').at(-1)!;
    t.match(JSON.parse(last), { level: 60, event: 'daemon.crashed', err: { stack: /Error/ } });
    t.strictSame(readdirSync(dir), []);
  }
});

t.test('standard output and error that nobody reads any more do not end it', async (t) => {
  const dir = tempDir(t);
  const control = join(dir, 'c');
  const run = new Run(t, ['run', '--vm', `qemu:${join(dir, 'vm')}`, '--control', control, '--log-level', 'trace']);
  run.child.stdout!.destroy();
  run.child.stderr!.destroy();
  while (!existsSync(control)) await new Promise((resolve) => setTimeout(resolve, 5));
  for (let i = 0; i < 3; i++) {
    run.child.kill('SIGHUP');
    t.match(await get(control, '/healthz'), { status: 200 });
  }
  const { code } = await run.end('SIGTERM');
  t.equal(code, 0);
  t.strictSame(readdirSync(dir), []);
});

t.test('with a VM on stdio the readiness line goes to standard error', async (t) => {
  const run = new Run(t, ['run', '--vm', 'qemu:stdio']);
  await run.until('"event":"ready"');
  const { stdout, stderr, code } = await run.end('SIGTERM');
  t.equal(stdout, '');
  t.match(records(stderr), [{ event: 'ready', vm: [{ url: 'qemu:stdio', path: null }] }]);
  t.equal(code, 0);
});

t.test('it ends by itself, with 0, when no VM can ever come again', async (t) => {
  const run = new Run(t, ['run', '--vm', 'qemu:stdio'], { FAKE_NETWORK: 'finishes' });
  const { code, stderr } = await run.ended;
  t.equal(code, 0);
  t.match(stderr, 'the last link has ended');
});

t.test('degraded health, failing reload and failing stop are told', async (t) => {
  const dir = tempDir(t);
  const args = ['run', '--vm', `qemu:${join(dir, 'vm')}`, '--control', join(dir, 'c')];
  const degraded = new Run(t, args, { FAKE_NETWORK: 'degraded' });
  await degraded.ready();
  t.match(await get(join(dir, 'c'), '/healthz'), {
    status: 200,
    text: /"status":"degraded","reason":"no resolver answers"/,
  });
  await degraded.end('SIGTERM');
  const reload = new Run(t, args, { FAKE_NETWORK: 'reload-fails' });
  await reload.ready();
  reload.child.kill('SIGHUP');
  await reload.until('daemon.reload.failed');
  t.equal((await reload.end('SIGTERM')).code, 0);
  const stop = new Run(t, args, { FAKE_NETWORK: 'stop-fails' });
  await stop.ready();
  t.match(await stop.end('SIGTERM'), { code: 1, stderr: /daemon\.stop\.failed/ });
  t.strictSame(readdirSync(dir), []);
});

t.test('systemd is told by systemd-notify: ready and stopping; without the tool it is logged', async (t) => {
  const dir = tempDir(t);
  const said = join(dir, 'said');
  writeFileSync(join(dir, 'systemd-notify'), `#!/bin/sh\necho "$NOTIFY_SOCKET $*" >> ${said}\n`);
  chmodSync(join(dir, 'systemd-notify'), 0o755);
  const env = { NOTIFY_SOCKET: '/run/notify', PATH: `${dir}:${ENV.PATH}` };
  const run = new Run(t, ['run', '--vm', 'qemu:fd:7'], env);
  await run.ready();
  const lines = async (n: number): Promise<string[]> => {
    for (;;) {
      // Whole lines only: the shell makes the file before it writes.
      const text = existsSync(said) ? readFileSync(said, 'utf8').split('\n').slice(0, -1) : [];
      if (text.length >= n) return text;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  t.match((await lines(1))[0], new RegExp(`^/run/notify READY=1 MAINPID=${run.child.pid} STATUS=1 VM links`));
  await run.end('SIGTERM');
  t.match((await lines(2))[1], /^\/run\/notify STOPPING=1 /);

  const without = new Run(t, ['run', '--vm', 'qemu:fd:7'], { ...env, PATH: '/nonexistent' });
  await without.until('daemon.notify.failed');
  t.match(without.stderr, /systemd-notify cannot be run: install it/);
  t.equal((await without.end('SIGTERM')).code, 0);
});
