// What the tests of forwards have in common: sockets on both sides, and forwards made through a running network.

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type ListenOptions, type NetConnectOpts, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Forward, ForwardError, ForwardSpec } from '../../src/forwarder/forward-spec.ts';
import type { Rig } from '../guest/rig.ts';

/** A directory whose paths are short enough for sockets. */
export function shortDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isth-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Sends `body`, ends, and reads all. Rejects with the error's code. */
export function exchange(to: NetConnectOpts, body: Buffer | string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...to, allowHalfOpen: true });
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('end', () => resolve(Buffer.concat(chunks)));
    socket.on('close', () => reject(Object.assign(new Error('closed'), { code: 'CLOSED' })));
    socket.end(body);
  });
}

export async function listen(t: Test, at: ListenOptions, onClient: (socket: Socket) => void): Promise<Server> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => open.delete(socket));
    onClient(socket);
  });
  await new Promise<void>((resolve) => server.listen(at, resolve));
  t.teardown(() => {
    for (const socket of open) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return server;
}

export const echo = (socket: Socket): void => void socket.pipe(socket);

export async function add(rig: Rig, spec: ForwardSpec): Promise<Forward> {
  return (await rig.network.forwards.add(spec)).forward;
}

export async function refusal(rig: Rig, spec: ForwardSpec): Promise<ForwardError> {
  try {
    await rig.network.forwards.add(spec);
  } catch (error) {
    return error as ForwardError;
  }
  throw new Error('it was to be refused');
}

export const at = (forward: Forward, index = 0): { host: string; port: number } => {
  const bound = forward.bound[index]!;
  const colon = bound.lastIndexOf(':');
  return { host: bound.slice(0, colon).replace(/[[\]]/g, ''), port: Number(bound.slice(colon + 1)) };
};

export const loopback = (port: number, more: object = {}): ForwardSpec['listen'] =>
  ({ kind: 'tcp', address: '127.0.0.1', port, ...more }) as ForwardSpec['listen'];

export const BIG: Buffer = Buffer.alloc(3_000_001, 'all kinds ');
export const hash = (body: Buffer): string => createHash('sha256').update(body).digest('hex');
