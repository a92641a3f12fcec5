// Guests that are slow, go half, or say too much: what is held for them, and for how long.

import { createServer } from 'node:net';
import t from 'tap';
import { GATEWAY, HOST, Rig, readAll } from '../guest/rig.ts';
import { dial, exchange, httpProxy, listen, NOWHERE, origin } from './rig.ts';

/** Patience of a minute is one of half a second here. */
function hurry(t: { intercept: typeof import('tap').t.intercept }): void {
  const real = globalThis.setTimeout;
  const value = (run: () => void, ms?: number, ...args: []): NodeJS.Timeout =>
    real(run, ms !== undefined && ms >= 60_000 && ms <= 70_000 ? ms / 120 : ms, ...args);
  t.intercept(globalThis, 'setTimeout', { value: Object.assign(value, real) });
}

t.test('RFC 9112 9.5: connections without a request, with half a head, or kept for another, are ended', async (t) => {
  hurry(t);
  const port = await origin(t, (_incoming, outgoing) => outgoing.end('quick'));
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const until = async (at: string, say: string, toPort = 3128): Promise<string> =>
    exchange(await dial(guest, at, toPort), say);
  const request = 'GET http://web.example/ HTTP/1.1\r\nHost: web.example\r\n\r\n';
  const [silent, half, kept, second, taken] = await Promise.all([
    until(GATEWAY, ''),
    until(GATEWAY, 'GET http://web.example/ HTTP/1.1\r\nHo'),
    until(GATEWAY, request),
    until(GATEWAY, `${request}GET http://we`),
    until(NOWHERE, 'GET / HTTP/1.1\r\nHost: web.example\r\n\r\n', 80),
  ]);
  t.match(silent, /^HTTP\/1\.1 408 /);
  t.match(half, /^HTTP\/1\.1 408 Request Timeout\r\n/);
  for (const one of [kept, second, taken]) t.match(one, /^HTTP\/1\.1 200 [\s\S]*quick/);
  t.equal(proxy.seen.length, 3);
  await rig.until(() => rig.metric('proxy_connections') === 0 && rig.metric('tcp_flows') === 0, 'nothing is left');
});

t.test('a slow answer, a slow body and a tunnel are no slow head', async (t) => {
  hurry(t);
  const port = await origin(t, (incoming, outgoing) => {
    incoming.resume().once('end', () => setTimeout(() => outgoing.end('late'), 1200));
  });
  const echo = await listen(
    t,
    createServer((socket) => socket.pipe(socket)),
  );
  const rig = await Rig.start(t, ['--proxy-listen', '3128']);
  const guest = await rig.guest();
  const post = await dial(guest, GATEWAY, 3128);
  post.write(`POST http://${HOST}:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\na`);
  const tunnel = await dial(guest, GATEWAY, 3128);
  await exchange(tunnel, `CONNECT ${HOST}:${echo} HTTP/1.1\r\n\r\n`, '\r\n\r\n');
  await new Promise((resolve) => setTimeout(resolve, 1200));
  t.match(await exchange(post, 'b'), /^HTTP\/1\.1 200 [\s\S]*late/);
  t.equal(await exchange(tunnel, 'still', 'still'), 'still');
  tunnel.destroy();
});

t.test('RFC 9112 9.6: a guest that ends its side gets its answer', async (t) => {
  const port = await origin(t, (_incoming, outgoing) => setTimeout(() => outgoing.end('answer'), 100));
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  for (const [address, toPort, form] of [
    [NOWHERE, 80, '/'],
    [GATEWAY, 3128, 'http://web.example/'],
  ] as const) {
    const socket = await dial(guest, address, toPort);
    socket.end(`GET ${form} HTTP/1.1\r\nHost: web.example\r\n\r\n`);
    t.match((await readAll(socket)).toString(), /^HTTP\/1\.1 200 [\s\S]*answer/);
  }
  await rig.until(() => rig.metric('proxy_connections') === 0, 'nothing is left');
});

t.test('one that ends its side is not waited for without an answer', async (t) => {
  hurry(t);
  const port = await origin(t, () => {});
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const socket = await dial(await rig.guest(), NOWHERE, 80);
  socket.end('GET / HTTP/1.1\r\nHost: web.example\r\n\r\n');
  await readAll(socket).catch(() => {});
  await rig.until(() => rig.metric('proxy_connections') === 0, 'nothing is left', 8000);
});

t.test('a head that is long or slow is still a request, not a reason for CONNECT', async (t) => {
  const port = await origin(t, (_incoming, outgoing) => outgoing.end('plain'));
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const slow = await dial(guest, NOWHERE, 80);
  slow.write('GET /slow HTTP/1.1\r\nHost: web.example\r\n');
  const long = `GET /long HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n`;
  const over = await exchange(await dial(guest, NOWHERE, 80), `${long}X: ${'a'.repeat(100_000)}\r\n\r\n`);
  t.match(over, /^HTTP\/1\.1 431 /);
  await new Promise((resolve) => setTimeout(resolve, 5500));
  t.match(await exchange(slow, 'Connection: close\r\n\r\n'), /^HTTP\/1\.1 200 [\s\S]*plain/);
  t.same(proxy.seen, ['GET http://web.example/slow']);
});

t.test('RFC 9112 3.2: a request with two hosts is refused', async (t) => {
  const proxy = await httpProxy(t, { lead: () => undefined });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const two = 'Host: web.example\r\nHost: other.example\r\nConnection: close\r\n\r\n';
  t.match(await exchange(await dial(guest, NOWHERE, 80), `GET / HTTP/1.1\r\n${two}`), /^HTTP\/1\.1 400 /);
  t.same(proxy.seen, []);
});
