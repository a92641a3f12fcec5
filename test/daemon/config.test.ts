import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { parseCommand } from '../../src/daemon/cli.ts';
import { type LoadedConfig, loadConfig } from '../../src/daemon/config.ts';
import { configAsJson, configAsYaml } from '../../src/daemon/config-print.ts';
import { OperatorError } from '../../src/host/operator-error.ts';

interface Given {
  env?: Record<string, string>;
  file?: string;
  uid?: number;
}

/** Loads the configuration of `isthmus run ARGS`. */
function load(t: Test, args: string, given: Given = {}): Promise<LoadedConfig> {
  let argv = ['run', ...args.split(' ').filter((word) => word !== '')];
  if (given.file !== undefined) {
    const dir = mkdtempSync(join(tmpdir(), 'isthmus-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    writeFileSync(join(dir, 'f.yaml'), given.file);
    argv = [...argv, '--config', join(dir, 'f.yaml')];
  }
  const command = parseCommand(argv);
  if (command.kind !== 'run') throw new Error('not a run command');
  return loadConfig({ flags: command.flags, env: given.env ?? {}, uid: given.uid ?? 1000 });
}

async function refusal(t: Test, args: string, given: Given = {}): Promise<OperatorError> {
  try {
    await load(t, args, given);
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error(`${args} was not refused`);
}

t.test('defaults', async (t) => {
  const { config, warnings } = await load(t, '--vm qemu:/run/vm.sock --vm vpnkit:fd:3', { env: { HOME: '/home/u' } });
  t.strictSame(warnings, []);
  t.match(config.vm, [
    { url: 'qemu:/run/vm.sock', framing: 'qemu', transport: { kind: 'listen', path: '/run/vm.sock' }, mtu: 65520 },
    { url: 'vpnkit:fd:3', framing: 'vpnkit', transport: { kind: 'fd', fd: 3 }, mtu: 1500 },
  ]);
  t.equal(`${config.network}`, '192.168.65.0/24');
  t.equal(`${config.gateway}`, '192.168.65.1');
  t.equal(`${config.hostAlias}`, '192.168.65.254');
  t.strictSame(config.dns, []);
  t.equal(config.stateDir, '/home/u/.local/state/isthmus');
  t.equal(config.memoryBytes, 64 * 1048576);
  t.equal(config.control, undefined);
  t.equal(config.logLevel, 'info');
  t.equal(config.strict, false);
});

t.test('what is published, and where, in every grammar', async (t) => {
  const { config } = await load(
    t,
    '--vm qemu:/x --publish 8080:web:80 --publish hostfwd=tcp::2222-:22 --publish tcp-ports=7,~8 --publish hostfwd=fd:web-:80 ' +
      '--publish guestfwd=tcp:192.168.65.1:2375-unix:/run/docker.sock --listen-fd web=3 --allow-bind 10.0.0.0/8 --allow-bind ::1 ' +
      '--isolate qemu:/x --isolate 52-54-00-00-00-01',
  );
  t.same(
    config.publish.map((p) => `${p.hostPort} ${p.guestName ?? ''} ${p.guestPort}`),
    ['8080 web 80', '2222  22', '7  7'],
  );
  t.same(
    config.forwards.map((f) => [f.listen.kind, f.target.kind]),
    [
      ['fd', 'guest'],
      ['guest', 'unix'],
    ],
  );
  t.same(config.listenFds, [{ name: 'web', fd: 3 }]);
  t.same(
    config.allowBind.map((rule) => `${rule.address}/${rule.prefix}`),
    ['10.0.0.0/8', '::1/128'],
  );
  t.same(config.isolate, [
    { kind: 'link', text: 'qemu:/x' },
    { kind: 'mac', text: '52:54:00:00:00:01' },
  ]);
});

t.test('outbound addresses and ping', async (t) => {
  const { config } = await load(
    t,
    '--vm qemu:/x --outbound-address 127.0.0.1 --outbound-address 10.0.0.0/8=10.8.0.2 --ping auto-drop',
  );
  t.same(
    config.outbound.map(({ network, address }) => `${network} ${address}`),
    ['0.0.0.0/0 127.0.0.1', '10.0.0.0/8 10.8.0.2'],
  );
  t.equal(config.ping, 'auto-drop');
  const usual = (await load(t, '--vm qemu:/x')).config;
  t.same([usual.outbound, usual.ping], [[], 'auto']);
  const wrong = [
    [
      '--outbound-address 203.0.113.77',
      /outbound-address .*"203\.0\.113\.77" is not an address of this host; expected/,
    ],
    [
      '--outbound-address 10.0.0.0/8=10.8.0.2 --outbound-address 10.0.0.0/8=10.8.0.3',
      /10\.0\.0\.0\/8 has two addresses/,
    ],
    ['--outbound-address 10.0.0.1/8=10.8.0.2', /inside a network.*10\.0\.0\.0\/8=10\.8\.0\.2/],
    ['--outbound-address 10.0.0.0=10.8.0.2', /no IPv4 network before the "="/],
    ['--outbound-address fd00::1', /IPv6, which guests do not have/],
    ['--outbound-address tun0', /no IP address to send from/],
    ['--outbound-address 10.0.0.0/8=224.0.0.1', /not an address that a host can have/],
    ['--ping always', /"always" is unknown; expected one of auto, auto-drop, unreachable, drop/],
  ] as const;
  for (const [flags, message] of wrong)
    await t.rejects(load(t, `--vm qemu:/x ${flags}`), { message, exitCode: 64 }, flags);
});

t.test('the config is frozen through and through', async (t) => {
  const { config } = await load(t, '--vm qemu:/x --publish 8080:80 --lease 52:54:00:00:00:01=192.168.65.9');
  const walk = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null) return;
    t.ok(Object.isFrozen(value), path);
    for (const [key, part] of Object.entries(value)) walk(part, `${path}.${key}`);
  };
  walk(config, 'config');
});

t.test('flag before environment before file before default, and lists replace each other', async (t) => {
  const file = 'mtu: 1000\nlog-level: warn\nmax-flows: 100\ndns: [9.9.9.9]\nvm: qemu:/from-file\n';
  const env = {
    ISTHMUS_MTU: '2000',
    ISTHMUS_LOG_LEVEL: 'error',
    ISTHMUS_DNS: '1.1.1.1, 8.8.8.8:5353',
    ISTHMUS_PCAP: '',
  };
  const { config, entries } = await load(t, '--vm qemu:/x --mtu 3000', { env, file });
  t.equal(config.vm[0]!.mtu, 3000);
  t.equal(config.vm.length, 1);
  t.equal(config.logLevel, 'error');
  t.equal(config.maxFlows, 100);
  t.equal(config.udpMaxFlows, 4096);
  t.strictSame(
    config.dns.map(({ address, port }) => `${address} ${port}`),
    ['1.1.1.1 53', '8.8.8.8 5353'],
  );
  t.equal(config.pcap, undefined, 'an empty variable is not set');
  const source = (name: string) => entries.find((entry) => entry.name === name)?.source;
  t.match(source('mtu'), { kind: 'flag', label: '--mtu' });
  t.match(source('log-level'), { kind: 'env', label: 'ISTHMUS_LOG_LEVEL' });
  t.match(source('max-flows'), { kind: 'file', label: /f\.yaml:3$/ });
  t.match(source('udp-idle'), { kind: 'default' });
});

t.test('gateway and host alias follow the network, and none switches off', async (t) => {
  const { config } = await load(t, '--vm qemu:/x --network 10.1.2.8/29');
  t.equal(`${config.gateway}`, '10.1.2.9');
  t.equal(`${config.hostAlias}`, '10.1.2.14');
  const off = await load(t, '--vm qemu:/x --host-alias none --hosts none --state-dir none');
  t.equal(off.config.hostAlias, undefined);
  t.equal(off.config.hosts, undefined);
  t.equal(off.config.stateDir, undefined);
});

t.test('the state directory of systemd, of root and of XDG', async (t) => {
  const dir = async (env: Record<string, string>, uid: number) =>
    (await load(t, '--vm qemu:/x', { env, uid })).config.stateDir;
  t.equal(await dir({ STATE_DIRECTORY: '/var/lib/vm1:/other' }, 0), '/var/lib/vm1');
  t.equal(await dir({ HOME: '/root' }, 0), '/var/lib/isthmus');
  t.equal(await dir({ XDG_STATE_HOME: '/s', HOME: '/h' }, 1), '/s/isthmus');
  t.equal(await dir({ XDG_STATE_HOME: 'relative', HOME: '/h' }, 1), '/h/.local/state/isthmus');
  t.equal(await dir({}, 1), undefined);
});

t.test('the file: lists, single values, JSON, numbers as written, aliases', async (t) => {
  const yaml =
    'vm:\n  - qemu:/a\n  - vpnkit:/b\npublish: 8080:80\nudp-idle: 90\nstrict: true\ndns: &d [1.1.1.1]\nsearch: [corp.example]\n';
  const { config } = await load(t, '', { file: yaml });
  t.equal(config.vm.length, 2);
  t.equal(config.publish[0]!.hostPort, 8080);
  t.equal(config.udpIdleMs, 90_000);
  t.equal(config.strict, true);
  t.strictSame(config.search, ['corp.example']);
  const json = await load(t, '', { file: '{"vm": ["qemu:/a"], "mtu": 9000, "publish": [80]}' });
  t.equal(json.config.vm[0]!.mtu, 9000);
  t.equal(json.config.publish[0]!.guestPort, 80);
  t.equal((await load(t, '--vm qemu:/x', { file: '# nothing\n' })).config.vm.length, 1, 'an empty file');
});

t.test('each mistake names key, source, wrong and right, and has its exit code', async (t) => {
  const env = (name: string, value: string): Given => ({ env: { [name]: value } });
  const vm = '--vm qemu:/x';
  const cases: [string, Given, number, RegExp][] = [
    ['', {}, 64, /^vm: no VM link is given; expected .*--vm qemu:/],
    [`${vm} --mtu 5`, {}, 64, /^mtu \(--mtu\): "5" is too small; expected .* 576 to 65520$/],
    [vm, env('ISTHMUS_MTU', '70000'), 78, /^mtu \(ISTHMUS_MTU\): "70000" is too large; expected .* 576 to 65520$/],
    [vm, { file: '\n\nmtu: big\n' }, 78, /^mtu \(\/.*f\.yaml:3\): "big" is not a whole number; expected/],
    [`${vm} --mtu 1500 --mtu 9000`, {}, 64, /^mtu \(--mtu\): is given 2 times \("1500", "9000"\); expected one value$/],
    [`${vm} --log-level loud`, {}, 64, /"loud" is unknown; expected one of trace, debug/],
    [vm, env('ISTHMUS_STRICT', 'maybe'), 78, /^strict \(ISTHMUS_STRICT\): .*expected true or false/],
    [
      `${vm} --gateway 10.0.0.1`,
      {},
      64,
      /^gateway .*not inside the network; expected .*192\.168\.65\.1 to 192\.168\.65\.254/,
    ],
    [`${vm} --gateway 192.168.65.255`, {}, 64, /^gateway .*broadcast address/],
    [
      `${vm} --gateway 192.168.65.254 --host-alias 192.168.65.254`,
      {},
      64,
      /^host-alias \(--host-alias\): "192\.168\.65\.254" is the gateway's address; expected .*or none/,
    ],
    [`${vm} --host-alias 192.168.65.0`, {}, 64, /^host-alias .*not inside/],
    [`${vm} ${vm}`, {}, 64, /^vm .*are the same socket/],
    ['--vm qemu:/a/b --vm vpnkit:/a/./b', {}, 64, /^vm .*are the same socket/],
    ['--vm qemu:stdio --vm vpnkit:stdio', {}, 64, /^vm .*are the same socket/],
    ['--vm qemu:fd:3 --ready-fd 3', {}, 64, /^ready-fd .*descriptor of a VM link/],
    [`${vm} --control /x`, {}, 64, /^control .*socket of a VM link/],
    [`${vm} --control /${'c'.repeat(120)}`, {}, 64, /^control .*121 bytes; expected .*at most/],
    [`${vm} --control /a --pid-file /a`, {}, 64, /^pid-file .*path of control too/],
    [`${vm} --lease 52:54:00:00:00:01=10.0.0.9`, {}, 64, /^lease .*not inside the network/],
    [`${vm} --lease 52:54:00:00:00:01=192.168.65.1`, {}, 64, /^lease .*gateway's address/],
    [`${vm} --lease 52:54:00:00:00:01=192.168.65.254`, {}, 64, /^lease .*host alias/],
    [vm, env('ISTHMUS_LEASE', '52:54:00:00:00:01=192.168.65.9,52:54:00:00:00:01=192.168.65.8'), 78, /two addresses/],
    [vm, env('ISTHMUS_LEASE', '52:54:00:00:00:01=192.168.65.9,52:54:00:00:00:02=192.168.65.9'), 78, /given to two VMs/],
    [`${vm} --publish 8080:10.0.0.3:80`, {}, 64, /^publish .*guest outside the network/],
    [`${vm} --publish 8080:192.168.65.1:80`, {}, 64, /^publish .*own address/],
    [`${vm} --publish 8080:80 --publish 8080:81`, {}, 64, /^publish .*tcp 0\.0\.0\.0:8080 is published twice/],
    [`${vm} --listen-fd web=3 --listen-fd web=4`, {}, 64, /^listen-fd .*"web" is given twice/],
    [`${vm} --listen-fd a=3 --listen-fd b=3`, {}, 64, /^listen-fd .*"b=3" is the descriptor of listen-fd a/],
    ['--vm qemu:fd:3 --listen-fd web=3', {}, 64, /^listen-fd .*descriptor of a VM link/],
    [`${vm} --ready-fd 5 --listen-fd web=5`, {}, 64, /^listen-fd .*descriptor of ready-fd/],
    [`${vm} --publish hostfwd=fd:web-:80`, {}, 64, /^publish .*no socket "web"; expected --listen-fd web=FD/],
    [`${vm} --isolate qemu:/other`, {}, 64, /^isolate .*"qemu:\/other" is no VM link/],
    [`${vm} --isolate me`, {}, 64, /^isolate .*is no VM; expected a MAC address/],
    [vm, env('ISTHMUS_ALLOW_BIND', '127.0.0.1/33'), 78, /^allow-bind .*prefix length 33/],
    [`${vm} --hosts /nonexistent/hosts`, {}, 66, /^hosts \(--hosts\): \/nonexistent\/hosts does not exist/],
    [`${vm} --resolv-conf /nonexistent`, {}, 66, /^resolv-conf .*does not exist; expected a readable file/],
    [`${vm} --config /nonexistent.yaml`, {}, 66, /^config \(--config\): \/nonexistent\.yaml does not exist/],
    [vm, env('ISTHMUS_CONFIG', '/'), 66, /^config \(ISTHMUS_CONFIG\): \/ is a directory/],
    [vm, { file: 'mut: 1500\n' }, 78, /f\.yaml:1: "mut" is not an option; did you mean mtu\?$/],
    [vm, { file: 'zebra: 1\n' }, 78, /"zebra" is not an option; expected a flag/],
    [vm, { file: '__proto__: 1\n' }, 78, /"__proto__" is not an option/],
    [vm, { file: 'config: other.yaml\n' }, 78, /a file cannot name another/],
    [vm, { file: 'mtu: [1500]\n' }, 78, /^mtu .*is a list; expected one value/],
    [vm, { file: 'mtu:\n' }, 78, /^mtu .*has no value/],
    [vm, { file: 'publish: [{a: 1}]\n' }, 78, /^publish .*is a mapping/],
    [vm, { file: 'mtu: 0x5dc\n' }, 78, /^mtu .*"0x5dc" is not a whole number/],
    [vm, { file: 'mtu: 1\nmtu: 2\n' }, 78, /f\.yaml:\d: is not valid YAML: /],
    [vm, { file: 'mtu: "unclosed\n' }, 78, /f\.yaml:\d: is not valid YAML: /],
    [vm, { file: '- a\n- b\n' }, 78, /f\.yaml:1: is not a mapping/],
  ];
  for (const [args, given, exitCode, words] of cases) {
    const error = await refusal(t, args, given);
    t.match(error.message, words, error.message);
    t.equal(error.exitCode, exitCode, error.message);
    t.notOk(error.message.includes('\n'), 'one line');
    t.match(error.code, /^ERR_[A-Z_]+$/);
  }
});

t.test('an unknown variable of ours is told, others are not looked at', async (t) => {
  const { warnings } = await load(t, '--vm qemu:/x', { env: { ISTHMUS_MUT: '1', OTHER: '2', ISTHMUS_EMPTY: '' } });
  t.strictSame(warnings, ['ISTHMUS_MUT is not a variable of isthmus; did you mean ISTHMUS_MTU?']);
});

t.test('--print-config is a file that gives the same configuration', async (t) => {
  const args =
    '--vm qemu:/a#b --vm vpnkit:stdio --publish 127.0.0.1::80 --publish udp:[::1]:53:192.168.65.3:53 --dns [::1]:5353 ' +
    '--lease 52:54:00:00:00:01=192.168.65.9 --lease-time 90m --search corp.example --memory 1g --strict --pcap /tmp/#x: --metrics [::1]:0';
  const first = await load(t, args);
  const again = await load(t, '', { file: configAsYaml(first.entries) });
  t.strictSame(again.config, first.config);
  t.match(configAsYaml(first.entries), /^mtu: |# mtu: not set \(65520 on qemu links, 1500 on vpnkit links\)/m);
  t.match(configAsYaml(first.entries), /^lease-time: 90m # --lease-time$/m);
  t.match(JSON.parse(configAsJson(first.entries)), {
    vm: { value: ['qemu:/a#b', 'vpnkit:stdio'], source: 'flag', from: '--vm' },
    mtu: { value: null, source: 'default' },
    memory: { value: '1024', source: 'flag' },
    gateway: { value: '192.168.65.1', source: 'default' },
  });
});

t.test('a file of options that is too large is refused', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, 'sub'));
  writeFileSync(join(dir, 'big'), '#'.repeat(1024 * 1024 + 1));
  const error = await refusal(t, `--vm qemu:/x --config ${join(dir, 'big')}`);
  t.match(error, { exitCode: 78, message: /is larger than/ });
});

t.test('proxies: every source, what is refused, and no password in any text', async (t) => {
  const vm = '--vm qemu:/a.sock';
  const none = (await load(t, vm)).config.proxy;
  t.match(none, { choice: { kind: 'none' }, exclude: [], ports: [80, 443], listen: 3128, explicit: false });
  const { config, entries } = await load(
    t,
    `${vm} --proxy http://me:s3cret@proxy:3128 --no-proxy a.example,10.0.0.0/8`,
    {
      env: { ISTHMUS_PROXY_PORTS: '443', ISTHMUS_PROXY_LISTEN: '8080' },
      file: 'proxy: none\n',
    },
  );
  t.match(config.proxy.choice, { kind: 'upstream', upstream: { kind: 'http', host: 'proxy', password: 's3cret' } });
  t.match(config.proxy, { exclude: ['a.example', '10.0.0.0/8'], ports: [443], listen: 8080, explicit: true });
  t.notMatch(configAsYaml(entries) + configAsJson(entries), /s3cret/, '--print-config and the control API');
  const json = join(t.testdir({ 'x.json': '{}' }), 'x.json');
  t.ok((await load(t, `${vm} --proxy-config ${json}`)).config.proxy.explicit, "VPNKit's proxy is there with any file");
  const mistakes: [string, string, RegExp][] = [
    ['--proxy ftp://me:s3cret@h', 'ERR_CONFIG_PROXY', /proxy \(--proxy\): .*scheme "ftp".*expected http:\/\//],
    ['--proxy http://me:s3cret@h:0', 'ERR_CONFIG_PROXY', /has port 0/],
    ['--proxy http://a:s3cret@h --proxy http://b:s3cret@h', 'ERR_CONFIG_PROXY', /is given 2 times/],
    ['--no-proxy 10.0.0.0/99', 'ERR_CONFIG_NO_PROXY', /no destination.*a network like/],
    ['--proxy-ports 80,x', 'ERR_CONFIG_PROXY_PORTS', /whole number/],
    ['--proxy-listen 53', 'ERR_CONFIG_PROXY_LISTEN', /DNS server/],
    ['--proxy-config /x.json --proxy http://h', 'ERR_CONFIG_PROXY_CONFIG', /one of the two/],
    ['--guest-api gvproxy --proxy-listen 80', 'ERR_CONFIG_PROXY_LISTEN', /port of --guest-api/],
  ];
  for (const [args, code, message] of mistakes) {
    const error = await refusal(t, `${vm} ${args}`);
    t.match(error, { code, exitCode: 64, message }, args);
    t.notMatch(error.message, /s3cret/, args);
  }
  const missing = await refusal(t, `${vm} --proxy-config /nowhere/x.json`);
  t.match(missing, { code: 'ERR_CONFIG_UNREADABLE', exitCode: 66, message: /does not exist/ });
});
