// What --publish takes beside its own grammar: QEMU's hostfwd= and guestfwd=, passt's -t and -u, and what may stand behind a value.

import fc from 'fast-check';
import t from 'tap';
import { parseBindRule, parseIsolateRule, parseNamedDescriptor } from '../../src/daemon/bind-grammar.ts';
import { formatPublishItem, forwardOf, parsePublishItem } from '../../src/daemon/publish-item.ts';
import { GrammarError } from '../../src/daemon/value-grammar.ts';

/** Full forms of what a text gives. */
const full = (text: string): string[] => parsePublishItem(text).map(formatPublishItem);
const forwards = (text: string) => parsePublishItem(text).map(forwardOf);

t.test("QEMU's hostfwd: what its documentation shows", (t) => {
  t.same(full('hostfwd=tcp:127.0.0.1:6001-:6000'), ['tcp:127.0.0.1:6001::6000']);
  t.same(full('hostfwd=tcp::5555-:23'), ['tcp:0.0.0.0:5555::23']);
  t.same(full('hostfwd=::2222-:22'), ['tcp:0.0.0.0:2222::22'], 'no protocol is TCP');
  t.same(full('hostfwd=udp::5353-192.168.65.3:53'), ['udp:0.0.0.0:5353:192.168.65.3:53']);
  t.same(full('hostfwd=tcp::0-:22'), ['tcp:0.0.0.0:0::22'], 'the kernel chooses');
  t.same(full('hostfwd=tcp::0x16-:026'), ['tcp:0.0.0.0:22::22'], 'hexadecimal and octal');
  t.same(full('hostfwd=tcp:[::1]:8080-web:80'), ['tcp:[::1]:8080:web:80']);
  t.same(forwards('hostfwd=unix:/run/a-b.sock-:80'), [
    { listen: { kind: 'unix', path: '/run/a-b.sock' }, target: { kind: 'guest', port: 80 } },
  ]);
  t.same(forwards('hostfwd=unix:/run/x-192.168.65.9:80')[0]?.target, {
    kind: 'guest',
    guest: '192.168.65.9',
    port: 80,
  });
  t.end();
});

t.test('hostfwd beyond QEMU: inherited sockets, vsock', (t) => {
  t.same(forwards('hostfwd=fd:web-:80'), [
    { listen: { kind: 'fd', name: 'web', protocol: 'tcp' }, target: { kind: 'guest', port: 80 } },
  ]);
  t.same(forwards('hostfwd=fd:dns/udp-192.168.65.3:53')[0]?.listen, { kind: 'fd', name: 'dns', protocol: 'udp' });
  t.same(forwards('hostfwd=tcp:127.0.0.1:9000-vsock:/run/vm-1/v.sock:1024'), [
    {
      listen: { kind: 'tcp', address: '127.0.0.1', port: 9000 },
      target: { kind: 'vsock', path: '/run/vm-1/v.sock', port: 1024 },
    },
  ]);
  t.same(forwards('hostfwd=unix:/run/a.sock-vsock-hyperkit:/run/vm:62373')[0]?.target, {
    kind: 'vsock',
    path: '/run/vm',
    port: 62373,
    style: 'hyperkit',
  });
  t.end();
});

t.test("QEMU's guestfwd, and by vsock", (t) => {
  t.same(forwards('guestfwd=tcp:192.168.65.1:2375-unix:/run/docker.sock'), [
    {
      listen: { kind: 'guest', address: '192.168.65.1', port: 2375 },
      target: { kind: 'unix', path: '/run/docker.sock' },
    },
  ]);
  t.same(forwards('guestfwd=:192.168.65.200:80-tcp:127.0.0.1:8000'), [
    {
      listen: { kind: 'guest', address: '192.168.65.200', port: 80 },
      target: { kind: 'tcp', address: '127.0.0.1', port: 8000 },
    },
  ]);
  t.same(forwards('guestfwd=vsock:/run/v-1:52-unix:/run/agent-1.sock'), [
    { listen: { kind: 'vsock', path: '/run/v-1', port: 52 }, target: { kind: 'unix', path: '/run/agent-1.sock' } },
  ]);
  t.same(forwards('guestfwd=vsock-hyperkit:/run/vm:2376-tcp:[::1]:2376'), [
    {
      listen: { kind: 'vsock', path: '/run/vm', port: 2376, style: 'hyperkit' },
      target: { kind: 'tcp', address: '::1', port: 2376 },
    },
  ]);
  t.end();
});

