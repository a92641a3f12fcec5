// Forwards and the process: what comes back after kill -9, sockets that are handed in, ports that need a privilege.

import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { Forward, ForwardSpec } from '../../src/forwarder/forward-spec.ts';
import { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import { needsProgram } from '../helpers/requirements.ts';

const PROGRAM = fileURLToPath(new URL('./fixture/network-child.js', import.meta.url));

class NetworkChild {
  readonly child: ChildProcess;
  log = '';
  readonly exited: Promise<unknown>;
  readonly #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  private constructor(child: ChildProcess) {
    this.child = child;
    this.exited = once(child, 'exit');
    child.stderr!.on('data', (chunk: Buffer) => {
      this.log += chunk.toString();
    });
    child.on('message', (message: { id: number; result?: unknown; error?: { code: string; message: string } }) => {
      const waiter = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiter?.resolve(message.result as never);
      else waiter?.reject(Object.assign(new Error(message.error.message), { code: message.error.code }));
    });
  }

  /** Resolves once it is ready. @param fds descriptors that it inherits, from 4 up (3 is the IPC channel). */
  static async start(
    t: Test,
    dir: string,
    options: Record<string, unknown> = {},
    how: { readonly under?: readonly string[]; readonly fds?: readonly number[] } = {},
  ): Promise<NetworkChild> {
    const all = {
      vm: `qemu:${join(dir, 'vm.sock')}`,
      'state-dir': join(dir, 'state'),
      hosts: 'none',
      'log-level': 'info',
      ...options,
    };
    const [program = '', ...args] = [...(how.under ?? []), process.execPath, PROGRAM, JSON.stringify(all)];
    const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'pipe', 'ipc', ...(how.fds ?? [])] });
    const it = new NetworkChild(child);
    t.teardown(async () => {
      child.kill('SIGKILL');
      await it.exited;
    });
    await new Promise((resolve, reject) => {
      it.#waiting.set(0, { resolve, reject });
      child.once('exit', (code) => reject(new Error(`ended with ${code}: ${it.log}`)));
    });
    return it;
  }

  call<T>(operation: string, argument?: unknown): Promise<T> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve: resolve as never, reject });
      this.child.send({ id, operation, argument });
    });
  }

  add(spec: ForwardSpec): Promise<Forward> {
    return this.call('add', spec);
  }

  list(): Promise<Forward[]> {
    return this.call('list');
  }

  /** Ends it cleanly. */
  async stop(): Promise<void> {
    this.child.send({ id: -1, operation: 'stop' });
    await this.exited;
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.exited;
  }
}

/** Short enough for sockets. */
function directory(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isth-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Where dgram keeps its handle. */
function stateSymbol(socket: object): symbol {
  return Object.getOwnPropertySymbols(socket).find((s) => String(s).includes('state symbol'))!;
}

const tcp = (port: number, more: object = {}): ForwardSpec => ({
  listen: { kind: 'tcp', address: '127.0.0.1', port },
  target: { kind: 'guest', port: 80 },
  ...more,
});

const essence = ({ id, key, bound, spec, createdAt }: Forward): object => ({ id, key, bound, spec, createdAt });

function read(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(port, '127.0.0.1');
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('end', () => resolve(text));
  });
}

t.test('kill -9: every forward that lasts is back before readiness is told, and works', async (t) => {
  const dir = directory(t);
  const first = await NetworkChild.start(t, dir);
  const path = join(dir, 'web.sock');
  const made = [
    await first.add(tcp(0, { owner: 'compose', labels: { app: 'web' } })),
    await first.add({ listen: { kind: 'unix', path }, target: { kind: 'guest', port: 80 } }),
    await first.add({ listen: { kind: 'udp', address: '127.0.0.1', port: 0 }, target: { kind: 'guest', port: 53 } }),
    await first.add({
      listen: { kind: 'guest', address: '192.168.65.200', port: 80 },
      target: { kind: 'unix', path: join(dir, 'engine.sock') },
    }),
    await first.add(tcp(0, { lease: { until: new Date(Date.now() + 3_600_000).toISOString() } })),
  ];
  const gone = await first.add(tcp(0, { key: 'gone' }));
  await first.add(tcp(0, { key: 'short', lease: { until: new Date(Date.now() + 300).toISOString() } }));
  t.equal(await first.call('remove', gone.id), true);
  await first.kill();
  t.ok(existsSync(path), 'a killed process cleans nothing up');
  await delay(310);

  const second = await NetworkChild.start(t, dir);
  const back = await second.list();
  t.same(back.map(essence), made.map(essence), 'the same ids, keys, addresses and ports');
  t.ok(back.every((f) => f.origin === 'state' && f.state === 'listening'));
  const guest = await EmbeddedGuest.connect({ path: join(dir, 'vm.sock') });
  t.teardown(() => guest.close());
  await guest.dhcp();
  guest.listen(80, (socket) => void socket.on('error', () => {}).end('back'));
  t.equal(await read(Number(made[0]!.bound[0]!.split(':')[1])), 'back');
  await second.stop();

  const third = await NetworkChild.start(t, dir);
  t.same((await third.list()).map(essence), made.map(essence), 'after a clean end too');
});

