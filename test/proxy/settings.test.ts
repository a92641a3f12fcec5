// Texts of all kinds become settings: URLs, NO_PROXY, VPNKit's JSON, the environment, scutil, PAC results; and first bytes become names.

import fc from 'fast-check';
import t from 'tap';
import { parseAddress } from '../../src/ip/address.ts';
import { BypassList } from '../../src/proxy/bypass-list.ts';
import { readFirstBytes } from '../../src/proxy/first-bytes.ts';
import { handshakeFor } from '../../src/proxy/handshake.ts';
import { endToEnd, hasPassed } from '../../src/proxy/http-headers.ts';
import { parsePacResult } from '../../src/proxy/pac-results.ts';
import { formatPac, formatProxyChoice, parseProxyChoice } from '../../src/proxy/settings.ts';
import { environmentProxy, scutilProxy } from '../../src/proxy/system-proxy.ts';
import { formatUpstream, parseUpstream, withoutPassword } from '../../src/proxy/upstream.ts';
import { parseVpnkitJson } from '../../src/proxy/vpnkit-json.ts';

t.test('URLs of proxies', (t) => {
  t.same(parseUpstream('proxy.example:3128'), { kind: 'http', host: 'proxy.example', port: 3128 });
  t.same(parseUpstream('http://Proxy.Example'), { kind: 'http', host: 'proxy.example', port: 80 });
  t.same(parseUpstream('http://proxy:80/').port, 80);
  t.same(parseUpstream('https://proxy').port, 443);
  t.same(parseUpstream('socks5h://[2001:db8::1]:9050'), { kind: 'socks5', host: '2001:db8::1', port: 9050 });
  t.same(parseUpstream('http://a%40b:p%3Ass@h:1'), { kind: 'http', host: 'h', port: 1, user: 'a@b', password: 'p:ss' });
  t.equal(
    formatUpstream(parseUpstream('http://a%40b:secret@h:1')),
    'http://a%40b:...@h:1',
    'the password is not shown',
  );
  for (const bad of [
    '',
    'http://',
    'ftp://h',
    'http://h:0',
    'http://h:70000',
    'http://h/path',
    'http://a b',
    'http://%zz@h',
    'http://u:%0d%0aX@h',
    `socks5://u:${'x'.repeat(256)}@h`,
  ])
    t.throws(() => parseUpstream(bad), { code: 'ERR_PROXY_URL', message: /expected http/ }, JSON.stringify(bad));
  try {
    parseUpstream('http://me:s3cret@host:port');
    t.fail('port is no port');
  } catch (error) {
    t.notMatch((error as Error).message, /s3cret/, 'nor in an error');
  }
  t.equal(withoutPassword('pac+http://me:s3:c@ret@h/x'), 'pac+http://me:...@h/x');
  t.same(parseProxyChoice('pac+http://me:pw@wpad.example/p.pac'), {
    kind: 'pac',
    pac: { url: 'http://wpad.example/p.pac', user: 'me', password: 'pw' },
  });
  t.equal(formatProxyChoice(parseProxyChoice('pac+https://me:pw@h/p.pac')), 'pac+https://me:...@h/p.pac');
  for (const text of ['pac:/etc/p.pac', 'file:///etc/p.pac', 'pac+file:///etc/p.pac', 'pac:///etc/p.pac']) {
    const choice = parseProxyChoice(text);
    t.equal(choice.kind === 'pac' ? formatPac(choice.pac) : '', 'pac+file:///etc/p.pac', text);
  }
  t.throws(() => parseProxyChoice('pac:p.pac'), { code: 'ERR_PROXY_URL' });
  t.same([parseProxyChoice('none'), parseProxyChoice('system')], [{ kind: 'none' }, { kind: 'system' }]);
  t.end();
});

