import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { OperatorError } from '../../src/host/operator-error.ts';
import { listenOnSocketFile, releaseSocketFiles, SOCKET_PATH_MAX_BYTES } from '../../src/host/socket-file.ts';

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function serverFor(t: Test): Server {
  const server = createServer((socket) => socket.destroy());
  t.teardown(() => server.close());
  return server;
}

/** A directory with a short name: a socket's path has 107 bytes at most, and tap's own are longer. */
function tempDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** A socket file on which nobody answers: what a killed daemon leaves. */
async function makeStale(t: Test, path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen({ path: `${path}.live` }, resolve));
  renameSync(`${path}.live`, path);
  await new Promise((resolve) => server.close(resolve));
  t.notOk(await answers(path), 'the stale socket does not answer');
}

async function refusal(promise: Promise<unknown>): Promise<OperatorError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error('was not refused');
}

t.test('a free path is listened on with mode 0600, whatever the umask, and unlinked at release', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'control.sock');
  const before = process.umask(0);
  t.teardown(() => process.umask(before));
  const file = await listenOnSocketFile(serverFor(t), path, 'control');
  t.equal(process.umask(), 0, 'the umask is as it was');
  t.equal(lstatSync(path).mode & 0o777, 0o600);
  t.ok(await answers(path));
  t.strictSame(readdirSync(dir), ['control.sock'], 'no temporary name is left');
  file.release();
  file.release();
  t.notOk(existsSync(path));
});

t.test('a socket on which somebody answers is refused with 69 and left alone', async (t) => {
  const path = join(tempDir(t), 's');
  const file = await listenOnSocketFile(serverFor(t), path, 'vm');
  t.teardown(() => file.release());
  const error = await refusal(listenOnSocketFile(serverFor(t), path, 'vm'));
  t.match(error, { code: 'ERR_SOCKET_IN_USE', exitCode: 69 });
  t.match(error.message, `vm: ${path} is in use`);
  t.ok(await answers(path), 'the first one still answers');
});

t.test('a stale socket is taken over', async (t) => {
  const path = join(tempDir(t), 's');
  await makeStale(t, path);
  const file = await listenOnSocketFile(serverFor(t), path, 'vm');
  t.ok(await answers(path));
  file.release();
  t.notOk(existsSync(path));
});

t.test('what is not a socket is refused and named', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'file'), 'precious');
  mkdirSync(join(dir, 'folder'));
  symlinkSync('nowhere', join(dir, 'link'));
  for (const [name, kind] of [
    ['file', 'a regular file'],
    ['folder', 'a directory'],
    ['link', 'a symbolic link'],
  ]) {
    const error = await refusal(listenOnSocketFile(serverFor(t), join(dir, name!), 'control'));
    t.match(error, { code: 'ERR_SOCKET_NOT_A_SOCKET', exitCode: 73 });
    t.ok(error.message.includes(`${join(dir, name!)} exists and is ${kind}`), error.message);
  }
  t.strictSame(readdirSync(dir).sort(), ['file', 'folder', 'link']);
});

t.test('a missing directory is named', async (t) => {
  const dir = tempDir(t);
  const error = await refusal(listenOnSocketFile(serverFor(t), join(dir, 'no', 's'), 'control'));
  t.match(error, { code: 'ERR_SOCKET_DIRECTORY', exitCode: 73 });
  t.ok(error.message.includes(`there is no directory ${join(dir, 'no')}`), error.message);
});

t.test('release leaves a socket that another daemon has put in our place; so does closing the server', async (t) => {
  const path = join(tempDir(t), 's');
  const first = createServer();
  const file = await listenOnSocketFile(first, path, 'vm');
  rmSync(path);
  const second = await listenOnSocketFile(serverFor(t), path, 'vm');
  t.teardown(() => second.release());
  file.release();
  await new Promise((resolve) => first.close(resolve));
  t.ok(await answers(path), 'the second one still answers');
});

