// The program that runs inside a namespace and does there what tests ask by IPC: opens connections, moves data, reports what it
// saw. `GuestAgent` (in `namespace-guest.ts`) is its other end.

import { createHash, randomBytes } from 'node:crypto';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, serveOperations } from './agent.ts';
import { howEnded } from './host-servers.ts';

/** How one attempt to connect ended. */
export interface ConnectOutcome {
  /** `connected`, or the errno code. */
  readonly outcome: string;
  readonly ms: number;
}

/** One bulk flow. */
export interface BulkResult {
  readonly bytes: number;
  readonly sha256: string;
}

/** Whom the server saw, and which ports this end had. */
export interface WhoResult {
  readonly tcp: string;
  readonly tcpPort: number;
  readonly udp: string;
  readonly udpPort: number;
}

/** Many short flows. */
export interface ShortFlowsResult {
  readonly ok: number;
  readonly failed: number;
  /** Failures by code. */
  readonly codes: Record<string, number>;
  readonly seconds: number;
}

/** One MiB of noise; each chunk sent carries its number in front. */
const NOISE = randomBytes(1 << 20);

function connected(host: string, port: number, allowHalfOpen = false): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host, port, allowHalfOpen, noDelay: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.removeListener('error', reject);
      resolve(socket);
    });
  });
}

/** Reads to the end. Rejects on a reset. */
function readAll(socket: Socket): Promise<BulkResult> {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    let bytes = 0;
    socket.on('data', (chunk: Buffer) => {
      hash.update(chunk);
      bytes += chunk.length;
    });
    socket.once('end', () => resolve({ bytes, sha256: hash.digest('hex') }));
    socket.once('error', reject);
  });
}

/** Listens and sends without end to whoever connects, while it is connected. @returns the port. */
async function serveEndless(): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    pour(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, resolve));
  return (server.address() as AddressInfo).port;
}

function pour(socket: Socket): void {
  const go = (): void => {
    while (!socket.destroyed && socket.write(NOISE));
  };
  socket.on('drain', go);
  go();
}

/** Reads for `warmUpMs` and then for `ms`. @returns the bytes that came in the second span. */
async function pull(host: string, port: number, warmUpMs: number, ms: number): Promise<number> {
  const socket = await connected(host, port);
  socket.on('error', () => socket.destroy());
  socket.write(`${2 ** 40}\n`);
  socket.resume();
  await sleep(warmUpMs);
  const before = socket.bytesRead;
  await sleep(ms);
  const after = socket.bytesRead;
  socket.destroy();
  return after - before;
}

/** Sends for `ms`, and then resets. */
async function push(host: string, port: number, ms: number): Promise<void> {
  const socket = await connected(host, port);
  socket.on('error', () => socket.destroy());
  pour(socket);
  await sleep(ms);
  socket.resetAndDestroy();
}

async function connect(host: string, port: number): Promise<ConnectOutcome> {
  const started = performance.now();
  try {
    const socket = await connected(host, port);
    const ms = performance.now() - started;
    socket.destroy();
    return { outcome: 'connected', ms };
  } catch (error) {
    return { outcome: codeOf(error), ms: performance.now() - started };
  }
}

/** `flows` connections to a source server (see `host-servers.ts`), each asking for `bytes`. */
async function download(host: string, port: number, bytes: number, flows: number): Promise<BulkResult[]> {
  const one = async (): Promise<BulkResult> => {
    const socket = await connected(host, port, true);
    socket.end(`${bytes}\n`);
    return readAll(socket);
  };
  return Promise.all(Array.from({ length: flows }, one));
}

/** `flows` connections to a sink server, which answers with its count and hash after FIN. */
async function upload(
  host: string,
  port: number,
  bytes: number,
  flows: number,
): Promise<{ sent: string; answer: string }[]> {
  const one = async (): Promise<{ sent: string; answer: string }> => {
    const socket = await connected(host, port, true);
    const hash = createHash('sha256');
    let left = bytes;
    const answer = new Promise<string>((resolve, reject) => {
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      socket.once('end', () => resolve(text.trim()));
      socket.once('error', reject);
    });
    for (let number = 0; left > 0; number++) {
      const chunk = Buffer.from(NOISE.subarray(0, Math.min(left, 256 * 1024)));
      if (chunk.length >= 4) chunk.writeUInt32BE(number, 0);
      hash.update(chunk);
      left -= chunk.length;
      if (!socket.write(chunk)) await new Promise((resolve) => socket.once('drain', resolve));
    }
    socket.end();
    return { sent: `${bytes} ${hash.digest('hex')}`, answer: await answer };
  };
  return Promise.all(Array.from({ length: flows }, one));
}

