// How long a request may take: late ones are told, complete ones are not, and nothing is left that wakes an idle server.

import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { limitRequestTime, NO_CHECKING_MS } from '../../src/control/request-deadline.ts';

const LIMIT_MS = 100;
const IDLE_MS = 50;

interface Rig {
  readonly server: Server;
  readonly errors: (string | undefined)[];
  client(): Promise<Socket & { text: string }>;
}

/** A server whose answers come after `delayMs`. */
async function rig(t: Test, delayMs = 0): Promise<Rig> {
  const server = createServer({ connectionsCheckingInterval: NO_CHECKING_MS }, (_request, response) => {
    setTimeout(() => response.end('answer'), delayMs);
  });
  limitRequestTime(server, LIMIT_MS, IDLE_MS);
  const errors: (string | undefined)[] = [];
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    errors.push(error.code);
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  const client = async (): Promise<Socket & { text: string }> => {
    const socket = Object.assign(connect((server.address() as AddressInfo).port, '127.0.0.1'), { text: '' });
    socket.on('data', (chunk: Buffer) => {
      socket.text += chunk.toString();
    });
    t.teardown(() => socket.destroy());
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return socket;
  };
  return { server, errors, client };
}

function closed(socket: Socket): Promise<unknown> {
  return new Promise((resolve) => socket.once('close', resolve));
}

async function answers(socket: Socket & { text: string }, times: number): Promise<void> {
  while (socket.text.split('answer').length - 1 < times) await new Promise((resolve) => socket.once('data', resolve));
}

for (const [what, bytes] of [
  ['nothing', ''],
  ['half a header', 'GET / HTTP/1.1\r\nHost: x\r\n'],
] as const) {
  t.test(`a client that sends ${what} is told after the limit`, async (t) => {
    const { client, errors } = await rig(t);
    const socket = await client();
    const begun = performance.now();
    socket.write(bytes);
    await closed(socket);
    t.ok(performance.now() - begun >= LIMIT_MS - 20, 'not before');
    t.strictSame(errors, ['ERR_HTTP_REQUEST_TIMEOUT']);
  });
}

t.test('so is one whose body does not end, while its answer is not there', async (t) => {
  const { client, errors } = await rig(t, LIMIT_MS * 20);
  const socket = await client();
  socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf');
  await closed(socket);
  t.strictSame(errors, ['ERR_HTTP_REQUEST_TIMEOUT']);
});

t.test('an answer may take longer than the limit', async (t) => {
  const { client, errors } = await rig(t, LIMIT_MS * 3);
  const socket = await client();
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await answers(socket, 1);
  t.strictSame(errors, []);
});

t.test('a second request on the connection has its own limit', async (t) => {
  const { client, errors } = await rig(t);
  const socket = await client();
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await answers(socket, 1);
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await answers(socket, 2);
  t.strictSame(errors, []);
  socket.write('GET / HT');
  await closed(socket);
  t.strictSame(errors, ['ERR_HTTP_REQUEST_TIMEOUT']);
});