t.test('the longest path works, one byte more is refused', async (t) => {
  const dir = tempDir(t);
  const deep = join(dir, 'd'.repeat(Math.max(1, SOCKET_PATH_MAX_BYTES - dir.length - 3)));
  mkdirSync(deep);
  const path = join(deep, 'x'.repeat(SOCKET_PATH_MAX_BYTES - deep.length - 1));
  t.equal(Buffer.byteLength(path), SOCKET_PATH_MAX_BYTES);
  const file = await listenOnSocketFile(serverFor(t), path, 'vm');
  t.ok(await answers(path));
  file.release();
  const error = await refusal(listenOnSocketFile(serverFor(t), `${path}x`, 'vm'));
  t.match(error, { code: 'ERR_SOCKET_PATH', exitCode: 73 });
  t.match(error.message, `at most ${SOCKET_PATH_MAX_BYTES}`);
});

t.test('names of one letter: the temporary name is never that of a socket in use', async (t) => {
  const dir = tempDir(t);
  const neighbour = await listenOnSocketFile(serverFor(t), join(dir, 'n'), 'vm');
  for (let i = 0; i < 150; i++) {
    const server = createServer();
    const file = await listenOnSocketFile(server, join(dir, 'c'), 'control');
    file.release();
    await new Promise((resolve) => server.close(resolve));
  }
  neighbour.release();
  t.strictSame(readdirSync(dir), []);
});

t.test('a relative path without a directory', async (t) => {
  const cwd = process.cwd();
  process.chdir(tempDir(t));
  t.teardown(() => process.chdir(cwd));
  const file = await listenOnSocketFile(serverFor(t), 'vm.sock', 'vm');
  t.ok(await answers('vm.sock'));
  file.release();
  t.strictSame(readdirSync('.'), []);
});

t.test('two that claim one stale path at once: one has it, the other is told', async (t) => {
  const path = join(tempDir(t), 's');
  await makeStale(t, path);
  const results = await Promise.allSettled([
    listenOnSocketFile(serverFor(t), path, 'vm'),
    listenOnSocketFile(serverFor(t), path, 'vm'),
  ]);
  const won = results.filter((r) => r.status === 'fulfilled');
  t.equal(won.length, 1);
  t.ok(await answers(path));
  for (const { value } of won) value.release();
});

t.test('releaseSocketFiles unlinks all that is held', async (t) => {
  const dir = tempDir(t);
  await listenOnSocketFile(serverFor(t), join(dir, 'a'), 'vm');
  await listenOnSocketFile(serverFor(t), join(dir, 'b'), 'control');
  writeFileSync(join(dir, 'c'), '');
  releaseSocketFiles();
  t.strictSame(readdirSync(dir), ['c']);
});

t.test('an OperatorError stays one line, whatever it quotes', (t) => {
  const error = new OperatorError('a\nb\u0007', { code: 'ERR_X', exitCode: 78 });
  t.equal(error.message, 'a\\x0ab\\x07');
  t.end();
});

const somaxconn = ((): number => {
  try {
    return Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
  } catch {
    return 0;
  }
})();
t.test(
  'a storm: as many may wait to be accepted as the kernel lets wait',
  { skip: somaxconn < 1024 ? 'needs a system that lets 1,024 wait' : false },
  async (t) => {
    const server = serverFor(t);
    const path = join(tempDir(t), 's.sock');
    const file = await listenOnSocketFile(server, path, 'control');
    t.teardown(() => file.release());
    // Connecting to a unix socket is done, or refused with EAGAIN, before `connect` returns; nobody is accepted in between.
    const sockets = Array.from({ length: 900 }, () => connect({ path }));
    const outcomes = await Promise.all(
      sockets.map(
        (socket) =>
          new Promise<string>((resolve) => {
            socket.once('connect', () => resolve('connected'));
            socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
          }),
      ),
    );
    for (const socket of sockets) socket.destroy();
    t.same([...new Set(outcomes)], ['connected']);
  },
);
