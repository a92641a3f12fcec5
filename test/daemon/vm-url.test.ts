import t from 'tap';
import { GrammarError } from '../../src/daemon/value-grammar.ts';
import { parseVmUrl } from '../../src/daemon/vm-url.ts';
import { SOCKET_PATH_MAX_BYTES } from '../../src/host/socket-file.ts';

t.test('paths, descriptors and stdio of both framings', (t) => {
  for (const framing of ['qemu', 'vpnkit'] as const) {
    const transport = (rest: string) => {
      const parsed = parseVmUrl(`${framing}:${rest}`);
      t.equal(parsed.framing, framing);
      t.equal(parsed.url, `${framing}:${rest}`);
      return parsed.transport;
    };
    t.strictSame(transport('/run/vm.sock'), { kind: 'listen', path: '/run/vm.sock' });
    t.strictSame(transport('///run/vm.sock'), { kind: 'listen', path: '/run/vm.sock' }, 'the URL form of a path');
    t.strictSame(transport('vm.sock'), { kind: 'listen', path: 'vm.sock' });
    t.strictSame(transport('./a:b'), { kind: 'listen', path: './a:b' });
    t.strictSame(transport('./fd:3'), { kind: 'listen', path: './fd:3' });
    t.strictSame(transport('fd:3'), { kind: 'fd', fd: 3 });
    t.strictSame(transport('stdio'), { kind: 'stdio' });
    t.strictSame(transport('stdio:'), { kind: 'stdio' });
  }
  t.end();
});

t.test('each mistake has its own words', (t) => {
  const cases: [string, RegExp][] = [
    ['', /does not name a framing/],
    ['/run/vm.sock', /does not name a framing/],
    ['./qemu:x', /does not name a framing/],
    ['qmeu:/run/vm.sock', /unknown framing "qmeu" \(did you mean qemu\?\)/],
    ['bess:/run/vm.sock', /unknown framing "bess"$/],
    ['qemu:', /has no path/],
    ['qemu://run/vm.sock', /"\/\/" before its path/],
    ['qemu:/run/', /names a directory/],
    ['qemu:fd', /descriptor by its number/],
    ['qemu:fd:', /descriptor by its number/],
    ['qemu:fd:x', /descriptor by its number/],
    ['qemu:fd:-3', /descriptor by its number/],
    ['qemu:fd:1', /standard/],
    ['qemu:stdio:3', /after stdio/],
    ['qemu:/a\0b', /zero byte/],
    [`qemu:/${'x'.repeat(SOCKET_PATH_MAX_BYTES)}`, new RegExp(`path of ${SOCKET_PATH_MAX_BYTES + 1} bytes`)],
  ];
  for (const [text, words] of cases) {
    t.throws(() => parseVmUrl(text), { message: words }, JSON.stringify(text));
    t.throws(() => parseVmUrl(text), GrammarError);
  }
  t.equal(parseVmUrl(`qemu:/${'x'.repeat(SOCKET_PATH_MAX_BYTES - 1)}`).framing, 'qemu', 'the longest path');
  t.end();
});
