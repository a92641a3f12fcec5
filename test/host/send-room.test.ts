// A larger send buffer for a stream socket, and its descriptor's number, which is never closed twice.

import { closeSync, fstatSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import net from 'node:net';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SendRoom } from '../../src/host/send-room.ts';
import type { HostStream, StreamOwner } from '../../src/host/stream.ts';
import { HandleStream, streamBinding, takeHandle } from '../../src/host/stream-handle.ts';

if (streamBinding === undefined) t.fail('this Node.js has the stream handles in the shape we know');

interface Pair {
  readonly stream: HostStream;
  readonly fd: number;
  readonly client: net.Socket;
  readonly closed: Promise<void>;
  readonly server: net.Server;
}

/** A connected pair of a server of its own. */
async function pair(t: Test): Promise<Pair> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-room-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  await new Promise<void>((resolve) => server.listen(join(dir, 's'), resolve));
  t.teardown(() => server.close());
  const coming = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const client = net.connect(join(dir, 's'));
  t.teardown(() => client.destroy());
  client.on('error', () => {});
  const handle = takeHandle(await coming)!;
  let onClose = (): void => {};
  const closed = new Promise<void>((resolve) => {
    onClose = resolve;
  });
  const mem = Buffer.alloc(100);
  const owner: StreamOwner = {
    onConnect: () => {},
    readBuffer: () => mem,
    onRead: () => true,
    onEnd: () => {},
    onError: () => {},
    onClose: () => onClose(),
  };
  return { stream: new HandleStream(streamBinding!, handle, owner), fd: handle.fd ?? -1, client, closed, server };
}

/** What the kernel takes at once of a write that nobody reads. */
async function taken(t: Test, bytes: number): Promise<boolean> {
  const { stream, client, closed } = await pair(t);
  client.pause();
  if (bytes > 0) stream.wantSendBuffer(bytes);
  const whole = stream.write(Buffer.alloc(300_000), () => {});
  stream.destroy();
  await closed;
  return whole;
}

const linux = process.platform === 'linux' ? false : 'sizes of buffers are those of Linux';

t.test('the kernel takes more at once, and nothing is left open', { skip: linux }, async (t) => {
  t.equal(await taken(t, 0), false, 'by default 208 KiB');
  t.equal(await taken(t, 512 * 1024), true);
  t.equal(SendRoom.stale, 0);
});

t.test('a number that is somebody else’s by now is left alone, and had later', async (t) => {
  const { stream, fd, closed } = await pair(t);
  stream.wantSendBuffer(512 * 1024);
  // Everything below the socket's number is taken, so that the number itself is what is given out next.
  const below: number[] = [];
  for (let n = openSync(devNull, 'r'); ; n = openSync(devNull, 'r')) {
    below.push(n);
    if (n > fd) break;
  }
  stream.destroy();
  const thief = openSync(devNull, 'r');
  t.equal(thief, fd, 'the descriptor was closed, and is another file now');
  await closed;
  t.equal(SendRoom.stale, 1);
  t.ok(fstatSync(thief).isCharacterDevice(), 'and stays open');
  for (const n of below) closeSync(n);
  t.ok(fstatSync(thief).isCharacterDevice());
  const next = await pair(t);
  next.stream.wantSendBuffer(1024 * 1024);
  closeSync(thief);
  next.stream.destroy();
  await next.closed;
  t.equal(SendRoom.stale, 0, 'the next one to close closes this, too');
});

t.test('what is no socket, or is watched already, stays as it is', async (t) => {
  const file = openSync(devNull, 'r');
  t.equal(SendRoom.widen(file, 1000), undefined);
  t.ok(fstatSync(file).isCharacterDevice());
  closeSync(file);
  t.equal(SendRoom.widen(-1, 1000), undefined);
  const { stream, fd, closed } = await pair(t);
  stream.resume();
  t.equal(SendRoom.widen(fd, 1000), undefined);
  stream.wantSendBuffer(1000);
  t.equal(
    stream.write(Buffer.from('x'), () => {}),
    true,
  );
  stream.destroy();
  await closed;
});

t.test('many links that come and go leave no descriptor behind', { skip: linux }, async (t) => {
  const before = openSync(devNull, 'r');
  closeSync(before);
  for (let i = 0; i < 100; i++) {
    const { stream, client, closed, server } = await pair(t);
    stream.wantSendBuffer(256 * 1024);
    stream.resume();
    stream.destroy();
    client.destroy();
    server.close();
    await closed;
  }
  t.equal(SendRoom.stale, 0);
  const after = openSync(devNull, 'r');
  closeSync(after);
  t.ok(after <= before + 4, `${after} is the lowest free number, ${before} was`);
});
