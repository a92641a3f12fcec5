// Flows that are taken over: the guest knows of no proxy and dials an address that only the proxy reaches.

import { randomBytes } from 'node:crypto';
import net from 'node:net';
import t from 'tap';
import { GATEWAY, Rig, readAll } from '../guest/rig.ts';
import {
  ask,
  dial,
  exchange,
  fetchFrom,
  httpProxy,
  listen,
  NOWHERE,
  origin,
  socksProxy,
  tlsEcho,
  tlsHello,
} from './rig.ts';

t.test('TLS goes by CONNECT with the name of the ClientHello, and bytes flow both ways', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { auth: 'me:s3cret', lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://me:s3cret@127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const { line, socket } = await tlsHello(guest, 'web.example');
  t.equal(line, 'hello web.example\n');
  t.same(proxy.seen, ['CONNECT web.example:443']);
  t.match(proxy.headers[0]?.via, /^1\.1 isthmus-/, 'marked, so that a loop is seen');
  const bytes = randomBytes(3_000_000);
  socket.end(bytes);
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  t.ok(Buffer.concat(chunks).equals(bytes), 'three megabytes there and back, and half-close');
  await rig.until(() => rig.metric('tcp_flows') === 0, 'the flow has ended');
  t.equal(rig.metric('proxy_routes_total'), 1);
  t.equal(rig.metric('proxy_refused_total'), 0);
  t.equal(rig.metric('proxy_connections'), 0);
});

t.test('without a name: the DNS answers of this guest, else the address', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const other = await rig.guest();
  t.equal((await guest.resolve('printer.example')).answers[0]?.data, '10.9.8.7');
  await tlsHello(guest, undefined, '10.9.8.7');
  await tlsHello(other, undefined, '10.9.8.7');
  t.same(proxy.seen, ['CONNECT printer.example:443', 'CONNECT 10.9.8.7:443'], "another VM's answers are its own");
  // Not TLS at all: it is known by what it sends, or by its silence.
  const talkative = await listen(
    t,
    net.createServer((socket) => socket.end('220 ready\n')),
  );
  const second = await httpProxy(t, { lead: () => talkative });
  const rig2 = await Rig.start(t, ['--proxy', `http://127.0.0.1:${second.port}`]);
  const silent = await dial(await rig2.guest(), '10.9.8.7', 443);
  t.equal((await readAll(silent)).toString(), '220 ready\n', 'a server that speaks first is heard');
  silent.end();
});

