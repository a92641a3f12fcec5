// What tests of proxies need: proxies and origins on the host's loopback, and HTTP and TLS clients over an embedded guest's connections.
// Guests dial addresses of TEST-NET, which nothing leads to but a proxy: what arrives came through it.

import { once } from 'node:events';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import net, { type AddressInfo, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import type { Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { GuestSocket } from '../../src/guest/guest-socket.ts';

/** Nobody's address (RFC 5737). */
export const NOWHERE = '198.51.100.7';

/** Of web.example and the loopback, for a hundred years. */
export const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrOgCPVFvpwQcfPsq
/9/H9Q3TlroR6nqALSP74qAcKSOhRANCAATBkLktB3TgyMmZ16ynCmea7fm0fGLB
J3/eb48ISJj2hYYDjaP/XE1dNBHSXq2I6GM7/ej3leQvdCFf2jE5z4sW
-----END PRIVATE KEY-----`;
export const CERT = `-----BEGIN CERTIFICATE-----
MIIBvTCCAWOgAwIBAgIUTaNDWHzUkBSUAZLJHBdEUK3DFI4wCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLd2ViLmV4YW1wbGUwIBcNMjYxMTI4MTIxMzI0WhgPMjEyNjEx
MDQxMjEzMjRaMBYxFDASBgNVBAMMC3dlYi5leGFtcGxlMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEwZC5LQd04MjJmdespwpnmu35tHxiwSd/3m+PCEiY9oWGA42j
/1xNXTQR0l6tiOhjO/3o95XkL3QhX9oxOc+LFqOBjDCBiTAdBgNVHQ4EFgQUIfBC
ynEhNojIC8FeVVZgX8dYI00wHwYDVR0jBBgwFoAUIfBCynEhNojIC8FeVVZgX8dY
I00wDwYDVR0TAQH/BAUwAwEB/zA2BgNVHREELzAtggt3ZWIuZXhhbXBsZYINcHJv
eHkuZXhhbXBsZYIJbG9jYWxob3N0hwR/AAABMAoGCCqGSM49BAMCA0gAMEUCIFgT
zCEMS+nzWGjqNm6Hp3Yw4IqgInKN2dZK0daaxHbgAiEA0TXP4Ek7X5sIvXtQSSzO
0cadtfw3oVH4Hir0f6QmY8M=
-----END CERTIFICATE-----`;

/** Listens on a free loopback port until the test ends. */
export async function listen(t: Test, server: net.Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as AddressInfo).port;
}

/** What a proxy of these tests saw, and where it leads: every name to a port of the loopback. */
export interface TestProxy {
  readonly port: number;
  /** `CONNECT web.example:443`, `GET http://web.example/`, `SOCKS web.example:443`. */
  readonly seen: string[];
  /** Header fields of each, lower case. */
  readonly headers: http.IncomingHttpHeaders[];
  /** TCP connections it has accepted. */
  connections: number;
}

export interface TestProxyOptions {
  /** `USER:PASSWORD` that it wants. */
  readonly auth?: string;
  /** The port of the loopback for a host and port; undefined: 403. */
  readonly lead: (host: string, port: number) => number | undefined;
  readonly tls?: boolean;
}

/** An HTTP proxy with CONNECT and absolute form, as little as will do, and strict about both. */
export async function httpProxy(t: Test, { auth, lead, tls: encrypted = false }: TestProxyOptions): Promise<TestProxy> {
  const proxy = { port: 0, seen: [] as string[], headers: [] as http.IncomingHttpHeaders[], connections: 0 };
  const allowed = (incoming: IncomingMessage): boolean =>
    auth === undefined || incoming.headers['proxy-authorization'] === `Basic ${Buffer.from(auth).toString('base64')}`;
  const onRequest = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    proxy.seen.push(`${incoming.method} ${incoming.url}`);
    proxy.headers.push(incoming.headers);
    if (!allowed(incoming)) {
      outgoing.writeHead(407, { 'Proxy-Authenticate': 'Basic realm="corp"' }).end('credentials, please');
      return;
    }
    const url = new URL(incoming.url ?? '');
    const port = lead(url.hostname, Number(url.port || 80));
    if (port === undefined) {
      outgoing.writeHead(403).end('not for you');
      return;
    }
    const { 'proxy-authorization': _secret, ...headers } = incoming.headers;
    const up = http.request(
      {
        host: '127.0.0.1',
        port,
        method: incoming.method ?? 'GET',
        path: url.pathname + url.search,
        headers,
        agent: false,
      },
      (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      },
    );
    up.on('upgrade', (answer, socket, head) => {
      const raw = incoming.socket;
      raw.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${answer.headers.upgrade}\r\n\r\n`,
      );
      raw.write(head);
      socket.pipe(raw).pipe(socket);
    });
    up.on('error', () => outgoing.destroy());
    if (incoming.headers.upgrade === undefined) incoming.pipe(up);
    else up.end();
  };
  const server = encrypted ? tls.createServer({ key: KEY, cert: CERT }) : net.createServer();
  const requests = http.createServer(onRequest);
  requests.on('upgrade', (incoming) => onRequest(incoming, new http.ServerResponse(incoming)));
  requests.on('connect', (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    proxy.seen.push(`CONNECT ${incoming.url}`);
    proxy.headers.push(incoming.headers);
    socket.on('error', () => {});
    if (!allowed(incoming)) {
      socket.end(
        'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="corp"\r\nContent-Length: 3\r\n\r\nno\n',
      );
      return;
    }
    const [, host = '', portText] = /^\[?(.*?)\]?:(\d+)$/.exec(incoming.url ?? '') ?? [];
    const port = lead(host, Number(portText));
    if (port === undefined) {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    const up = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => {
      // In pieces, and the first byte of the origin close behind.
      socket.write('HTTP/1.1 200 Connection ');
      setImmediate(() => {
        socket.write('established\r\nX-Proxy: test\r\n\r\n');
        up.write(head);
        up.pipe(socket).pipe(up);
      });
    });
    up.on('error', () => socket.destroy());
    socket.once('close', () => up.destroy());
  });
  server.on(encrypted ? 'secureConnection' : 'connection', (socket: Socket) => {
    proxy.connections++;
    socket.allowHalfOpen = true;
    requests.emit('connection', socket);
  });
  t.teardown(() => requests.close());
  proxy.port = await listen(t, server);
  return proxy;
}

/** A SOCKS 5 proxy (RFC 1928, 1929). */
export async function socksProxy(t: Test, { auth, lead }: TestProxyOptions): Promise<TestProxy> {
  const proxy = { port: 0, seen: [] as string[], headers: [] as http.IncomingHttpHeaders[], connections: 0 };
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    proxy.connections++;
    socket.on('error', () => {});
    let got = Buffer.alloc(0);
    const waiting: { n: number; resolve: (bytes: Buffer) => void }[] = [];
    const feed = (): void => {
      while (waiting[0] !== undefined && got.length >= waiting[0].n) {
        const { n, resolve } = waiting.shift()!;
        const bytes = got.subarray(0, n);
        got = got.subarray(n);
        resolve(bytes);
      }
    };
    const onData = (chunk: Buffer): void => {
      got = Buffer.concat([got, chunk]);
      feed();
    };
    socket.on('data', onData);
    const take = (n: number): Promise<Buffer> =>
      new Promise((resolve) => {
        waiting.push({ n, resolve });
        feed();
      });
    const talk = async (): Promise<void> => {
      const [, methods = 0] = await take(2);
      const offered = [...(await take(methods))];
      const method = auth === undefined ? 0 : 2;
      if (!offered.includes(method)) {
        socket.end(Buffer.from([5, 255]));
        return;
      }
      socket.write(Buffer.from([5, method]));
      if (auth !== undefined) {
        const user = (await take((await take(2))[1]!)).toString();
        const password = (await take((await take(1))[0]!)).toString();
        const right = `${user}:${password}` === auth;
        socket.write(Buffer.from([1, right ? 0 : 1]));
        if (!right) {
          socket.end();
          return;
        }
      }
      const [, , , type = 0] = await take(4);
      const address = type === 3 ? await take((await take(1))[0]!) : await take(type === 1 ? 4 : 16);
      const host = type === 3 ? address.toString() : type === 1 ? [...address].join('.') : address.toString('hex');
      const port = (await take(2)).readUInt16BE();
      proxy.seen.push(`SOCKS ${host}:${port}`);
      const to = lead(host, port);
      const reply = (code: number): Buffer => Buffer.from([5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
      if (to === undefined) {
        socket.end(reply(2));
        return;
      }
      const up = net.connect({ port: to, host: '127.0.0.1', allowHalfOpen: true }, () => {
        socket.write(reply(0));
        socket.off('data', onData);
        up.write(got);
        up.pipe(socket).pipe(up);
      });
      up.on('error', () => socket.destroy());
      socket.once('close', () => up.destroy());
    };
    talk().catch(() => socket.destroy());
  });
  proxy.port = await listen(t, server);
  return proxy;
}

/** An HTTP origin. */
export function origin(t: Test, onRequest: http.RequestListener): Promise<number> {
  return listen(t, http.createServer(onRequest));
}

/** A TLS origin that says which name it was asked for, then echoes. */
export function tlsEcho(t: Test): Promise<number> {
  const server = tls.createServer({ key: KEY, cert: CERT, allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.write(`hello ${socket.servername}\n`);
    socket.pipe(socket);
  });
  return listen(t, server);
}

/** A connection of a guest that may be left as it is at the end of a test. */
export async function dial(guest: EmbeddedGuest, address: string, port: number): Promise<GuestSocket> {
  const socket = await guest.connect(address, port);
  socket.on('error', () => {});
  return socket;
}

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly trailers: NodeJS.Dict<string>;
  readonly body: string;
}

/** One request over a stream that is connected already. */
export function ask(
  stream: Duplex,
  options: http.RequestOptions,
  body?: Buffer | string,
  onRequest?: (request: http.ClientRequest) => void,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request({ createConnection: () => stream, setHost: false, ...options }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.once('error', reject);
      answer.once('end', () =>
        resolve({
          status: answer.statusCode ?? 0,
          headers: answer.headers,
          trailers: answer.trailers,
          body: Buffer.concat(chunks).toString(),
        }),
      );
    });
    request.once('error', reject);
    onRequest?.(request);
    if (body !== undefined) request.end(body);
    else if (onRequest === undefined) request.end();
  });
}

/** A request of the guest to an address that only a proxy reaches. */
export async function fetchFrom(guest: EmbeddedGuest, options: http.RequestOptions, body?: string): Promise<Answer> {
  return ask(await dial(guest, NOWHERE, 80), { headers: { Host: 'web.example' }, path: '/', ...options }, body);
}

/** A TLS connection of the guest; resolves with the first line. @throws what TLS fails with */
export async function tlsHello(
  guest: EmbeddedGuest,
  servername: string | undefined,
  address = NOWHERE,
): Promise<{ line: string; socket: tls.TLSSocket }> {
  const raw = await dial(guest, address, 443);
  const socket = tls.connect({
    socket: raw as never,
    rejectUnauthorized: false,
    ...(servername === undefined ? {} : { servername }),
  });
  const line = await new Promise<string>((resolve, reject) => {
    socket.once('data', (chunk: Buffer) => resolve(chunk.toString()));
    socket.once('error', reject);
    socket.once('close', () => reject(Object.assign(new Error('closed'), { code: 'CLOSED' })));
  });
  return { line, socket };
}

/** Sends raw bytes, and reads until the other end closes or `until` is in it. */
export async function exchange(stream: Duplex, bytes: string, until?: string | RegExp): Promise<string> {
  let text = '';
  stream.write(bytes, 'latin1');
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    text += (chunk as Buffer).toString('latin1');
    if (until !== undefined && text.search(until) >= 0) return text;
  }
  // The other end has ended: so does this one, as programs do.
  stream.end();
  return text;
}