const held: Socket[] = [];

/** Opens connections to an echo server and keeps them. @returns how many stand. */
async function hold(host: string, port: number, count: number): Promise<number> {
  const BATCH = 100;
  for (let opened = 0; opened < count; opened += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, count - opened) }, () => connected(host, port));
    for (const socket of await Promise.all(batch)) {
      socket.on('error', () => socket.destroy());
      held.push(socket);
    }
  }
  return held.length;
}

/** Sends a line over each held connection. @returns how many answered with it. */
async function checkHeld(): Promise<number> {
  const alive = held.map(
    (socket, index) =>
      new Promise<boolean>((resolve) => {
        const line = `held ${index}\n`;
        const timer = setTimeout(() => resolve(false), 20_000);
        let text = '';
        const onData = (chunk: Buffer): void => {
          text += chunk.toString();
          if (text.length < line.length) return;
          clearTimeout(timer);
          socket.removeListener('data', onData);
          resolve(text === line);
        };
        if (socket.destroyed) return resolve(false);
        socket.on('data', onData);
        socket.write(line);
      }),
  );
  return (await Promise.all(alive)).filter(Boolean).length;
}

/** How many held connections have ended. */
function heldGone(): number {
  return held.filter((socket) => socket.destroyed || socket.readyState !== 'open').length;
}

function release(): void {
  for (const socket of held.splice(0)) socket.destroy();
}

/** Connect, send 64 bytes, get them back, close: `count` times with `parallel` at once. */
async function shortFlows(host: string, port: number, count: number, parallel: number): Promise<ShortFlowsResult> {
  const started = performance.now();
  let begun = 0;
  let ok = 0;
  const codes: Record<string, number> = {};
  const payload = randomBytes(64);
  const one = (): Promise<void> =>
    new Promise((resolve) => {
      const socket = createConnection({ host, port, noDelay: true });
      let got = 0;
      let code = '';
      socket.setTimeout(20_000, () => socket.destroy(Object.assign(new Error(), { code: 'silent' })));
      socket.once('connect', () => socket.write(payload));
      socket.on('data', (chunk) => {
        got += chunk.length;
        if (got === payload.length) socket.end();
      });
      socket.once('error', (error) => {
        code = codeOf(error);
      });
      socket.once('close', () => {
        if (code === '' && got === payload.length) ok++;
        else codes[code || 'short'] = (codes[code || 'short'] ?? 0) + 1;
        resolve();
      });
    });
  const worker = async (): Promise<void> => {
    while (begun < count) {
      begun++;
      await one();
    }
  };
  await Promise.all(Array.from({ length: parallel }, worker));
  return { ok, failed: count - ok, codes, seconds: (performance.now() - started) / 1000 };
}