t.test('HTTP goes in absolute form, request by request', async (t) => {
  const port = await origin(t, (incoming, outgoing) => {
    let length = 0;
    incoming.on('data', (chunk: Buffer) => {
      length += chunk.length;
    });
    incoming.on('end', () => {
      outgoing.setHeader('X-Host', incoming.headers.host ?? '');
      outgoing.end(`${incoming.method} ${incoming.url} ${length}`);
    });
  });
  const proxy = await httpProxy(t, { auth: 'me:pass word', lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://me:pass%20word@127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const socket = await dial(guest, NOWHERE, 80);
  const text = await exchange(
    socket,
    'GET /a?b=c HTTP/1.1\r\nHost: one.example\r\n\r\nPOST /two HTTP/1.1\r\nHost: two.example:80\r\nContent-Length: 3\r\n\r\nabcGET /three HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n',
  );
  t.same(
    text.match(/(GET|POST) \/\S* \d/g),
    ['GET /a?b=c 0', 'POST /two 3', 'GET /three 0'],
    'pipelined requests are answered in order',
  );
  t.same(proxy.seen, ['GET http://one.example/a?b=c', 'POST http://two.example/two', 'GET http://one.example/three']);
  t.equal(proxy.connections, 1, 'over one connection to the proxy');
  t.match(text, /x-host: two\.example\r/i);
  socket.end();
  // An HTTP/1.0 client without Host: the address.
  const old = await dial(guest, NOWHERE, 80);
  t.match(await exchange(old, 'GET / HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 [\s\S]*GET \/ 0$/);
  t.equal(proxy.seen.at(-1), `GET http://${NOWHERE}/`);
});

t.test('a wrong password: 407 for HTTP, access denied for TLS, and a line in the log', async (t) => {
  const proxy = await httpProxy(t, { auth: 'me:right', lead: () => 1 });
  const rig = await Rig.start(t, ['--proxy', `http://me:wrong@127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const answer = await fetchFrom(guest, {});
  t.equal(answer.status, 407);
  t.match(answer.body, /did not take the user name and password.*--proxy/);
  t.notMatch(answer.body, /wrong/, 'the password is told to nobody');
  await t.rejects(tlsHello(guest, 'web.example'), { code: 'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED' });
  const lines = rig.log.lines.filter((line) => line.event === 'proxy.refused');
  t.match(lines, [
    { fields: { target: 'web.example:80', status: 407, cause: 'credentials' } },
    { fields: { target: 'web.example:443', status: 407, proxyStatus: 407 } },
  ]);
  t.match(lines[1]?.message, /answered 407 Proxy Authentication Required/);
  t.equal(rig.metric('proxy_refused_total'), 2);
  await rig.until(() => rig.metric('tcp_flows') === 0, 'nothing is left');
});

t.test('what the proxy forbids or cannot reach is told', async (t) => {
  const proxy = await httpProxy(t, { lead: () => undefined });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const answer = await fetchFrom(guest, {});
  t.same([answer.status, answer.body], [403, 'not for you'], "the proxy's own page");
  await t.rejects(tlsHello(guest, 'web.example'), { code: 'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED' });
  // A proxy that is not there.
  const gone = await listen(t, net.createServer());
  const server = net.createServer();
  const free = await listen(t, server);
  await new Promise((resolve) => server.close(resolve));
  const rig2 = await Rig.start(t, ['--proxy', `http://127.0.0.1:${free}`]);
  const refused = await fetchFrom(await rig2.guest(), {});
  t.equal(refused.status, 502);
  t.match(refused.body, /cannot be reached: connection refused/);
  // One that is no proxy.
  const nonsense = await listen(
    t,
    net.createServer((socket) => socket.end('SSH-2.0-OpenSSH\r\n')),
  );
  const rig3 = await Rig.start(t, ['--proxy', `http://127.0.0.1:${nonsense}`]);
  const guest3 = await rig3.guest();
  await t.rejects(tlsHello(guest3, 'web.example'), { code: 'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED' });
  t.match(rig3.log.lines.find((line) => line.event === 'proxy.refused')?.message, /does not speak HTTP/);
  t.not(gone, free);
});

t.test("SOCKS 5: names are the proxy's, credentials are checked", async (t) => {
  const [secure, plain] = [
    await tlsEcho(t),
    await origin(t, (incoming, outgoing) => outgoing.end(incoming.headers.host)),
  ];
  const lead = (_host: string, port: number): number => (port === 443 ? secure : plain);
  const proxy = await socksProxy(t, { auth: 'me:s3cret', lead });
  const rig = await Rig.start(t, ['--proxy', `socks5://me:s3cret@127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  t.equal((await tlsHello(guest, 'web.example')).line, 'hello web.example\n');
  t.equal((await fetchFrom(guest, {})).body, 'web.example');
  await tlsHello(guest, undefined);
  t.same(proxy.seen, ['SOCKS web.example:443', 'SOCKS web.example:80', `SOCKS ${NOWHERE}:443`]);
  const wrong = await Rig.start(t, ['--proxy', `socks5h://me:wrong@127.0.0.1:${proxy.port}`]);
  const answer = await fetchFrom(await wrong.guest(), {});
  t.equal(answer.status, 407);
  t.match(answer.body, /SOCKS proxy .* did not take the user name and password/);
  const closed = await socksProxy(t, { lead: () => undefined });
  const forbidden = await Rig.start(t, ['--proxy', `socks5://127.0.0.1:${closed.port}`]);
  const no = await fetchFrom(await forbidden.guest(), {});
  t.equal(no.status, 403);
  t.match(no.body, /refused web\.example:80: not allowed/);
});

t.test('a proxy behind TLS', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { tls: true, lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `https://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  await t.rejects(tlsHello(guest, 'web.example'), { code: 'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED' });
  t.match(
    rig.log.lines.find((line) => line.event === 'proxy.refused')?.message,
    /cannot be reached: .*SELF_SIGNED/,
    'its certificate is checked',
  );
  t.same(proxy.seen, []);
});

t.test('past the proxy: --no-proxy by name, address and port', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const args = ['--proxy', `http://127.0.0.1:${proxy.port}`];
  args.push('--no-proxy', '198.51.100.0/24:80, inside.example', '--no-proxy', '10.0.0.0/8');
  const rig = await Rig.start(t, args);
  const guest = await rig.guest();
  await tlsHello(guest, 'web.example');
  await tlsHello(guest, 'notinside.example');
  t.equal(proxy.seen.length, 2);
  // The port that publishes nothing at the host's own address: it is dialled, and refuses.
  t.equal(rig.metric('tcp_host_dialled_total'), 2, 'one dial a tunnel, before');
  t.equal(rig.metric('proxy_flows_total'), 2);
});

t.test('half of a ClientHello does not hold a flow for ever, and a guest that goes leaves nothing', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const half = await dial(guest, NOWHERE, 443);
  half.write(Buffer.from([22, 3, 1, 2, 0, 1, 0]));
  const quiet = await dial(guest, NOWHERE, 443);
  quiet.resetAndDestroy();
  half.on('error', () => {});
  await rig.until(() => proxy.seen.length === 1, 'the half one goes by its address', 10_000);
  t.same(proxy.seen, [`CONNECT ${NOWHERE}:443`]);
  half.destroy();
  await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('proxy_connections') === 0, 'all is gone');
});

t.test('a ClientHello in single bytes, and a request line in two halves', async (t) => {
  const [secure, plain] = [await tlsEcho(t), await origin(t, (incoming, outgoing) => outgoing.end(incoming.url))];
  const proxy = await httpProxy(t, { lead: (_host, port) => (port === 443 ? secure : plain) });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const guest = await rig.guest();
  const socket = await dial(guest, NOWHERE, 80);
  const text = exchange(socket, 'GET /slow HTT');
  await rig.until(() => rig.metric('proxy_flows_total') === 1, 'it is taken');
  socket.write('P/1.1\r\nConnection: close\r\nHost: web.ex');
  socket.write('ample\r\n\r\n');
  t.match(await text, /\/slow$/);
  t.same(proxy.seen, ['GET http://web.example/slow']);
});

t.test('flows that stand outlive a change of settings; the gateway and the host alias are never taken', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const rig = await Rig.start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`, '--proxy-ports', `443,${port}`]);
  const guest = await rig.guest();
  const direct = await dial(guest, '192.168.65.254', port);
  direct.destroy();
  await t.rejects(guest.connect(GATEWAY, 443), { code: 'ECONNREFUSED' });
  t.same(proxy.seen, []);
  const { socket } = await tlsHello(guest, 'web.example');
  const http = await dial(guest, NOWHERE, 443);
  const answer = await ask(http, { headers: { Host: 'x.example', Connection: 'close' }, path: '/' }).catch(
    () => undefined,
  );
  t.equal(answer?.status, 502, 'a TLS server is no HTTP server');
  socket.end('still here\n');
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  t.equal(Buffer.concat(chunks).toString(), 'still here\n');
});
