// `/v1/proxy` over the control socket: what it shows, what it changes at once, and what it refuses with which key.

import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { exchange } from '../proxy/rig.ts';
import { ask, ControlRig } from './rig.ts';

t.test('settings are read and changed, live and without passwords', async (t) => {
  const seen: string[] = [];
  const proxy = createServer((incoming: IncomingMessage, outgoing) => {
    seen.push(`${incoming.url} ${incoming.headers['proxy-authorization']}`);
    outgoing.end('by the proxy');
  });
  proxy.listen(0, '127.0.0.1');
  await new Promise((resolve) => proxy.once('listening', resolve));
  t.teardown(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  const { port } = proxy.address() as AddressInfo;
  const rig = await ControlRig.start(t);
  const { controlSocket } = rig.daemon;
  const before = await ask(controlSocket, 'GET', '/v1/proxy');
  const nothing = { origin: 'none', http: null, https: null, pac: null, noProxy: [], ports: [80, 443], problem: null };
  t.same([before.status, before.json], [200, nothing]);
  const body = { proxy: `http://me:s3cret@127.0.0.1:${port}`, noProxy: ['corp.example'] };
  const after = await ask(controlSocket, 'PUT', '/v1/proxy', { body });
  t.equal(after.status, 200);
  t.match(after.json, { origin: 'api', http: `http://me:...@127.0.0.1:${port}`, noProxy: ['corp.example'] });
  const guest = await rig.guest();
  const text = await exchange(
    await guest.connect('198.51.100.7', 80),
    'GET /x HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n',
  );
  t.match(text, /by the proxy/);
  t.same(seen, [`http://web.example/x Basic ${Buffer.from('me:s3cret').toString('base64')}`]);
  const mistakes: [object, number, string, string][] = [
    [{ proxy: 'ftp://h' }, 400, 'ERR_PROXY_URL', 'proxy'],
    [{ https: 'http://h/path' }, 400, 'ERR_PROXY_URL', 'https'],
    [{ noProxy: ['a', '1.2.3.4/99'] }, 400, 'ERR_PROXY_EXCLUDE', 'noProxy'],
    [{ ports: [0] }, 400, 'ERR_PROXY_PORTS', 'ports'],
    [{ ports: '80' }, 400, 'ERR_VALUE', 'ports'],
    [{ proxi: 'none' }, 400, 'ERR_UNKNOWN_FIELD', 'proxi'],
  ];
  for (const [wrong, status, code, key] of mistakes) {
    const answer = await ask(controlSocket, 'PUT', '/v1/proxy', { body: wrong });
    t.match([answer.status, answer.json], [status, { error: { code, key } }], JSON.stringify(wrong));
  }
  const loop = await ask(controlSocket, 'PUT', '/v1/proxy', { body: { proxy: 'http://192.168.65.1:3128' } });
  t.match([loop.status, loop.json], [409, { error: { code: 'ERR_PROXY_LOOP', message: /leads back to isthmus/ } }]);
  t.same((await ask(controlSocket, 'GET', '/v1/proxy')).json, after.json, 'a mistake changes nothing');
  const config = await ask(controlSocket, 'GET', '/v1/config');
  t.notMatch(after.text + config.text, /s3cret/);
  const off = await ask(controlSocket, 'PUT', '/v1/proxy', { body: { proxy: 'none' } });
  t.match(off.json, { http: null, https: null, noProxy: ['corp.example'] });
});
