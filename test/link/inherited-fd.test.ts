import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { framed, pattern, unframe, until, Vm } from './fake-host.ts';

const CHILD = fileURLToPath(new URL('./link-child.js', import.meta.url));
/** Another Node to run the daemon's side with, for checks of other versions by hand. */
const NODE = process.env.ISTHMUS_TEST_NODE ?? process.execPath;

interface Running {
  child: ChildProcess;
  said: () => string;
  exited: () => boolean;
}

function watch(t: Test, child: ChildProcess): Running {
  let text = '';
  let over = false;
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  child.on('close', () => {
    over = true;
  });
  t.teardown(() => child.kill('SIGKILL'));
  return { child, said: () => text, exited: () => over };
}

function run(t: Test, url: string, fd3: number): Running {
  return watch(t, spawn(NODE, [CHILD, url], { stdio: ['ignore', 'ignore', 'pipe', fd3] }));
}

function fdOf(holder: net.Socket | net.Server): number {
  return (holder as unknown as { _handle: { fd: number } })._handle.fd;
}

async function listen(t: Test, at: string | number): Promise<net.Server> {
  const server = net.createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => {
    if (typeof at === 'string') server.listen(at, resolve);
    else server.listen(at, '127.0.0.1', resolve);
  });
  t.teardown(() => server.close());
  return server;
}

function scratch(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-fd-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return join(dir, 's');
}

async function echoes(t: Test, vm: Vm): Promise<void> {
  const sent = Array.from({ length: 20 }, (_, i) => pattern(60 + i * 3000, i));
  for (const frame of sent) vm.socket.write(framed('qemu', frame));
  await until('the echo', () => vm.frames('qemu').length === sent.length);
  t.ok(Buffer.concat(vm.frames('qemu')).equals(Buffer.concat(sent)));
}

for (const kind of ['unix', 'tcp'] as const) {
  t.test(`an inherited ${kind} descriptor that is connected: one link, then it is finished`, async (t) => {
    const server = await listen(t, kind === 'unix' ? scratch(t) : 0);
    const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
    const address = server.address();
    const client = typeof address === 'string' ? net.connect(address) : net.connect((address as net.AddressInfo).port);
    const vm = new Vm(client);
    const ours = await accepted;
    const { said, exited } = run(t, 'qemu:fd:3', fdOf(ours));
    await until('ready', () => said().includes('ready'));
    ours.destroy();
    await echoes(t, vm);
    vm.socket.destroy();
    await until('it ends by itself', exited);
    t.equal(said(), 'ready\nfinished\n');
  });

  t.test(`an inherited ${kind} descriptor that listens: VM after VM`, async (t) => {
    const server = await listen(t, kind === 'unix' ? scratch(t) : 0);
    const address = server.address();
    const { child, said, exited } = run(t, 'qemu:fd:3', fdOf(server));
    await until('ready', () => said().includes('ready'));
    // Closed here without unlinking: the child's descriptor alone listens now.
    server.unref();
    server.on('connection', (socket) => socket.destroy());
    for (let i = 0, served = 0; served < 2 && i < 50; i++) {
      const vm = new Vm(
        typeof address === 'string' ? net.connect(address) : net.connect((address as net.AddressInfo).port),
      );
      vm.socket.write(framed('qemu', pattern(60, i)));
      // Both processes accept from the same queue; what this one gets it closes.
      await until('an answer or the end', () => vm.closed || vm.frames('qemu').length === 1);
      if (vm.frames('qemu').length === 1) served++;
      vm.socket.destroy();
      if (served === 2) t.pass('two VMs, one after the other');
    }
    child.kill('SIGTERM');
    await until('it ends', exited);
    t.equal(said(), 'ready\n');
  });
}

t.test('a descriptor that cannot carry a link: one line, whatever it is', async (t) => {
  const cases: [string, number, RegExp][] = [];
  const nothing = openSync('/dev/null', 'r+');
  cases.push([
    'a file',
    nothing,
    /^error OperatorError: vm: qemu:fd:3: descriptor 3 is no socket; pass a stream socket/,
  ]);
  const server = await listen(t, scratch(t));
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const client = net.connect(server.address() as string);
  const ours = await accepted;
  client.destroy();
  await new Promise((resolve) => client.once('close', resolve));
  cases.push(['a connection whose peer has gone', fdOf(ours), /peer of descriptor 3 has gone/]);
  for (const [what, fd, wanted] of cases) {
    const { said, exited } = run(t, 'qemu:fd:3', fd);
    await until('it ends', exited);
    t.match(said(), wanted, what);
    t.equal(said().trim().split('\n').length, 1);
  }
  closeSync(nothing);
  ours.destroy();
  const none = watch(t, spawn(NODE, [CHILD, 'qemu:fd:77'], { stdio: ['ignore', 'ignore', 'pipe'] }));
  await until('it ends', none.exited);
  t.match(none.said(), /descriptor 77 is not open/);
});

t.test('stdio: two sockets, two pipes, one socket for both, and what is neither', async (t) => {
  const sent = Array.from({ length: 20 }, (_, i) => pattern(60 + i * 3000, i));
  const wire = Buffer.concat(sent.map((f) => framed('qemu', f)));
  const shells: [string, string, string[]][] = [
    ['socket pairs', NODE, [CHILD, 'qemu:stdio']],
    ['pipes', '/bin/sh', ['-c', `cat | "${NODE}" "${CHILD}" qemu:stdio | cat`]],
  ];
  for (const [what, command, args] of shells) {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const { said, exited } = watch(t, child);
    let received = Buffer.alloc(0);
    child.stdout?.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
    });
    child.stdin?.write(wire);
    await until(`${what}: the echo`, () => unframe('qemu', received).frames.length === sent.length);
    t.ok(Buffer.concat(unframe('qemu', received).frames).equals(Buffer.concat(sent)), what);
    child.stdin?.end();
    await until('it ends by itself', exited);
    t.equal(said(), 'ready\nfinished\n', what);
  }

  const server = await listen(t, scratch(t));
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const vm = new Vm(net.connect(server.address() as string));
  const ours = await accepted;
  const both = watch(t, spawn(NODE, [CHILD, 'qemu:stdio'], { stdio: [fdOf(ours), fdOf(ours), 'pipe'] }));
  await until('ready', () => both.said().includes('ready'));
  ours.destroy();
  await echoes(t, vm);
  vm.socket.destroy();
  await until('it ends by itself', both.exited);

  const neither = watch(t, spawn(NODE, [CHILD, 'qemu:stdio'], { stdio: ['ignore', 'pipe', 'pipe'] }));
  await until('it ends', neither.exited);
  t.match(neither.said(), /descriptor 0 is neither a socket nor a pipe/);
});