t.test('NO_PROXY: domains, networks, ports, stars', (t) => {
  const list = BypassList.parse(
    'example.com,.corp.example *.lab.example  host*.x.example 10.0.0.0/8 192.0.2.1:8080 2001:db8::/32 [2001:db9::1]:443 api.example:8443 <local> 172.16.*',
  );
  const is = (name: string | undefined, address: string | undefined, port = 80): boolean =>
    list.includes(name, address === undefined ? undefined : parseAddress(address), port);
  for (const name of [
    'example.com',
    'a.example.com',
    'corp.example',
    'b.corp.example',
    'lab.example',
    'c.lab.example',
    'host7.x.example',
    'intranet',
  ])
    t.ok(is(name, undefined), name);
  for (const name of ['badexample.com', 'example.com.evil', 'x.example', 'ahost7.x.example'])
    t.notOk(is(name, undefined), name);
  for (const address of ['10.255.0.1', '2001:db8:ffff::1', '172.16.3.4']) t.ok(is(undefined, address), address);
  for (const address of ['11.0.0.1', '2001:dba::1', '172.17.0.1', '192.0.2.1'])
    t.notOk(is(undefined, address), address);
  t.ok(is(undefined, '192.0.2.1', 8080));
  t.ok(is(undefined, '2001:db9::1', 443));
  t.notOk(is(undefined, '2001:db9::1', 80));
  t.ok(is('api.example', undefined, 8443));
  t.notOk(is('api.example', undefined, 443));
  t.ok(is('web.other', '10.1.2.3'), 'name or address');
  t.ok(BypassList.parse('*').includes('anything', undefined, 1));
  t.notOk(BypassList.EMPTY.includes('anything', parseAddress('10.0.0.1'), 1));
  for (const bad of ['10.0.0.0/33', '2001:db8::/129', '10.0.0.0/x', 'a:0', 'a:70000', 'http://x', 'a*b*c*d*e', '/8'])
    t.throws(() => BypassList.parse(bad), { code: 'ERR_PROXY_EXCLUDE' }, bad);
  t.end();
});

t.test("VPNKit's JSON, exactly", (t) => {
  const settings = parseVpnkitJson(
    JSON.stringify({
      http: 'me:pw@proxy:3128',
      https: 'http://other.example',
      exclude: 'localhost, *.local 10.0.0.0/8',
      transparent_http_ports: [80, 8080],
      transparent_https_ports: [443],
      allow_enabled: true,
      allow: 'ok.example',
      allow_error_msg: '%s is not allowed',
    }),
  );
  t.match(settings.http, { host: 'proxy', port: 3128, user: 'me', password: 'pw' });
  t.match(settings.https, { host: 'other.example', port: 80 });
  t.same(settings.exclude.texts, ['localhost', '*.local', '10.0.0.0/8']);
  t.same(settings.ports, [80, 8080, 443]);
  t.ok(settings.allow?.includes('ok.example', undefined, 80));
  t.equal(settings.allowMessage, '%s is not allowed');
  const empty = parseVpnkitJson('{}');
  t.same([empty.http, empty.https, empty.ports, empty.allow], [undefined, undefined, [80, 443], undefined]);
  t.same(parseVpnkitJson('{"http": null, "exclude": null, "unknown": 1}').ports, [80, 443]);
  const bad: [string, string | undefined][] = [
    ['{', undefined],
    ['[]', undefined],
    ['{"http": 3}', 'http'],
    ['{"https": "ftp://x"}', 'https'],
    ['{"exclude": "a b/99"}', 'exclude'],
    ['{"transparent_http_ports": "80"}', 'transparent_http_ports'],
    ['{"transparent_https_ports": [0]}', 'transparent_https_ports'],
    ['{"allow_enabled": "yes"}', 'allow_enabled'],
  ];
  for (const [text, field] of bad) {
    let error: unknown;
    try {
      parseVpnkitJson(text);
    } catch (thrown) {
      error = thrown;
    }
    t.match(error, { status: 400, code: /^ERR_PROXY_/, field }, text);
  }
  t.end();
});

t.test('the environment, in lower and upper case', (t) => {
  const settings = environmentProxy({
    HTTP_PROXY: 'http://upper:1',
    http_proxy: 'lower:2',
    ALL_PROXY: 'socks5h://me:pw@socks',
    NO_PROXY: 'localhost,.corp.example',
  });
  t.match(settings.http, { kind: 'http', host: 'lower', port: 2 });
  t.match(settings.https, { kind: 'socks5', host: 'socks', port: 1080, password: 'pw' }, 'ALL_PROXY for the rest');
  t.same(settings.exclude.texts, ['localhost', '.corp.example']);
  t.same(environmentProxy({ http_proxy: ' ' }).http, undefined);
  t.throws(() => environmentProxy({ HTTPS_PROXY: 'gopher://x' }), { code: 'ERR_PROXY_URL', field: 'HTTPS_PROXY' });
  t.end();
});

