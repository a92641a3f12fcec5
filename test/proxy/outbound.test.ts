// Where proxies and `--outbound-address` meet: what is dialled for guests leaves from the address of the rule, by whichever way it goes.

import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import t, { type Test } from 'tap';
import { GATEWAY, Rig } from '../guest/rig.ts';
import { dial, exchange, fetchFrom, httpProxy, NOWHERE } from './rig.ts';

const own = Object.values(networkInterfaces())
  .flat()
  .find((one) => one !== undefined && !one.internal && one.family === 'IPv4')?.address;
const skip =
  own === undefined || process.platform !== 'linux' ? 'no address but loopback, or no 127.0.0.5 to send from' : false;
/** Of the host, as all of 127.0.0.0/8 is on Linux, and never its own choice. */
const SOURCE = '127.0.0.5';

/** A proxy of both kinds, and an origin, that keeps who came. */
async function who(t: Test): Promise<{ port: number; from: string[] }> {
  const from: string[] = [];
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (bytes) => {
      from.push(`${socket.remoteAddress} ${bytes[0] === 5 ? 'SOCKS' : bytes.toString('latin1').split(' ')[0]}`);
      if (bytes[0] === 5) socket.end(Buffer.from([5, 255]));
      else socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
    });
  });
  server.listen(0, own!);
  await once(server, 'listening');
  t.teardown(() => server.close());
  return { port: (server.address() as AddressInfo).port, from };
}

t.test('connections to proxies, and past them, leave from --outbound-address', { skip }, async (t) => {
  const { port, from } = await who(t);
  const rule = ['--outbound-address', `${own}/32=${SOURCE}`];
  const rig = await Rig.start(t, [
    ...rule,
    '--proxy',
    `http://${own}:${port}`,
    '--proxy-ports',
    `80,${port}`,
    '--no-proxy',
    'past.example',
  ]);
  const guest = await rig.guest();
  t.equal((await fetchFrom(guest, {})).body, 'ok');
  await exchange(await dial(guest, NOWHERE, 80), 'GETTING nowhere\r\n\r\n', 'ok');
  const explicit = await exchange(await dial(guest, GATEWAY, 3128), 'CONNECT a.example:1 HTTP/1.1\r\n\r\n', '\r\n\r\n');
  t.match(explicit, /^HTTP\/1\.1 200 /);
  const past = await dial(guest, own!, port);
  await exchange(past, `GET / HTTP/1.1\r\nHost: past.example\r\nConnection: close\r\n\r\n`, 'ok');
  t.same(from, [`${SOURCE} GET`, `${SOURCE} CONNECT`, `${SOURCE} CONNECT`, `${SOURCE} GET`]);
  const { proxy } = (await rig.network.control?.({} as never))!;
  await proxy.change({ proxy: `socks5://${own}:${port}` });
  await exchange(await dial(guest, NOWHERE, 80), 'GETTING nowhere\r\n\r\n').catch(() => '');
  t.equal(from[4], `${SOURCE} SOCKS`);
  await proxy.change({ proxy: 'none' });
});

t.test('the explicit proxy dials from it too; the loopback has its own address', { skip }, async (t) => {
  const { port, from } = await who(t);
  const rules = [`${own}/32`, '127.0.0.0/8'].flatMap((cidr) => ['--outbound-address', `${cidr}=${SOURCE}`]);
  const rig = await Rig.start(t, [...rules, '--proxy-listen', '3128']);
  const guest = await rig.guest();
  const ask = `GET http://${own}:${port}/ HTTP/1.1\r\nHost: ${own}:${port}\r\n\r\n`;
  t.match(await exchange(await dial(guest, GATEWAY, 3128), ask, 'ok'), /^HTTP\/1\.1 200 /);
  t.same(from, [`${SOURCE} GET`]);
  const seen: string[] = [];
  const server = net.createServer((socket) => {
    seen.push(socket.remoteAddress ?? '');
    socket.on('error', () => {}).end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const loopback = (server.address() as AddressInfo).port;
  const inside = `CONNECT host.isthmus.internal:${loopback} HTTP/1.1\r\n\r\n`;
  await exchange(await dial(guest, GATEWAY, 3128), inside, '\r\n\r\n');
  t.same(seen, ['127.0.0.1']);
});

t.test('a proxy by name is looked up where there are rules', { skip }, async (t) => {
  const upstream = await httpProxy(t, { lead: () => undefined });
  const rule = ['--outbound-address', `10.0.0.0/8=${SOURCE}`];
  const rig = await Rig.start(t, [...rule, '--proxy', `http://localhost:${upstream.port}`]);
  const guest = await rig.guest();
  t.equal((await fetchFrom(guest, {})).status, 403);
  t.same(upstream.seen, ['GET http://web.example/']);
  const { proxy } = (await rig.network.control?.({} as never))!;
  await proxy.change({ proxy: 'http://nobody.invalid:3128' });
  const { status, body } = await fetchFrom(guest, {});
  t.equal(status, 502);
  t.match(body, /nobody\.invalid:3128 cannot be reached: its name (is unknown|cannot be resolved now)/);
});