t.test('kill -9 right after a lease was given: it is back, with its name', async (t) => {
  const dir = directory(t);
  const first = await NetworkChild.start(t, dir);
  const guest = await EmbeddedGuest.connect({ path: join(dir, 'vm.sock'), hostName: 'keeper' });
  t.teardown(() => guest.close());
  const { address } = await guest.dhcp();
  const leases = (): boolean => readdirSync(join(dir, 'state')).some((name) => /^leases-[0-9a-f]+\.json$/.test(name));
  const given = performance.now();
  while (!leases()) await delay(1);
  t.comment(`on the disk ${(performance.now() - given).toFixed(0)} ms after the guest had it`);
  await first.kill();
  const second = await NetworkChild.start(t, dir);
  const other = await EmbeddedGuest.connect({ path: join(dir, 'vm.sock') });
  t.teardown(() => other.close());
  t.not((await other.dhcp()).address, address, 'nobody else gets it');
  t.ok(JSON.stringify(await other.resolve('keeper')).includes(address), 'and DNS knows its name');
  t.same(await second.list(), []);
});

t.test('killed at any moment of many changes: what was answered is so', async (t) => {
  const dir = directory(t);
  const answered = new Map<string, boolean>();
  const begun = new Set<string>();
  for (let round = 0; round < 4; round++) {
    const child = await NetworkChild.start(t, dir);
    const there = new Set((await child.list()).map((f) => f.key));
    for (const [key, is] of answered) t.equal(there.has(key), is, key);
    for (const key of there) t.ok(begun.has(key), 'and nothing that nobody asked for');
    const work: Promise<unknown>[] = [];
    for (let i = 0; i < 150; i++) {
      const key = `r${round}-${i}`;
      begun.add(key);
      work.push(
        child.add(tcp(0, { key })).then(async (f) => {
          answered.set(key, true);
          if (i % 3 !== 0) return;
          // From here on until it is answered, either is right.
          answered.delete(key);
          await child.call('remove', f.id);
          answered.set(key, false);
        }),
      );
    }
    await Promise.race([Promise.all(work), delay(20 + 15 * round)]);
    await child.kill();
  }
  t.ok(answered.size > 0);
});

t.test('a half-written or broken state file is never the only copy, and never stops the start', async (t) => {
  const dir = directory(t);
  const first = await NetworkChild.start(t, dir);
  await first.add(tcp(0, { key: 'kept' }));
  await first.stop();
  const state = join(dir, 'state');
  const name = readdirSync(state).find((n) => /^state-[0-9a-f]+\.json$/.test(n))!;
  const whole = readFileSync(join(state, name));
  // Killed while the new file was being written: the temporary name has half of it.
  writeFileSync(join(state, `${name}.tmp`), whole.subarray(0, whole.length / 2));
  const second = await NetworkChild.start(t, dir);
  t.same(
    (await second.list()).map((f) => f.key),
    ['kept'],
  );
  await second.add(tcp(0, { key: 'more' }));
  await second.stop();

  truncateSync(join(state, name), 100);
  const half = readFileSync(join(state, name));
  const third = await NetworkChild.start(t, dir);
  t.same(await third.list(), []);
  t.match(third.log, /is not JSON .*kept as /);
  t.same(readFileSync(join(state, `${name}.bad`)), half);
});

t.test('two daemons of one state directory do not write each other’s state', async (t) => {
  const dir = directory(t);
  const first = await NetworkChild.start(t, dir);
  await first.add(tcp(0, { key: 'first' }));
  const other = directory(t);
  const second = await NetworkChild.start(t, other, { 'state-dir': join(dir, 'state') });
  t.same(await second.list(), [], 'another socket, another state');
  await t.rejects(NetworkChild.start(t, dir), /in use/, 'the same socket: it does not start');
  t.equal((await first.list()).length, 1);
});