t.test('macOS: what scutil --proxy prints', (t) => {
  const text = `<dictionary> {
  ExceptionsList : <array> {
    0 : *.local
    1 : 169.254/16
    2 : corp.example
  }
  ExcludeSimpleHostnames : 1
  FTPPassive : 1
  HTTPEnable : 1
  HTTPPort : 8080
  HTTPProxy : proxy.corp.example
  HTTPSEnable : 0
  HTTPSPort : 8443
  HTTPSProxy : unused.example
  SOCKSEnable : 1
  SOCKSPort : 1081
  SOCKSProxy : socks.corp.example
  ProxyAutoConfigEnable : 0
  ProxyAutoConfigURLString : http://old/
  __SCOPED__ : <dictionary> {
    en0 : <dictionary> {
      HTTPEnable : 0
      HTTPProxy : scoped.example
      ExceptionsList : <array> {
        0 : scoped.local
      }
    }
  }
}
`;
  const settings = scutilProxy(text);
  t.match(settings.http, { kind: 'http', host: 'proxy.corp.example', port: 8080 });
  t.match(settings.https, { kind: 'socks5', host: 'socks.corp.example', port: 1081 }, 'HTTPS is off: SOCKS has it');
  t.equal(settings.pac, undefined);
  t.same(settings.exclude.texts, ['*.local', '169.254.0.0/16', 'corp.example', '<local>']);
  const pac = scutilProxy(
    '<dictionary> {\n  ProxyAutoConfigEnable : 1\n  ProxyAutoConfigURLString : http://wpad.example/a.pac\n}\n',
  );
  t.equal(pac.pac?.url, 'http://wpad.example/a.pac');
  t.same(scutilProxy('<dictionary> {\n}\n').http, undefined);
  t.throws(() => scutilProxy('No such thing'), { code: 'ERR_PROXY_SYSTEM' });
  t.end();
});

t.test('what PAC files answer', (t) => {
  const routes = parsePacResult('PROXY a.example:3128; HTTPS b:443 ;SOCKS5 c:1080; socks d:1; DIRECT; FOO x:1', {
    user: 'me',
    password: 'pw',
  });
  t.match(routes, [
    { kind: 'http', host: 'a.example', port: 3128, user: 'me' },
    { kind: 'https', host: 'b', port: 443 },
    { kind: 'socks5', host: 'c' },
    { kind: 'socks5', host: 'd', port: 1 },
    { kind: 'direct' },
  ]);
  for (const nothing of ['', 'null', 'PROXY', 'PROXY :80', 'constructor x:1', ';;;'])
    t.same(parsePacResult(nothing, { user: undefined, password: undefined }), [{ kind: 'direct' }], nothing);
  t.end();
});

t.test('first bytes: any bytes are read without harm, and a name is found wherever the segments end', (t) => {
  const sni = Buffer.from('web.example');
  const entry = Buffer.concat([Buffer.from([0, 0, sni.length]), sni]);
  const list = Buffer.concat([Buffer.from([0, entry.length]), entry]);
  const extension = Buffer.concat([Buffer.from([0, 10, 0, 2, 0, 0, 0, 0, 0, list.length]), list]);
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([4, 1, 2, 3, 4, 0, 2, 0x13, 1, 1, 0, 0, extension.length]),
    extension,
  ]);
  const hello = Buffer.concat([Buffer.from([1, 0, 0, body.length]), body]);
  const record = (part: Buffer): Buffer => Buffer.concat([Buffer.from([22, 3, 1, 0, part.length]), part]);
  const forms = [
    record(hello),
    Buffer.concat([record(hello.subarray(0, 3)), record(hello.subarray(3, 60)), record(hello.subarray(60))]),
  ];
  for (const bytes of forms) {
    for (let n = 0; n < bytes.length; n++) t.equal(readFirstBytes(bytes, 0, n, false).kind, 'more', `${n} bytes`);
    t.same(readFirstBytes(bytes, 0, bytes.length, false), { kind: 'tls', name: 'web.example' });
  }
  const request = Buffer.from('....GET http://a/ HTTP/1.1\r\nX: 1\r\nhOst:  Web.Example:8080 \r\n\r\n');
  t.same(readFirstBytes(request, 4, request.length - 4, false), {
    kind: 'http',
    host: 'web.example',
    path: 'http://a/',
  });
  t.equal(readFirstBytes(Buffer.from('GET / HT'), 0, 8, false).kind, 'more');
  t.equal(readFirstBytes(Buffer.from('GET / HT'), 0, 8, true).kind, 'other');
  t.equal(readFirstBytes(Buffer.from('SSH-2.0-x\r\n'), 0, 11, false).kind, 'other');
  t.equal(readFirstBytes(Buffer.from('PRI * HTTP/2.0\r\n\r\n'), 0, 18, false).kind, 'other');
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(forms[0]!.length), fc.boolean(), (noise, cut, tls) => {
      const start = tls ? forms[0]!.subarray(0, cut) : Buffer.from([22, 3, 1]);
      const bytes = Buffer.concat([start, noise]);
      const found = readFirstBytes(bytes, 0, bytes.length, true);
      if (found.kind === 'more') throw new Error('nothing more will come');
    }),
  );
  t.end();
});

