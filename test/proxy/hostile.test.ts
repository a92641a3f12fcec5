// Guests and servers that do not keep to HTTP: nothing that they send ends the daemon, hangs it, or is held for ever. The network is
// strict here, and an exception that nobody catches fails the test.

import net from 'node:net';
import t from 'tap';
import { GATEWAY, HOST, Rig } from '../guest/rig.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { dial, exchange, httpProxy, listen, NOWHERE, origin } from './rig.ts';

t.test('upgrades and tunnels ahead of answers that are under way', async (t) => {
  const port = await origin(t, (incoming, outgoing) => {
    if (incoming.url !== '/slow') outgoing.end('quick');
  });
  const rig = await Rig.start(t, ['--proxy-listen', '3128']);
  const guest = await rig.guest();
  const slow = `GET http://${HOST}:${port}/slow HTTP/1.1\r\nHost: x\r\n\r\n`;
  for (const second of [
    `GET http://${HOST}:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    `CONNECT ${HOST}:${port} HTTP/1.1\r\nHost: x\r\n\r\n`,
    'nonsense\r\n\r\n',
  ]) {
    const socket = await dial(guest, GATEWAY, 3128);
    socket.resume();
    socket.write(slow + second);
    await rig.until(
      () => rig.metric('proxy_clients_total') > 0 && rig.metric('proxy_connections') === 0,
      second,
      10_000,
    );
    socket.destroy();
  }
  // Upgrades that nobody offers are answered as requests.
  const h2c = `GET http://${HOST}:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n`;
  t.match(await exchange(await dial(guest, GATEWAY, 3128), h2c), /^HTTP\/1\.1 200 [\s\S]*quick/);
  await rig.until(() => rig.metric('proxy_connections') === 0, 'nothing is left', 10_000);
});

t.test('servers and proxies that answer nonsense', async (t) => {
  const answers = [
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    'HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: surprise\r\n\r\nbytes',
    'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\x01realm\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTrailer: X-A\r\nContent-Length: 2\r\n\r\nok',
    'HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\n',
    'HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
    'HTTP/1.0 200 OK\r\n\r\nuntil the end',
    '\x00\x01\x02',
    '',
  ];
  let next = 0;
  const port = await listen(
    t,
    net.createServer((socket) => {
      socket.once('data', () => socket.end(Buffer.from(answers[next++ % answers.length]!, 'latin1')));
    }),
  );
  for (const args of [
    ['--proxy-listen', '3128'],
    ['--proxy', `http://127.0.0.1:${port}`],
  ]) {
    const rig = await Rig.start(t, args);
    const guest = await rig.guest();
    const host = args[0] === '--proxy' ? 'web.example' : `${HOST}:${port}`;
    next = 0;
    for (const answer of answers) {
      const text = await exchange(
        await dial(guest, GATEWAY, 3128),
        `GET http://${host}/ HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n`,
      ).catch((error: NodeJS.ErrnoException) => error.code ?? '');
      t.match(text, /^(HTTP\/1\.1 (\d{3}) |ECONNRESET)/, JSON.stringify(answer));
    }
    if (args[0] !== '--proxy') continue;
    next = 0;
    for (const answer of answers) {
      const text = await exchange(
        await dial(guest, GATEWAY, 3128),
        'CONNECT web.example:443 HTTP/1.1\r\nHost: x\r\n\r\n',
        /\r\n\r\n/,
      );
      t.match(text, /^HTTP\/1\.1 (200|407|50[24]) /, `CONNECT: ${JSON.stringify(answer)}`);
    }
  }
});

t.test('any bytes to the explicit proxy, and to flows that are taken over', async (t) => {
  const port = await origin(t, (incoming, outgoing) => {
    incoming.resume();
    outgoing.end('fine');
  });
  const upstream = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${upstream.port}`]);
  const guest = await rig.guest();
  const random = new SeededRandom(7);
  const below = (n: number): number => (random.i32() >>> 0) % n;
  const parts = [
    'GET ',
    'POST ',
    'CONNECT ',
    'http://web.example/',
    'web.example:443',
    '*',
    ' HTTP/1.1\r\n',
    ' HTTP/1.0\r\n',
    'Host: web.example\r\n',
    'Content-Length: 5\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Trailer: X-T\r\n',
    'Connection: close, upgrade\r\n',
    'Upgrade: websocket\r\n',
    'Expect: 100-continue\r\n',
    'TE: trailers\r\n',
    '\r\n',
    'hello',
    '5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n',
    '\x16\x03\x01',
    '\x00',
  ];
  for (let round = 0; round < 150; round++) {
    let text = round % 3 === 0 ? 'GET http://web.example/ HTTP/1.1\r\nHost: web.example\r\n' : '';
    for (let n = 1 + below(12); n > 0; n--) text += parts[below(parts.length)];
    const [address, at] = round % 2 === 0 ? [GATEWAY, 3128] : [NOWHERE, 80];
    const socket = await dial(guest, address, at);
    socket.resume();
    socket.end(Buffer.from(text, 'latin1'));
    if (round % 5 === 0) socket.destroy();
  }
  const healthy = await exchange(
    await dial(guest, GATEWAY, 3128),
    'GET http://web.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
  );
  t.match(healthy, /fine/, 'it serves on');
  await rig.until(() => rig.metric('proxy_connections') === 0, 'and holds nothing', 20_000);
});
