// PAC files: what they say holds, in order; what they do wrong holds nobody up. And settings that change while everything runs.

import { renameSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { Proxying } from '../../src/daemon/proxying.ts';
import { Rig } from '../guest/rig.ts';
import { dial, fetchFrom, httpProxy, listen, NOWHERE, origin, socksProxy, tlsEcho, tlsHello } from './rig.ts';

async function freePort(t: Parameters<typeof listen>[0]): Promise<number> {
  const server = net.createServer();
  const port = await listen(t, server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

t.test('a PAC file decides by name, its ways are tried in order, with its credentials', async (t) => {
  const [secure, plain] = [await tlsEcho(t), await origin(t, (_in, outgoing) => outgoing.end('plain'))];
  const lead = (_host: string, port: number): number => (port === 443 ? secure : plain);
  const first = await httpProxy(t, { auth: 'me:s3cret', lead });
  const socks = await socksProxy(t, { auth: 'me:s3cret', lead });
  const gone = await freePort(t);
  const script = `function FindProxyForURL(url, host) {
    if (dnsDomainIs(host, '.socks.example')) return 'SOCKS 127.0.0.1:${socks.port}';
    if (isPlainHostName(host) || shExpMatch(url, 'http://*/direct')) return 'DIRECT';
    return 'PROXY 127.0.0.1:${gone}; PROXY 127.0.0.1:${first.port}; DIRECT';
  }`;
  const server = http.createServer((incoming, outgoing) => {
    if (incoming.url === '/moved') outgoing.writeHead(302, { Location: '/proxy.pac' }).end();
    else outgoing.end(script);
  });
  const port = await listen(t, server);
  const rig = await Rig.start(t, ['--proxy', `pac+http://me:s3cret@127.0.0.1:${port}/moved`]);
  const guest = await rig.guest();
  t.equal((await tlsHello(guest, 'web.example')).line, 'hello web.example\n');
  t.equal((await tlsHello(guest, 'a.socks.example')).line, 'hello a.socks.example\n');
  t.equal((await fetchFrom(guest, { path: '/x' })).body, 'plain');
  t.equal((await fetchFrom(guest, { path: '/x', headers: { Host: 'b.socks.example' } })).body, 'plain');
  t.same(first.seen, ['CONNECT web.example:443', 'GET http://web.example/x']);
  t.same(socks.seen, ['SOCKS a.socks.example:443', 'SOCKS b.socks.example:80']);
  t.equal(rig.metric('proxy_pac_failed_total'), 0);
  t.ok(rig.metric('proxy_pac_calls_total') >= 4);
});

t.test('a script that hangs, throws or is no script: told, and nobody waits for long', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const dir = t.testdir({ 'proxy.pac': 'this is no script' });
  const file = join(dir, 'proxy.pac');
  const rig = await Rig.start(t, ['--proxy', `pac:${file}`]);
  const guest = await rig.guest();
  const problems = (): string[] => rig.log.lines.filter((line) => line.event === 'proxy.problem').map((l) => l.message);
  await rig.until(() => problems().some((text) => /does not load/.test(text)), 'it does not load', 20_000);
  const { warnings = [] } = rig.network.health();
  t.match(warnings, [/^proxy: the PAC file .*does not load/], 'a warning of isthmus status');
  const put = (script: string): void => {
    writeFileSync(`${file}.new`, script);
    renameSync(`${file}.new`, file);
  };
  put(`function FindProxyForURL(url, host) {
    if (host === 'loop.example') for (;;);
    if (host === 'throw.example') throw new Error('boo');
    return 'PROXY 127.0.0.1:${proxy.port}';
  }`);
  // The new file is seen by event or by the next flow, and its thread loads: flows before that go directly, to nobody.
  let line = '';
  const end = performance.now() + 20_000;
  while (line === '' && performance.now() < end)
    line = await tlsHello(guest, 'web.example').then(
      (hello) => hello.line,
      () => '',
    );
  t.equal(line, 'hello web.example\n');
  const { proxy: source } = (await rig.network.control?.({} as never))!;
  t.equal(source.info().problem, null, 'all is well again');
  t.equal(rig.network.health().warnings, undefined);
  const loop = await dial(guest, NOWHERE, 80);
  loop.on('error', () => {});
  loop.write('GET / HTTP/1.1\r\nHost: throw.example\r\n\r\n');
  await rig.until(() => problems().some((text) => /failed: .*boo/.test(text)), 'an exception is told', 20_000);
  const hang = await dial(guest, NOWHERE, 80);
  hang.on('error', () => {});
  hang.write('GET / HTTP/1.1\r\nHost: loop.example\r\n\r\n');
  await rig.until(() => problems().some((text) => /takes too long/.test(text)), 'it is ended', 20_000);
  t.ok(rig.metric('proxy_pac_failed_total') >= 2);
  loop.destroy();
  hang.destroy();
});

t.test("VPNKit's file is followed while it changes; flows that stand stay", async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const other = await socksProxy(t, { lead: () => port });
  const dir = t.testdir({ 'http_proxy.json': JSON.stringify({ https: `127.0.0.1:${proxy.port}` }) });
  const file = join(dir, 'http_proxy.json');
  const rig = await Rig.start(t, ['--proxy-config', file]);
  const guest = await rig.guest();
  const { socket } = await tlsHello(guest, 'web.example');
  writeFileSync(file, JSON.stringify({ https: `socks5://127.0.0.1:${other.port}`, exclude: 'none.example' }));
  const settled = (): number => rig.log.lines.filter((line) => line.event === 'proxy.settings').length;
  await rig.until(() => settled() === 2, 'the change is seen');
  await tlsHello(guest, 'web.example');
  t.same([proxy.seen.length, other.seen], [1, ['SOCKS web.example:443']]);
  writeFileSync(file, '{"https": 3}');
  const told = (): boolean =>
    rig.log.lines.some((line) => line.event === 'proxy.problem' && /https/.test(line.message));
  await rig.until(told, 'a mistake is told');
  await tlsHello(guest, 'web.example');
  t.equal(other.seen.length, 2, 'what was had before holds');
  socket.end('still\n');
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  t.equal(Buffer.concat(chunks).toString(), 'still\n');
  t.match((await dial(guest, '192.168.65.1', 3129)).remotePort, 3129, "VPNKit's second port");
  await t.rejects(Rig.start(t, ['--proxy-config', join(dir, 'none.json')]), { code: 'ERR_CONFIG_UNREADABLE' });
  writeFileSync(file, '{"http": 3}');
  await t.rejects(Rig.start(t, ['--proxy-config', file]), { code: 'ERR_PROXY_FILE', exitCode: 78 });
});

t.test('settings by the control API: checked as a whole, told, without passwords', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { auth: 'me:s3cret', lead: () => port });
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const { proxy: source, events } = (await rig.network.control?.({} as never))!;
  t.ok(source instanceof Proxying);
  t.match(source.info(), { origin: 'none', http: null, https: null, pac: null, ports: [80, 443], problem: null });
  const told: unknown[] = [];
  events.listen(({ type, data }) => told.push([type, data]));
  const url = `http://me:s3cret@127.0.0.1:${proxy.port}`;
  const shown = `http://me:...@127.0.0.1:${proxy.port}`;
  t.match(await source.change({ proxy: url, noProxy: ['a.example'] }), {
    origin: 'api',
    http: shown,
    https: shown,
    noProxy: ['a.example'],
  });
  t.equal((await tlsHello(guest, 'web.example')).line, 'hello web.example\n');
  await t.rejects(source.change({ ports: [0] }), { status: 400, code: 'ERR_PROXY_PORTS', field: 'ports' });
  await t.rejects(source.change({ proxy: 'ftp://x' }), { status: 400, code: 'ERR_PROXY_URL', field: 'proxy' });
  await t.rejects(source.change({ http: 'http://x', noProxy: ['1.2.3.4/99'] }), { code: 'ERR_PROXY_EXCLUDE' });
  await t.rejects(source.change({ proxy: 'http://192.168.65.1:3128' }), { status: 409, code: 'ERR_PROXY_LOOP' });
  t.match(source.info(), { http: shown, ports: [80, 443] }, 'a change that fails changes nothing');
  t.match(await source.change({ http: null }), { http: null, https: shown });
  t.match(await source.change({ proxy: 'none' }), { http: null, https: null });
  t.match(told, [
    ['proxy.settings', { https: shown }],
    ['proxy.settings', { http: null }],
    ['proxy.settings', { https: null }],
  ]);
  t.notMatch(JSON.stringify(told), /s3cret/);
  await t.rejects(guest.connect('192.168.65.1', 3128), { code: 'ECONNREFUSED' }, 'the explicit proxy is closed again');
});

t.test('--proxy system: the variables of the environment', async (t) => {
  const port = await tlsEcho(t);
  const proxy = await httpProxy(t, { lead: () => port });
  const before = { ...process.env };
  t.teardown(() => {
    process.env = before;
  });
  for (const name of Object.keys(process.env)) if (/_proxy$/i.test(name)) delete process.env[name];
  process.env.HTTPS_PROXY = `http://127.0.0.1:${proxy.port}`;
  process.env.NO_PROXY = 'inside.example,localhost:*,http://x/';
  const rig = await Rig.start(t, ['--proxy', 'system', '--no-proxy', 'more.example']);
  t.equal((await tlsHello(await rig.guest(), 'web.example')).line, 'hello web.example\n');
  const { proxy: source } = (await rig.network.control?.({} as never))!;
  t.ok(rig.log.lines.some((line) => /passed over: localhost:\*, http:\/\/x\/$/.test(line.message)));
  t.match(source.info(), { origin: 'system', http: null, noProxy: ['inside.example', 'more.example'] });
});