t.test('answers of proxies, byte by byte, and rubbish of every kind', (t) => {
  const target = { host: 'web.example', port: 443 };
  const upstream = parseUpstream('http://me:pw@proxy:1');
  const answer = Buffer.from('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nX: y\r\n\r\nrest');
  const connect = handshakeFor(upstream, target, []);
  t.match(
    connect.hello.toString(),
    /^CONNECT web\.example:443 HTTP\/1\.1\r\nHost: web\.example:443\r\nProxy-Authorization: Basic bWU6cHc=\r\n\r\n$/,
  );
  const end = answer.indexOf('rest');
  for (let i = 0; i < end - 1; i++) t.equal(connect.onBytes(answer.subarray(i, i + 1)).kind, 'more');
  const done = connect.onBytes(answer.subarray(end - 1));
  t.equal(done.kind === 'done' ? done.rest.toString() : '', 'rest');
  const socks = handshakeFor(parseUpstream('socks5://proxy'), { host: '2001:db8::1', port: 258 }, []);
  const asked = socks.onBytes(Buffer.from([5, 0]));
  t.equal(asked.kind === 'more' ? asked.send?.toString('hex') : '', '0501000420010db80000000000000000000000010102');
  const bound = Buffer.from([5, 0, 0, 3, 2, 97, 98, 0, 1, 33]);
  for (const byte of bound.subarray(0, -2)) t.equal(socks.onBytes(Buffer.from([byte])).kind, 'more');
  t.match(
    socks.onBytes(bound.subarray(-2)),
    { kind: 'done', rest: Buffer.from([33]) },
    'a bound address of any length',
  );
  fc.assert(
    fc.property(
      fc.constantFrom('http://p:1', 'socks5://u:p@p:1'),
      fc.array(fc.uint8Array({ minLength: 1 })),
      (text, pieces) => {
        const shake = handshakeFor(parseUpstream(text), target, []);
        for (const piece of pieces) if (shake.onBytes(Buffer.from(piece)).kind !== 'more') break;
      },
    ),
  );
  let endless = handshakeFor(upstream, target, []).onBytes(Buffer.from(`HTTP/1.1 200 OK\r\nX: ${'y'.repeat(20_000)}`));
  t.match(endless, { kind: 'refused', refusal: { status: 502 } }, 'a head without end');
  endless = handshakeFor(upstream, target, []).onBytes(Buffer.from('HTTP/1.1 503 Busy\r\n\r\n'));
  t.match(endless, { kind: 'refused', refusal: { status: 502, proxyStatus: 503, cause: 'destination' } });
  t.end();
});

t.test('header fields: what is of the connection stays behind', (t) => {
  const raw = [
    'Host',
    'a',
    'Connection',
    'close, X-A, Content-Length',
    'X-a',
    '1',
    'Content-Length',
    '3',
    'Keep-Alive',
    't',
    'X-B',
    '2',
    'X-B',
    '3',
  ];
  t.same(endToEnd(raw), ['Host', 'a', 'Content-Length', '3', 'X-B', '2', 'X-B', '3']);
  const passed = (via: string): boolean => hasPassed({ rawHeaders: ['Via', via] } as never, 'isthmus-1');
  t.ok(passed('1.0 a, 1.1 isthmus-1 (comment)'));
  t.notOk(passed('1.1 isthmus-12'));
  t.end();
});
