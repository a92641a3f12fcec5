// A daemon with a control socket for tests of its API: started as a child process, asked over HTTP, with embedded guests on its VM socket.

import { type Agent, type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { DaemonProcess } from '../../scripts/daemon/daemon-process.ts';
import { EmbeddedGuest, type EmbeddedGuestOptions } from '../../src/guest/embedded-guest.ts';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly text: string;
  /** The parsed body; undefined where it is no JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came back
  readonly json: any;
}

export interface AskOptions {
  readonly body?: unknown;
  /** Sent as it is, in place of `body`. */
  readonly raw?: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
  readonly agent?: Agent | false;
  /** In place of the control socket. */
  readonly socketPath?: string;
}

/** One request; again where a kept connection was closed for being idle before it could be used, as any HTTP client does. */
export async function ask(socketPath: string, method: string, path: string, options: AskOptions = {}): Promise<Answer> {
  for (;;) {
    try {
      return await askOnce(socketPath, method, path, options);
    } catch (error) {
      if (!(error instanceof StaleConnection)) throw error;
    }
  }
}

class StaleConnection extends Error {}

function askOnce(socketPath: string, method: string, path: string, options: AskOptions = {}): Promise<Answer> {
  const { body, raw, agent = false } = options;
  const payload = raw ?? (body === undefined ? undefined : JSON.stringify(body));
  const json = body === undefined ? {} : { 'Content-Type': 'application/json' };
  const chunked = options.headers?.['Transfer-Encoding'] !== undefined;
  const length = payload === undefined || chunked ? {} : { 'Content-Length': String(Buffer.byteLength(payload)) };
  return new Promise((resolve, reject) => {
    const headers = { ...json, ...length, ...options.headers };
    const req = request({ socketPath, method, path, agent, headers }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        let parsed: unknown;
        try {
          parsed = JSON.parse(text);
        } catch {
          parsed = undefined;
        }
        resolve({ status: res.statusCode ?? 0, headers: res.headers, text, json: parsed });
      });
    });
    req.on('error', (error: NodeJS.ErrnoException) => {
      const stale = req.reusedSocket && (error.code === 'EPIPE' || error.code === 'ECONNRESET');
      reject(stale ? new StaleConnection() : error);
    });
    req.end(payload);
  });
}

export class ControlRig {
  readonly daemon: DaemonProcess;
  readonly #test: Test;

  private constructor(test: Test, daemon: DaemonProcess) {
    this.#test = test;
    this.daemon = daemon;
  }

  /** @param args further options of `isthmus run`; `FOLDER/` in one stands for the daemon's own folder. */
  static async start(test: Test, args: readonly string[] = [], folder?: string): Promise<ControlRig> {
    const daemon = await DaemonProcess.start({
      args: ['--strict', ...args],
      ...(folder === undefined ? {} : { folder }),
    });
    test.teardown(async () => {
      await daemon.stop();
      daemon.clean();
    });
    return new ControlRig(test, daemon);
  }

  get socket(): string {
    return this.daemon.controlSocket;
  }

  /** A path in the daemon's folder: options name such paths relatively, as it runs there. */
  path(name: string): string {
    return join(this.daemon.folder, name);
  }

  ask(method: string, path: string, options: AskOptions = {}): Promise<Answer> {
    return ask(options.socketPath ?? this.socket, method, path, options);
  }

  /** A guest with an address. */
  async guest(options: Partial<EmbeddedGuestOptions> = {}): Promise<EmbeddedGuest> {
    const guest = await EmbeddedGuest.connect({ path: this.daemon.vmSocket, ...options });
    this.#test.teardown(() => guest.close());
    await guest.dhcp();
    return guest;
  }

  /** Resolves once `holds` does. */
  async until<T>(look: () => Promise<T>, holds: (value: T) => boolean, what: string, limitMs = 5000): Promise<T> {
    const end = performance.now() + limitMs;
    for (;;) {
      const value = await look();
      if (holds(value)) return value;
      if (performance.now() > end) throw new Error(`not in ${limitMs} ms: ${what}; last: ${JSON.stringify(value)}`);
      await sleep(10);
    }
  }
}

/** Everything that a TCP port says to `text`, after our FIN. @throws the socket's error. */
export function exchange(port: number, text: string, host = '127.0.0.1'): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ port, host }, () => socket.end(text));
    let answer = '';
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });
}

/** A TCP port of the loopback that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** Makes a guest answer every HTTP request on a port with 200 and `text`. */
export function serveHttp(guest: EmbeddedGuest, port: number, text: string): void {
  guest.listen(port, (socket) => {
    socket.on('error', () => {});
    socket.once('data', () => {
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`);
    });
  });
}
