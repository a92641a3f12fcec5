// The VMs' socket before anybody serves it: who connects early waits and loses nothing.

import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { VmSocket } from '../../src/link/vm-socket.ts';

/** Short enough for a unix socket, as the folders of tap are not. */
function freePath(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-vm-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'vm.sock');
}

async function vm(t: Test, path: string): Promise<Socket> {
  const socket = connect(path);
  t.teardown(() => socket.destroy());
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return socket;
}

/** The event loop has gone round, and so accepted whoever was there. */
async function rounds(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

t.test('who connects before it is served keeps its place and its bytes', async (t) => {
  const path = freePath(t);
  const socket = await VmSocket.listen(path);
  t.teardown(() => socket.close());
  t.equal(statSync(path).mode & 0o777, 0o600);
  const first = await vm(t, path);
  first.write('first');
  const second = await vm(t, path);
  second.write('second');
  await rounds();
  const served: Promise<string>[] = [];
  const serve = (s: Socket): void => {
    t.teardown(() => s.destroy());
    served.push(new Promise((resolve) => s.once('data', (chunk: Buffer) => resolve(chunk.toString()))));
    s.resume();
  };
  socket.serve(serve);
  const third = await vm(t, path);
  third.write('third');
  while (served.length < 3) await rounds();
  t.strictSame(await Promise.all(served), ['first', 'second', 'third']);
});

t.test('who was there and has gone is no mistake of ours', async (t) => {
  const path = freePath(t);
  const socket = await VmSocket.listen(path);
  t.teardown(() => socket.close());
  const early = await vm(t, path);
  early.destroy();
  await rounds();
  let served = 0;
  socket.serve((s) => {
    served++;
    s.on('error', () => {}).destroy();
  });
  await vm(t, path);
  while (served === 0) await rounds();
  t.ok(served <= 2);
});

t.test('a start that fails takes the file away and turns early ones away', async (t) => {
  const path = freePath(t);
  const socket = await VmSocket.listen(path);
  const early = await vm(t, path);
  const closed = new Promise((resolve) => early.once('close', resolve));
  early.resume();
  await rounds();
  socket.close();
  await closed;
  t.notOk(existsSync(path));
});
