// Servers on the host's loopback for end-to-end tests: source, sink and echo over TCP, echo over UDP, and some that misbehave.

import { createHash, randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { Test } from 'tap';

const NOISE = randomBytes(1 << 20);
const CHUNK = 256 * 1024;

function* noise(bytes: number): Generator<Buffer> {
  for (let sent = 0, number = 0; sent < bytes; number++) {
    const chunk = Buffer.from(NOISE.subarray(0, Math.min(CHUNK, bytes - sent)));
    if (chunk.length >= 4) chunk.writeUInt32BE(number, 0);
    sent += chunk.length;
    yield chunk;
  }
}

/** SHA-256 of the first `bytes` that the source sends. */
export function sourceHash(bytes: number): string {
  const hash = createHash('sha256');
  for (const chunk of noise(bytes)) hash.update(chunk);
  return hash.digest('hex');
}

/**
 * What an 'end' of a server's socket was. The libuv of Node 20 tells a reset that came together with data as an end; the kernel
 * knows the peer of an ended connection, and none of a reset one.
 */
export function howEnded(socket: Socket): 'end' | 'ECONNRESET' {
  return socket.remoteAddress === undefined ? 'ECONNRESET' : 'end';
}

/** A server with the connections it holds. */
export interface TestServer {
  readonly port: number;
  readonly server: Server;
  /** Connections open now. */
  readonly sockets: Set<Socket>;
  close(): Promise<void>;
}

/** Listens on a free loopback port, until `close` or the end of the test. */
export async function serve(
  onSocket: (socket: Socket) => void,
  options: { readonly allowHalfOpen?: boolean } = {},
  test?: Test,
): Promise<TestServer> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: options.allowHalfOpen ?? false, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, resolve));
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  };
  test?.teardown(close);
  return { port: (server.address() as AddressInfo).port, server, sockets, close };
}

/** Sends as many bytes as the client's first line asks for, then FIN. */
export function source(test?: Test): Promise<TestServer> {
  return serve(
    (socket) => {
      let line = '';
      socket.on('data', (text: Buffer) => {
        line += text.toString();
        if (!line.endsWith('\n')) return;
        const chunks = noise(Number(line));
        const send = (): void => {
          for (;;) {
            const { value, done } = chunks.next();
            if (done === true) return void socket.end();
            if (!socket.write(value)) return void socket.once('drain', send);
          }
        };
        send();
      });
    },
    { allowHalfOpen: true },
    test,
  );
}

/** Counts and hashes; answers `COUNT HASH` after the client's FIN. */
export function sink(test?: Test): Promise<TestServer> {
  return serve(
    (socket) => {
      const hash = createHash('sha256');
      let bytes = 0;
      socket.on('data', (chunk: Buffer) => {
        hash.update(chunk);
        bytes += chunk.length;
      });
      socket.on('end', () => socket.end(`${bytes} ${hash.digest('hex')}\n`));
    },
    { allowHalfOpen: true },
    test,
  );
}

/** Reads to the client's FIN, and answers `got TEXT` after it. */
export function answering(test?: Test): Promise<TestServer> {
  return serve(
    (socket) => {
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      socket.on('end', () => socket.end(`got ${text}`));
    },
    { allowHalfOpen: true },
    test,
  );
}

/** Sends back what comes. */
export function echo(test?: Test): Promise<TestServer> {
  return serve((socket) => socket.pipe(socket), {}, test);
}

/** UDP echo on a free loopback port, until `close` or the end of the test. */
export async function udpEcho(test?: Test): Promise<{ readonly port: number; close(): void }> {
  const socket = createSocket('udp4', (message, peer) => socket.send(message, peer.port, peer.address));
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  test?.teardown(() => socket.close());
  return { port: socket.address().port, close: () => socket.close() };
}

/** A TCP port on loopback where nobody listens. */
export async function closedPort(): Promise<number> {
  const { port, close } = await serve(() => {});
  await close();
  return port;
}