t.test("passt's -t and -u: what its man page shows", (t) => {
  t.same(full('-t 22'), ['tcp:0.0.0.0:22::22']);
  t.same(full('-t 22:23'), ['tcp:0.0.0.0:22::23']);
  t.same(full('-u 22,25'), ['udp:0.0.0.0:22::22', 'udp:0.0.0.0:25::25']);
  t.equal(full('--tcp-ports=22-80').length, 59);
  t.same(full('tcp-ports=22-24:32-34'), ['tcp:0.0.0.0:22::32', 'tcp:0.0.0.0:23::33', 'tcp:0.0.0.0:24::34']);
  t.same(full('-t192.0.2.1/22'), ['tcp:192.0.2.1:22::22']);
  t.same(full('udp-ports=[::1]/53'), ['udp:[::1]:53::53']);
  t.same(full('-t 20-23,~21-22'), ['tcp:0.0.0.0:20::20', 'tcp:0.0.0.0:23::23']);
  t.same(full('-t 192.0.2.1/20-22,~21'), ['tcp:192.0.2.1:20::20', 'tcp:192.0.2.1:22::22']);
  t.same(full('tcp-ports=none'), []);
  t.equal(full('-t 2000-5000,~3000-3010').length, 3001 - 11);
  t.end();
});

t.test('who clients appear as, and IPv4 on [::], behind a value', (t) => {
  t.same(forwards('127.0.0.1:80:80?client=proxy-protocol-v2'), [
    {
      listen: { kind: 'tcp', address: '127.0.0.1', port: 80 },
      target: { kind: 'guest', port: 80 },
      client: 'proxy-protocol-v2',
    },
  ]);
  t.same(forwards('[::]:80:80?v6only=no&client=gateway'), [
    {
      listen: { kind: 'tcp', address: '::', port: 80, v6Only: false },
      target: { kind: 'guest', port: 80 },
      client: 'gateway',
    },
  ]);
  t.same(full('[::]:80:80?v6only=yes'), ['tcp:[::]:80::80']);
  t.equal(forwards('hostfwd=unix:/x-:80?client=proxy-protocol-v1')[0]?.client, 'proxy-protocol-v1');
  t.same(
    forwards('tcp-ports=1-2?client=gateway').map((f) => f.client),
    ['gateway', 'gateway'],
  );
  t.end();
});

t.test('guests by MAC and name', (t) => {
  t.same(full('8080:web-1:80'), ['tcp:0.0.0.0:8080:web-1:80']);
  t.same(full('8080:WEB:80'), ['tcp:0.0.0.0:8080:web:80']);
  t.same(full('udp:127.0.0.1:53:[52-54-00-12-34-AB]:53'), ['udp:127.0.0.1:53:[52:54:00:12:34:ab]:53']);
  t.same(forwards('8080:[52:54:00:12:34:ab]:80')[0]?.target, { kind: 'guest', guest: '52:54:00:12:34:ab', port: 80 });
  t.end();
});

t.test('each malformed value says which part is wrong', (t) => {
  const cases: [string, RegExp][] = [
    ['hostfwd=tcp::22', /has no "-GUESTADDR:GUESTPORT"/],
    ['hostfwd=tcp:22-:22', /"tcp:22" as its host side/],
    ['hostfwd=sctp::22-:22', /"sctp::22" as its host side/],
    ['hostfwd=tcp::x-:22', /"x" as its host port/],
    ['hostfwd=tcp::65536-:22', /"65536" as its host port/],
    ['hostfwd=tcp::22-:0', /"0" as its guest port/],
    ['hostfwd=tcp:name:22-:22', /is not an IP address/],
    ['hostfwd=unix:relative-:22', /"relative" as its path/],
    ['hostfwd=tcp::1-vsock:/run/v:x', /"x" as its vsock port/],
    ['guestfwd=tcp:192.168.65.1:80-cmd:nc -l', /runs a command/],
    ['guestfwd=tcp:192.168.65.1:80-chardev0', /"chardev0" as its target/],
    ['guestfwd=tcp:192.168.65.1:80-unix:/x,server=on', /"\/x,server=on" as its path/],
    ['guestfwd=udp:192.168.65.1:80-unix:/x', /as its guest-facing side/],
    ['guestfwd=tcp:192.168.65.1:0-unix:/x', /"0" as its port/],
    ['tcp-ports=all', /every port there is/],
    ['tcp-ports=~20-30', /every port there is/],
    ['-t auto', /every port there is/],
    ['-t %eth0/22', /interface "eth0"/],
    ['-t 192.0.2.1%eth0/22', /interface "eth0"/],
    ['-t 22,', /has "" in it/],
    ['-t 22,22', /names port 22 twice/],
    ['-t 22-80:32', /different length/],
    ['-t 80-22', /runs backwards/],
    ['-t 0', /has "0" in it/],
    ['-t 1-65536', /has "1-65536" in it/],
    ['-t 1-5000', /5000 ports/],
    ['8080:80?client=me', /"client=me" behind/],
    ['8080:80?', /"" behind/],
    ['8080:80?v6only=no', /v6only=no of an IPv4 address/],
    ['hostfwd=unix:/x-:80?v6only=no', /v6only of no port/],
    ['8080:localhost:80', /a name as its guest address|"localhost"/],
  ];
  for (const [text, words] of cases) {
    t.throws(() => parsePublishItem(text), { name: 'GrammarError', message: words }, JSON.stringify(text));
  }
  t.end();
});