t.test('an inherited socket stands for a port that needs a privilege', async (t) => {
  const dir = directory(t);
  const held = createServer();
  held.listen(0, '127.0.0.1');
  await once(held, 'listening');
  const { port } = held.address() as { port: number };
  const { fd } = (held as unknown as { _handle: { fd: number } })._handle;
  const udp = createSocket('udp4');
  udp.bind(0, '127.0.0.1');
  await once(udp, 'listening');
  const udpPort = udp.address().port;
  const udpFd = (udp as unknown as { [kState: symbol]: { handle: { fd: number } } })[stateSymbol(udp)]!.handle.fd;
  const child = await NetworkChild.start(
    t,
    dir,
    { 'listen-fd': ['web=4', 'dns=5'], publish: ['hostfwd=fd:web-:80', 'hostfwd=fd:dns/udp-:53'] },
    { fds: [fd, udpFd] },
  );
  held.close();
  udp.close();
  const [forward, datagrams] = await child.list();
  t.match(datagrams, { key: 'fd:dns', bound: [`127.0.0.1:${udpPort}`], state: 'listening' });
  t.match(forward, { key: 'fd:web', bound: [`127.0.0.1:${port}`], origin: 'config', state: 'listening' });
  const guest = await EmbeddedGuest.connect({ path: join(dir, 'vm.sock') });
  t.teardown(() => guest.close());
  await guest.dhcp();
  guest.listen(80, (socket) => void socket.on('error', () => {}).end(`seen as ${socket.remoteAddress}`));
  t.equal(await read(port), 'seen as 192.168.65.254');
  const served = guest.udp(53);
  served.onMessage = (data, from) => served.send(Buffer.concat([Buffer.from('re: '), data]), from.address, from.port);
  const client = createSocket('udp4');
  client.send('who', udpPort, '127.0.0.1');
  t.equal(String((await once(client, 'message'))[0]), 're: who', 'a UDP one too');
  client.close();
  const fdSpec = (name: string): ForwardSpec => ({
    key: `k-${name}`,
    listen: { kind: 'fd', name, protocol: 'tcp' },
    target: { kind: 'guest', port: 80 },
  });
  await t.rejects(child.add(fdSpec('web')), { code: 'ERR_PORT_IN_USE' });
  await t.rejects(child.add(fdSpec('none')), { code: 'ERR_LISTEN_FD', message: /no --listen-fd none=FD/ });
  await t.rejects(child.add({ ...fdSpec('dns'), key: 'other' }), { code: 'ERR_PORT_IN_USE' });
  await child.call('remove', forward!.id);
  await t.rejects(read(port), { code: 'ECONNRESET' }, 'no forward has it: clients are turned away');
  const again = await child.add(fdSpec('web'));
  t.match(again, { key: 'k-web', bound: [`127.0.0.1:${port}`], counters: { connections: 0 } });
  t.equal(await read(port), 'seen as 192.168.65.254', 'the descriptor is still there for another');
  await child.call('remove', again.id);
  await t.rejects(
    child.add({ ...fdSpec('web'), listen: { kind: 'fd', name: 'web', protocol: 'udp' } }),
    { code: 'ERR_LISTEN_FD', message: /is not a bound UDP socket/ },
    'as what it is',
  );
  await child.call('remove', datagrams!.id);
  const late = createSocket('udp4');
  late.send('lost', udpPort, '127.0.0.1');
  const dns: ForwardSpec = {
    listen: { kind: 'fd', name: 'dns', protocol: 'udp' },
    target: { kind: 'guest', port: 53 },
  };
  await t.rejects(child.add({ ...dns, listen: { ...dns.listen, protocol: 'tcp' } as never }), {
    code: 'ERR_LISTEN_FD',
  });
  t.match(await child.add(dns), { bound: [`127.0.0.1:${udpPort}`], counters: { connections: 0 } });
  late.send('found', udpPort, '127.0.0.1');
  t.equal(String((await once(late, 'message'))[0]), 're: found', 'a UDP one too, and what came meanwhile is nobody’s');
  late.close();

  const file = openSync(PROGRAM, 'r');
  t.teardown(() => closeSync(file));
  for (const [listenFd, words] of [
    ['web=900', /web=900: descriptor 900 is not open; pass a bound socket/],
    ['web=4', /web=4: descriptor 4 is no socket/],
  ] as const) {
    const options = { 'listen-fd': [listenFd] };
    await t.rejects(NetworkChild.start(t, directory(t), options, { fds: [file] }), words);
  }
});

const unprivileged = Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8'));
const skip =
  process.getuid?.() !== 0
    ? 'needs root, to give a privilege up'
    : unprivileged <= 81
      ? 'needs a host on which port 81 is privileged'
      : needsProgram('setpriv');
t.test('a privileged port: refused with the remedy', { skip }, async (t) => {
  const dir = directory(t);
  const under = ['setpriv', '--bounding-set=-net_bind_service', '--inh-caps=-net_bind_service'];
  const child = await NetworkChild.start(t, dir, { 'state-dir': 'none' }, { under });
  for (const kind of ['tcp', 'udp'] as const) {
    const spec = { ...tcp(81), listen: { kind, address: '127.0.0.1', port: 81 } };
    const error = await child.add(spec).then(
      () => undefined,
      (e: unknown) => e,
    );
    t.match(error, { code: 'ERR_PORT_PRIVILEGED' }, kind);
    const remedies = ['sysctl net.ipv4.ip_unprivileged_port_start=81', 'CAP_NET_BIND_SERVICE', '--listen-fd NAME=FD'];
    for (const remedy of remedies) t.ok(String(error).includes(remedy), remedy);
  }
  t.same(await child.list(), []);
});