/** Sends, shuts the sending side down, reads to the end. */
async function sendThenRead(host: string, port: number, text: string): Promise<string> {
  const socket = await connected(host, port, true);
  socket.end(text);
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Reads to the other side's FIN first, and answers after it. @returns what was read. */
async function readThenSend(host: string, port: number, text: string): Promise<string> {
  const socket = await connected(host, port, true);
  let read = '';
  socket.on('data', (chunk: Buffer) => {
    read += chunk.toString();
  });
  await new Promise((resolve) => socket.once('end', resolve));
  await new Promise<void>((resolve) => socket.end(text, resolve));
  return read;
}

/** Connects, says `hello`, and then either resets or waits. @returns how the connection ended here. */
async function resetOrWait(host: string, port: number, reset: boolean): Promise<string> {
  const socket = await connected(host, port);
  const ended = new Promise<string>((resolve) => {
    socket.once('error', (error) => resolve(codeOf(error)));
    socket.once('end', () => resolve(howEnded(socket)));
    socket.once('close', () => resolve('close'));
  });
  await new Promise((resolve) => socket.write('hello\n', resolve));
  if (reset) socket.resetAndDestroy();
  else socket.resume();
  return ended;
}

/** One datagram of each size, one after the other. @returns the sizes whose echo was right. */
async function udpEcho(host: string, port: number, sizes: number[]): Promise<number[]> {
  const socket = createSocket('udp4');
  const right: number[] = [];
  try {
    for (const size of sizes) {
      const payload = randomBytes(size);
      const answer = await new Promise<Buffer | undefined>((resolve) => {
        const timer = setTimeout(() => resolve(undefined), 3000);
        socket.once('message', (message) => {
          clearTimeout(timer);
          resolve(message);
        });
        socket.once('error', () => resolve(undefined));
        socket.send(payload, port, host);
      });
      socket.removeAllListeners();
      if (answer?.equals(payload)) right.push(size);
    }
  } finally {
    socket.close();
  }
  return right;
}

/** Sends to a UDP port where nobody listens. @returns the error that ICMP caused, or `silent`. */
async function udpRefused(host: string, port: number): Promise<string> {
  const socket = createSocket('udp4');
  try {
    return await new Promise<string>((resolve) => {
      socket.once('error', (error) => resolve(codeOf(error)));
      socket.connect(port, host, () => socket.send('anybody?'));
      setTimeout(() => resolve('silent'), 3000).unref();
    });
  } finally {
    socket.close();
  }
}

const keptSockets = new Map<string, UdpSocket>();

/**
 * Sends `text` by a connected UDP socket that is made at its first use and kept by its name.
 * @returns the answer, the error that the socket had, or `silent`.
 */
async function udpAsk(name: string, host: string, port: number, text: string, waitMs: number): Promise<string> {
  let socket = keptSockets.get(name);
  if (socket === undefined) {
    socket = createSocket('udp4');
    keptSockets.set(name, socket);
    await new Promise<void>((resolve) => socket!.connect(port, host, resolve));
  }
  const asked = socket;
  return new Promise<string>((resolve) => {
    const done = (result: string): void => {
      clearTimeout(timer);
      asked.off('message', onMessage);
      asked.off('error', onError);
      asked.on('error', () => {});
      resolve(result);
    };
    const onMessage = (message: Buffer): void => done(message.toString());
    const onError = (error: Error): void => done(codeOf(error));
    const timer = setTimeout(() => done('silent'), waitMs);
    asked.removeAllListeners('error');
    asked.on('message', onMessage);
    asked.on('error', onError);
    asked.send(text, (error) => {
      if (error !== null) onError(error);
    });
  });
}

/** Starts servers inside: a TCP echo server, and a UDP one on the same port. */
async function serveEcho(port: number): Promise<number> {
  const tcp = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  await new Promise<void>((resolve) => tcp.listen(port, '0.0.0.0', 1024, resolve));
  const udp = createSocket('udp4', (message, peer) => udp.send(message, peer.port, peer.address));
  await new Promise<void>((resolve) => udp.bind(port, resolve));
  return port;
}

/** Serves TCP and UDP on a port; both answer with whom they see: `ADDRESS PORT`. */
async function serveWho(port: number): Promise<number> {
  const tcp = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.end(`${socket.remoteAddress} ${socket.remotePort}`);
  });
  await new Promise<void>((resolve) => tcp.listen(port, '0.0.0.0', 1024, resolve));
  const udp = createSocket('udp4', (_message, peer) =>
    udp.send(`${peer.address} ${peer.port}`, peer.port, peer.address),
  );
  await new Promise<void>((resolve) => udp.bind(port, resolve));
  return port;
}

/** Asks such a server, by both. @param from the address to bind to. */
async function askWho(host: string, port: number, from?: string): Promise<WhoResult> {
  const tcp = await new Promise<[string, number]>((resolve, reject) => {
    let text = '';
    const socket = createConnection({ host, port, ...(from === undefined ? {} : { localAddress: from }) });
    const localPort = new Promise<number>((settle) => socket.once('connect', () => settle(socket.localPort!)));
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('end', () => localPort.then((own) => resolve([text, own]), reject));
  });
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, from, resolve));
  const udpPort = socket.address().port;
  const udp = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer by UDP')), 5000);
    socket.once('message', (message) => {
      clearTimeout(timer);
      resolve(message.toString());
    });
    socket.send('who', port, host);
  });
  socket.close();
  return { tcp: tcp[0], tcpPort: tcp[1], udp, udpPort };
}

/** Everything a test can ask for. */
export const operations = {
  connect,
  download,
  upload,
  hold,
  checkHeld,
  heldGone,
  release,
  shortFlows,
  sendThenRead,
  readThenSend,
  resetOrWait,
  udpAsk,
  udpEcho,
  udpRefused,
  serveEcho,
  serveWho,
  askWho,
  serveEndless,
  pull,
  push,
};

/** The operations as a type, for the other end. */
export type Operations = typeof operations;

serveOperations(operations);