t.test('what is formatted is read back the same, and no text throws anything else', (t) => {
  const texts = [
    'hostfwd=unix:/run/a.sock-:80',
    'hostfwd=fd:web-web:80',
    'hostfwd=fd:dns/udp-[52:54:00:12:34:ab]:53',
    'hostfwd=tcp:[::1]:9000-vsock:/run/v:1024',
    'hostfwd=unix:/a-vsock-hyperkit:/run/vm:5',
    'guestfwd=tcp:192.168.65.1:2375-unix:/run/docker.sock',
    'guestfwd=vsock:/run/v:52-tcp:[::1]:80',
    '[::]:80:80?v6only=no&client=gateway',
    'hostfwd=unix:/x-:80?client=proxy-protocol-v1',
  ];
  for (const text of texts) {
    const [item] = parsePublishItem(text);
    const formatted = formatPublishItem(item!);
    t.same(parsePublishItem(formatted), [item], formatted);
  }
  const words = fc.constantFrom(
    'hostfwd=',
    'guestfwd=',
    'tcp-ports=',
    '-t ',
    'tcp',
    'udp',
    'unix',
    'vsock',
    ':',
    '-',
    '~',
    ',',
    '/',
    '[',
    ']',
    '::',
    '80',
    '22',
    '127.0.0.1',
    '/run/x',
    '?client=',
    'gateway',
    'fd:',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(words, { maxLength: 12 }).map((w) => w.join('')),
      ),
      (text) => {
        try {
          for (const item of parsePublishItem(text)) t.same(parsePublishItem(formatPublishItem(item)), [item], text);
        } catch (error) {
          if (!(error instanceof GrammarError)) throw error;
        }
      },
    ),
    { numRuns: 3000 },
  );
  t.end();
});

t.test('--allow-bind, --listen-fd, --isolate', (t) => {
  t.match(parseBindRule('10.0.0.0/8'), { prefix: 8 });
  t.match(parseBindRule('[::1]'), { prefix: 128 });
  t.match(parseBindRule('127.0.0.1'), { prefix: 32 });
  t.match(parseNamedDescriptor('web-1.x_y=3'), { name: 'web-1.x_y', fd: 3 });
  t.same(parseIsolateRule('all'), { kind: 'all' });
  t.same(parseIsolateRule('52-54-00-12-34-AB'), { kind: 'mac', text: '52:54:00:12:34:ab' });
  t.same(parseIsolateRule('qemu:/run/vm.sock'), { kind: 'link', text: 'qemu:/run/vm.sock' });
  for (const [parse, texts] of [
    [parseBindRule, ['', 'x', '10.0.0.0/33', '::1/129', '1.2.3.4/x', '1.2.3.4/8/8', 'fe80::1%eth0']],
    [parseNamedDescriptor, ['', 'web', 'web=', 'web=x', 'web=2', '=3', 'a b=3']],
    [parseIsolateRule, ['', '52:54', 'everyone', 'web']],
  ] as const)
    for (const text of texts) t.throws(() => parse(text), { name: 'GrammarError' }, JSON.stringify(text));
  t.end();
});
