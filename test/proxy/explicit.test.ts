// The explicit proxy on the gateway: guests that know of it, HTTP/1.1 as it is meant, and what no guest may reach by it.

import { createHash, randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { networkInterfaces } from 'node:os';
import dnsPacket from 'dns-packet';
import t, { type Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import { GATEWAY, HOST, Rig, readAll } from '../guest/rig.ts';
import {
  type Answer,
  ask,
  dial,
  exchange,
  fetchFrom,
  httpProxy,
  listen,
  origin,
  socksProxy,
  tlsEcho,
  tlsHello,
} from './rig.ts';

/** A request to the explicit proxy. */
async function viaProxy(guest: EmbeddedGuest, url: string, headers: Record<string, string> = {}): Promise<Answer> {
  const { host } = new URL(url);
  return ask(await dial(guest, GATEWAY, 3128), { path: url, headers: { Host: host, ...headers } });
}

/** CONNECT, and what comes of it. */
async function connectVia(
  guest: EmbeddedGuest,
  target: string,
  lines = '',
): Promise<{ head: string; socket: net.Socket }> {
  const socket = await dial(guest, GATEWAY, 3128);
  const head = await exchange(socket, `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${lines}\r\n`, /\r\n\r\n/);
  return { head, socket: socket as unknown as net.Socket };
}

async function start(
  t: Test,
  args: string[] = ['--proxy-listen', '3128'],
): Promise<{ rig: Rig; guest: EmbeddedGuest }> {
  const rig = await Rig.start(t, args);
  return { rig, guest: await rig.guest() };
}

t.test('it is closed until a proxy is set', async (t) => {
  const { rig, guest } = await start(t, []);
  await t.rejects(guest.connect(GATEWAY, 3128), { code: 'ECONNREFUSED' });
  t.equal(rig.metric('proxy_clients_total'), 0);
});

t.test(
  'without an upstream it dials itself: built-in names, keep-alive, pipelining, bodies and trailers',
  async (t) => {
    const port = await origin(t, (incoming, outgoing) => {
      const hash = createHash('sha256');
      incoming.on('data', (chunk: Buffer) => hash.update(chunk));
      incoming.on('end', () => {
        if (incoming.method !== 'HEAD') outgoing.setHeader('Trailer', 'X-Sum');
        outgoing.setHeader('X-Seen', JSON.stringify(incoming.headers));
        outgoing.setHeader('Connection', 'X-Hop');
        outgoing.setHeader('X-Hop', 'mine');
        outgoing.write(`${incoming.method} ${incoming.url} `);
        outgoing.write(hash.digest('hex'));
        outgoing.addTrailers({ 'X-Sum': JSON.stringify(incoming.trailers) });
        outgoing.end();
      });
    });
    const { rig, guest } = await start(t);
    const body = randomBytes(1_000_000);
    const base = `http://host.isthmus.internal:${port}`;
    const stream = await dial(guest, GATEWAY, 3128);
    const answer = await ask(
      stream,
      {
        method: 'POST',
        path: `${base}/up`,
        headers: {
          Host: 'not-this',
          'Proxy-Connection': 'keep-alive',
          'Proxy-Authorization': 'Basic c2VjcmV0',
          Connection: 'X-Mine',
          'X-Mine': '1',
          'X-Other': '2',
          TE: 'trailers',
          Trailer: 'X-End',
        },
      },
      undefined,
      (request) => {
        request.write(body);
        request.addTrailers({ 'X-End': 'yes' });
        request.end();
      },
    );
    t.equal(answer.status, 200);
    t.equal(answer.body, `POST /up ${createHash('sha256').update(body).digest('hex')}`, 'a chunked body of a megabyte');
    t.match(answer.trailers['x-sum'], /"x-end":"yes"/, 'trailers both ways');
    t.equal(answer.headers['x-hop'], undefined, 'hop-by-hop fields of the answer stay behind');
    const seen = JSON.parse(String(answer.headers['x-seen']));
    t.match(seen, { host: `host.isthmus.internal:${port}`, 'x-other': '2', te: 'trailers', via: /^1\.1 isthmus-/ });
    for (const name of ['x-mine', 'proxy-connection', 'proxy-authorization']) t.equal(seen[name], undefined, name);
    const text = await exchange(
      await dial(guest, GATEWAY, 3128),
      `GET ${base}/1 HTTP/1.1\r\nHost: x\r\n\r\nHEAD ${base}/2 HTTP/1.1\r\nHost: x\r\n\r\nGET ${base}/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
    );
    t.same(text.match(/HTTP\/1\.1 200/g)?.length, 3);
    t.same(text.match(/GET \/\d /g), ['GET /1 ', 'GET /3 ']);
    for (const [left, seenThere] of [
      ['3', '"max-forwards":"2"'],
      ['0', 'undefined'],
    ]) {
      const stream = await dial(guest, GATEWAY, 3128);
      const headers = { Host: 'x', 'Max-Forwards': left!, Connection: 'close' };
      const answer = await ask(stream, { method: 'OPTIONS', path: `${base}/`, headers });
      t.equal(answer.status, 200);
      t.match(String(answer.headers['x-seen']), seenThere!, `Max-Forwards: ${left}`);
      stream.end();
    }
    await rig.until(() => rig.metric('proxy_connections') === 1, 'only the kept connection is left');
  },
);

t.test('CONNECT: bytes both ways, half-close, what came close behind the head', async (t) => {
  const port = await tlsEcho(t);
  const echo = await listen(
    t,
    net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)),
  );
  const { rig, guest } = await start(t);
  const socket = await dial(guest, GATEWAY, 3128);
  const bytes = randomBytes(2_000_000).toString('latin1');
  const all = exchange(socket, `CONNECT ${HOST}:${echo} HTTP/1.1\r\nHost: x\r\n\r\n${bytes}`);
  socket.end();
  const text = await all;
  const [head, rest] = text.split('\r\n\r\n', 1).concat(text.slice(text.indexOf('\r\n\r\n') + 4));
  t.equal(head, 'HTTP/1.1 200 Connection established');
  t.ok(rest === bytes, 'two megabytes come back whole, and the end is an end');
  await rig.until(() => rig.metric('tcp_flows') === 0, 'all is over');
  t.not(port, echo);
});

t.test("no guest reaches the host's loopback, link-local or isthmus itself, however it is written", async (t) => {
  const port = await origin(t, (_incoming, outgoing) => outgoing.end('secret'));
  const upstream = await httpProxy(t, { lead: () => port });
  const hosts = ['127.0.0.1', '127.1', '2130706433', '0x7f000001', '017700000001', 'localhost', 'LOCALHOST.'];
  hosts.push('a.localhost', '0.0.0.0', '169.254.169.254', '[::1]', '[::ffff:127.0.0.1]', '[::127.0.0.1]', '[fe80::1]');
  hosts.push('[64:ff9b::7f00:1]', GATEWAY, '192.168.65.77', '224.0.0.1', '255.255.255.255');
  for (const args of [
    ['--proxy-listen', '3128'],
    ['--proxy', `http://127.0.0.1:${upstream.port}`],
  ]) {
    const { guest } = await start(t, args);
    for (const host of hosts) {
      const { head } = await connectVia(guest, `${host}:${port}`);
      t.match(head, /^HTTP\/1\.1 403 /, `CONNECT ${host}`);
      const text = await exchange(
        await dial(guest, GATEWAY, 3128),
        `GET http://${host}:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
      );
      t.match(text, /^HTTP\/1\.1 403 [\s\S]*there is no way to/, `GET ${host}`);
    }
  }
  t.same(upstream.seen, [], 'and no proxy was asked to');
});

t.test('a name that points to the loopback is no way there by a proxy on the host', async (t) => {
  const dns = createSocket('udp4', (message, from) => {
    const { id, questions = [] } = dnsPacket.decode(message);
    const { name = '', type } = questions[0] ?? {};
    const data = { 'rebind.example': '127.0.0.1', 'meta.example': '169.254.169.254', 'fine.example': '192.0.2.9' }[
      name
    ];
    const found = data !== undefined && type === 'A';
    const answers = found ? [{ type: 'A' as const, name, ttl: 1, data }] : [];
    const flags = data === undefined ? 3 : 0;
    dns.send(dnsPacket.encode({ type: 'response', id: id ?? 0, flags, questions, answers }), from.port, from.address);
  });
  dns.bind(0, '127.0.0.1');
  await once(dns, 'listening');
  t.teardown(() => dns.close());
  const port = await tlsEcho(t);
  const upstream = await httpProxy(t, { lead: () => port });
  const args = ['--proxy', `http://127.0.0.1:${upstream.port}`, '--dns', `127.0.0.1:${dns.address().port}`];
  const { guest } = await start(t, args);
  for (const name of ['rebind.example', 'meta.example']) {
    t.match((await connectVia(guest, `${name}:443`)).head, /^HTTP\/1\.1 403 /, `CONNECT ${name}`);
    t.equal((await viaProxy(guest, `http://${name}/`)).status, 403, `GET ${name}`);
    t.equal((await fetchFrom(guest, { headers: { Host: name } })).status, 403, 'and taken over');
    await t.rejects(tlsHello(guest, name), { code: 'ERR_SSL_TLSV1_ALERT_ACCESS_DENIED' });
  }
  t.same(upstream.seen, []);
  t.match((await connectVia(guest, 'fine.example:443')).head, /^HTTP\/1\.1 200 /);
  t.match(
    (await connectVia(guest, 'unknown.example:443')).head,
    /^HTTP\/1\.1 200 /,
    'a name that only the proxy knows',
  );
});

t.test('mistakes have answers', async (t) => {
  const { rig, guest } = await start(t);
  const one = async (bytes: string): Promise<string> => exchange(await dial(guest, GATEWAY, 3128), bytes);
  t.match(
    await one('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 400 [\s\S]*this is a proxy/,
  );
  t.match(
    await one('GET https://x.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 400 [\s\S]*CONNECT/,
  );
  t.match(await one('CONNECT x.example HTTP/1.1\r\nHost: x\r\n\r\n'), /^HTTP\/1\.1 400 /);
  t.match(await one('CONNECT x.example:99999 HTTP/1.1\r\nHost: x\r\n\r\n'), /^HTTP\/1\.1 400 /);
  t.match(await one('nonsense\r\n\r\n'), /^HTTP\/1\.1 400 /);
  t.match(
    await one('GET http://nobody.isthmus.internal/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 502 [\s\S]*no such name/,
  );
  const server = net.createServer();
  const free = await listen(t, server);
  await new Promise((resolve) => server.close(resolve));
  t.match(
    await one(`GET http://${HOST}:${free}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`),
    /^HTTP\/1\.1 502 [\s\S]*refused/,
  );
  t.match((await connectVia(guest, `${HOST}:${free}`)).head, /^HTTP\/1\.1 502 /);
  // More requests at once than anybody needs.
  const flood = await dial(guest, GATEWAY, 3128);
  flood.on('error', () => {});
  flood.write(`GET http://${HOST}:${free}/ HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(200));
  await rig.until(() => rig.metric('proxy_connections') === 0, 'it is cut off');
});

t.test("through an upstream: credentials of isthmus, or the guest's own where it has none", async (t) => {
  const [port, secure] = [await origin(t, (_in, outgoing) => outgoing.end('from origin')), await tlsEcho(t)];
  const lead = (_host: string, at: number): number => (at === 443 ? secure : port);
  const proxy = await httpProxy(t, { auth: 'me:s3cret', lead });
  const ours = await start(t, ['--proxy', `http://me:s3cret@127.0.0.1:${proxy.port}`]);
  t.equal((await viaProxy(ours.guest, 'http://web.example/')).body, 'from origin');
  t.match((await connectVia(ours.guest, 'web.example:443')).head, /^HTTP\/1\.1 200 /);
  const wrong = await start(t, ['--proxy', `http://me:wrong@127.0.0.1:${proxy.port}`]);
  const answer = await viaProxy(wrong.guest, 'http://web.example/');
  t.equal(answer.status, 407);
  t.match((await connectVia(wrong.guest, 'web.example:443')).head, /^HTTP\/1\.1 407 Proxy Authentication Required\r\n/);
  const none = await start(t, ['--proxy', `http://127.0.0.1:${proxy.port}`]);
  const asked = await viaProxy(none.guest, 'http://web.example/');
  t.same([asked.status, asked.headers['proxy-authenticate']], [407, 'Basic realm="corp"'], 'the guest is asked');
  const mine = `Basic ${Buffer.from('me:s3cret').toString('base64')}`;
  const right = await viaProxy(none.guest, 'http://web.example/', { 'Proxy-Authorization': mine });
  t.equal(right.body, 'from origin');
  const line = `Proxy-Authorization: ${mine}\r\n`;
  t.match((await connectVia(none.guest, 'web.example:443', line)).head, /^HTTP\/1\.1 200 /);
  // Names of isthmus's own are not the upstream's.
  proxy.seen.length = 0;
  const local = await viaProxy(ours.guest, `http://host.isthmus.internal:${port}/`);
  t.same([local.body, proxy.seen], ['from origin', []]);
});

t.test("100 Continue is the origin's to say, and WebSockets get through", async (t) => {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (/upgrade: ws-test/i.test(text)) {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ws-test\r\n\r\nfirst');
        text = '';
        socket.on('data', (more: Buffer) => socket.write(more.toString().toUpperCase()));
      } else if (text.endsWith('\r\n\r\n') && /expect/i.test(text)) socket.write('HTTP/1.1 100 Continue\r\n\r\n');
      else if (text.endsWith('body')) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
    });
  });
  const port = await listen(t, server);
  const upstream = await httpProxy(t, { lead: () => port });
  const socks = await socksProxy(t, { lead: () => port });
  const ways = [
    ['--proxy-listen', '3128'],
    ['--proxy', `socks5://127.0.0.1:${socks.port}`],
  ];
  for (const args of [...ways, ['--proxy', `http://127.0.0.1:${upstream.port}`]]) {
    const { guest } = await start(t, args);
    const host = args[0] === '--proxy' ? 'web.example' : `${HOST}:${port}`;
    const socket = await dial(guest, GATEWAY, 3128);
    const got = await exchange(
      socket,
      `GET http://${host}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ws-test\r\n\r\n`,
      /first$/,
    );
    t.match(got, /^HTTP\/1\.1 101 /, `upgrade by ${args.join(' ')}`);
    t.equal(await exchange(socket, 'abc', /ABC/), 'ABC');
    socket.destroy();
    if (args.includes(`http://127.0.0.1:${upstream.port}`)) continue;
    const expecting = await dial(guest, GATEWAY, 3128);
    const head = `POST http://${host}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n`;
    t.match(
      await exchange(expecting, head, /\r\n\r\n/),
      /^HTTP\/1\.1 100 Continue\r\n\r\n$/,
      'not before the origin says so',
    );
    t.match(await exchange(expecting, 'body', /ok$/), /^HTTP\/1\.1 200 OK/);
    expecting.destroy();
  }
});

t.test('loops are seen: our own mark, our own ports', async (t) => {
  const { rig, guest } = await start(t);
  const port = await origin(t, (incoming, outgoing) => outgoing.end(incoming.headers.via));
  const via = (await viaProxy(guest, `http://${HOST}:${port}/`)).body;
  const again = await viaProxy(guest, `http://${HOST}:${port}/`, { Via: `1.0 other, ${via}` });
  t.equal(again.status, 508);
  t.match((await connectVia(guest, `${HOST}:${port}`, `Via: ${via}\r\n`)).head, /^HTTP\/1\.1 508 Loop Detected\r\n/);
  t.equal(rig.metric('proxy_refused_total'), 2);
  for (const proxy of [`http://${GATEWAY}:3128`, 'http://192.168.65.9:8080'])
    await t.rejects(Rig.start(t, ['--proxy', proxy]), { code: 'ERR_PROXY_LOOP', exitCode: 78 }, proxy);
  const server = net.createServer();
  const free = await listen(t, server);
  await new Promise((resolve) => server.close(resolve));
  const published = ['--publish', `127.0.0.1:${free}:8080`, '--proxy', `http://127.0.0.1:${free}`];
  await t.rejects(Rig.start(t, published), { message: /published port of a VM/ });
});

t.test('an answer that is cut short does not look whole; a guest that goes ends the request', async (t) => {
  let gone = 0;
  const port = await origin(t, (incoming, outgoing) => {
    if (incoming.url === '/cut') {
      outgoing.writeHead(200, { 'Content-Length': 1000 });
      outgoing.write('half');
      setImmediate(() => outgoing.destroy());
    } else {
      outgoing.write('begin');
      outgoing.once('close', () => gone++);
    }
  });
  const { rig, guest } = await start(t);
  await t.rejects(viaProxy(guest, `http://${HOST}:${port}/cut`), { code: 'ECONNRESET' });
  const socket = await dial(guest, GATEWAY, 3128);
  await exchange(socket, `GET http://${HOST}:${port}/hang HTTP/1.1\r\nHost: x\r\n\r\n`, 'begin');
  socket.destroy();
  await rig.until(() => gone === 1 && rig.metric('proxy_connections') === 0, 'the origin hears of it');
});

const own = Object.values(networkInterfaces())
  .flat()
  .find((one) => one !== undefined && !one.internal && one.family === 'IPv4')?.address;
const skip = own === undefined ? 'this machine has no address but loopback' : false;

t.test('a way past the proxy: --no-proxy is dialled directly', { skip }, async (t) => {
  const server = net.createServer((socket) => socket.on('error', () => {}).end('direct'));
  server.listen(0, own!);
  await new Promise((resolve) => server.once('listening', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as net.AddressInfo;
  const upstream = await httpProxy(t, { lead: () => undefined });
  const args = ['--proxy', `http://127.0.0.1:${upstream.port}`, '--proxy-ports', `${port}`];
  const { guest } = await start(t, [...args, '--no-proxy', `${own}:${port}`]);
  t.equal((await readAll(await dial(guest, own!, port))).toString(), 'direct', 'a flow that was not taken over');
  const { head, socket } = await connectVia(guest, `${own}:${port}`);
  t.match(head, /^HTTP\/1\.1 200 /);
  socket.destroy();
  t.same(upstream.seen, []);
});
