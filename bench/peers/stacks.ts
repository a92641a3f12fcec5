// How each stack is started, plugged into the guest and asked to publish two ports. A stack that is given its addresses has those
// that it would choose by itself. Nothing here measures but the time to readiness.

import { existsSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Lab, NOBODY, Port, type Program, STARTING } from './lab.ts';

/** A stack under test as the report names it. */
export interface Contender {
  /** Its column. */
  readonly name: string;
  readonly kind: StackKind;
  /** For the others: the program's path. */
  readonly program?: string;
  /** For isthmus: the daemon's entry. */
  readonly main?: string;
  /** Whether an ordinary user can run it. */
  readonly nobody?: boolean;
}

/** A stack that runs, with its guest. */
export interface RunningStack {
  readonly program: Program;
  /** Address under which the guest reaches the host's loopback. */
  readonly host: string;
  /** Address of the guest's name server. */
  readonly nameServer: string;
  /** Milliseconds from its start until its socket was there; slirp4netns has none and says when it is configured. */
  readonly readyMs: number;
}

/** Names of the stacks that the harness knows. */
export const STACK_KINDS = ['isthmus', 'passt', 'slirp4netns', 'gvproxy'] as const;
export type StackKind = (typeof STACK_KINDS)[number];

const READY_LIMIT_MS = 15_000;
const PUBLISHED = [Port.PublishedBulk, Port.PublishedEcho];

/** Starts a program and waits for its socket. */
async function listening(start: () => Program, socket: string): Promise<{ program: Program; readyMs: number }> {
  rmSync(socket, { force: true });
  const program = start();
  await program.says(STARTING);
  const begun = performance.now();
  while (!existsSync(socket)) {
    if (!program.running) throw new Error(`ended before its socket was there: ${program.complaint}`);
    if (performance.now() - begun > READY_LIMIT_MS) throw new Error(`no socket after ${READY_LIMIT_MS / 1000} s`);
    await sleep(1);
  }
  return { program, readyMs: performance.now() - begun };
}

async function isthmus(lab: Lab, mtu: number, { main, nobody }: Contender): Promise<RunningStack> {
  const socket = join(lab.folder, 'isthmus.sock');
  const publish = PUBLISHED.flatMap((port) => ['--publish', `127.0.0.1:${port}:192.168.65.3:${port}`]);
  const argv = [process.execPath, main!, 'run', '--vm', `qemu:${socket}`, '--mtu', String(mtu)];
  argv.push('--dns', `127.0.0.1:${Port.Dns}`, '--network', '192.168.65.0/24', ...publish);
  const { program, readyMs } = await listening(() => lab.stack(argv, { nobody: nobody !== false }), socket);
  await lab.plug(socket, mtu);
  lab.address('192.168.65.3/24', '192.168.65.1');
  return { program, host: '192.168.65.254', nameServer: '192.168.65.1', readyMs };
}

async function passt(lab: Lab, mtu: number, { program: path }: Contender): Promise<RunningStack> {
  const socket = join(lab.folder, 'passt.sock');
  const gateway = '192.168.127.1';
  const argv = [path ?? 'passt', '-f', '-q', '-s', socket, '--runas', `${NOBODY}:${NOBODY}`, '-m', String(mtu)];
  argv.push('-a', '192.168.127.2', '-n', '24', '-g', gateway);
  argv.push('-t', `127.0.0.1/${Port.PublishedBulk}-${Port.PublishedEcho}`);
  const { program, readyMs } = await listening(() => lab.stack(argv, { nobody: false }), socket);
  await lab.plug(socket, mtu);
  lab.address('192.168.127.2/24', gateway);
  return { program, host: gateway, nameServer: gateway, readyMs };
}

/** One request to slirp4netns. */
function askSlirp(socket: string, body: object): Promise<void> {
  return new Promise((resolve, reject) => {
    const channel = connect(socket, () => channel.end(JSON.stringify(body)));
    let reply = '';
    channel.on('data', (chunk: Buffer) => {
      reply += chunk.toString();
    });
    channel.once('error', reject);
    channel.once('close', () => (reply.includes('"error"') ? reject(new Error(reply.trim())) : resolve()));
  });
}

async function slirp4netns(lab: Lab, mtu: number, guest: string, { program: path }: Contender): Promise<RunningStack> {
  const socket = join(lab.folder, 'slirp.sock');
  const argv = [path ?? 'slirp4netns', '--configure', `--mtu=${mtu}`, '--ready-fd=3', `--api-socket=${socket}`];
  argv.push('--netns-type=path', guest, 'tap0');
  rmSync(socket, { force: true });
  // It enters the guest's namespace itself, which takes root.
  const program = lab.stack(argv, { nobody: false, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
  await program.says(STARTING);
  const begun = performance.now();
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('not ready in time')), READY_LIMIT_MS);
    program.child.stdio[3]!.once('data', () => resolve());
    void program.ended.then(() => reject(new Error(`ended: ${program.complaint}`)));
    void program.ended.finally(() => clearTimeout(timer));
  });
  const readyMs = performance.now() - begun;
  for (const port of PUBLISHED) {
    const forward = { proto: 'tcp', host_addr: '127.0.0.1', host_port: port, guest_port: port };
    await askSlirp(socket, { execute: 'add_hostfwd', arguments: forward });
  }
  return { program, host: '10.0.2.2', nameServer: '10.0.2.3', readyMs };
}

/** Has gvproxy publish a port. */
function expose(socket: string, guest: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: socket, path: '/services/forwarder/expose', method: 'POST', timeout: 5000 });
    asked.once('response', (response) => {
      response.resume();
      if (response.statusCode === 200) resolve();
      else reject(new Error(`gvproxy published no port: status ${response.statusCode}`));
    });
    asked.once('timeout', () => asked.destroy(new Error('gvproxy did not answer')));
    asked.once('error', reject);
    asked.end(JSON.stringify({ local: `127.0.0.1:${port}`, remote: `${guest}:${port}`, protocol: 'tcp' }));
  });
}

async function gvproxy(lab: Lab, mtu: number, { program: path, nobody }: Contender): Promise<RunningStack> {
  const socket = join(lab.folder, 'gvproxy.sock');
  const api = join(lab.folder, 'gvproxy-api.sock');
  rmSync(api, { force: true });
  const argv = [path ?? 'gvproxy', '-mtu', String(mtu), '-ssh-port', '-1'];
  argv.push('-listen-qemu', `unix://${socket}`, '-listen', `unix://${api}`);
  const { program, readyMs } = await listening(() => lab.stack(argv, { nobody: nobody !== false }), socket);
  await lab.plug(socket, mtu);
  lab.address('192.168.127.2/24', '192.168.127.1');
  for (const port of PUBLISHED) await expose(api, '192.168.127.2', port);
  const nameServer = '192.168.127.1';
  return { program, host: '192.168.127.254', nameServer, readyMs };
}

/** Starts a stack with a new guest, whose own servers listen. The caller clears the lab, also after an error. */
export async function startStack(lab: Lab, contender: Contender, mtu: number): Promise<RunningStack> {
  const guest = lab.newGuest();
  const start = {
    isthmus: () => isthmus(lab, mtu, contender),
    passt: () => passt(lab, mtu, contender),
    slirp4netns: () => slirp4netns(lab, mtu, guest, contender),
    gvproxy: () => gvproxy(lab, mtu, contender),
  };
  const running = await start[contender.kind]();
  const echo = lab.inGuest([lab.probe, 'serve', '0.0.0.0', String(Port.PublishedEcho)]);
  await echo.says('ready');
  return running;
}
