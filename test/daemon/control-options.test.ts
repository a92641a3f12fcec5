// The options of the control API and of other programs' protocols: what they take, and what they refuse.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { formatApi, formatGuestApi, parseApi, parseGuestApi } from '../../src/daemon/api-spec.ts';
import { parseCommand } from '../../src/daemon/cli.ts';
import { type Config, loadConfig } from '../../src/daemon/config.ts';
import { GrammarError } from '../../src/daemon/value-grammar.ts';

async function config(args: readonly string[], env: Record<string, string> = {}): Promise<Config> {
  const command = parseCommand(['run', '--vm', 'qemu:/tmp/vm.sock', ...args]);
  if (command.kind !== 'run') throw new Error('not a run command');
  return (await loadConfig({ flags: command.flags, env, uid: 1000 })).config;
}

t.test('--api', async (t) => {
  for (const text of ['gvproxy:/run/gv.sock', 'slirp4netns:api:odd.sock', 'vpnkit:./x'])
    t.equal(formatApi(parseApi(text)), text);
  t.strictSame(parseApi('slirp4netns:api:odd.sock'), { protocol: 'slirp4netns', path: 'api:odd.sock' });
  for (const wrong of ['gvproxy', 'gvproxy:', 'docker:/x', ':/x', ''])
    t.throws(() => parseApi(wrong), GrammarError, wrong);
  const both = await config(['--api', 'gvproxy:/run/gv.sock', '--api', 'vpnkit:/run/vp.sock']);
  t.equal(both.apis.length, 2);
  await t.rejects(config(['--api', 'gvproxy:/tmp/vm.sock']), { exitCode: 64, message: /socket of a VM link/ });
  await t.rejects(config(['--api', 'gvproxy:/a', '--api', 'vpnkit:/a']), { message: /path/ });
  await t.rejects(config(['--control', '/a', '--api', 'vpnkit:/a']), { message: /path of control too/ });
  await t.rejects(config(['--api', `gvproxy:/${'x'.repeat(200)}`]), { message: /201 bytes/ });
});

t.test('--guest-api', (t) => {
  for (const text of [
    'gvproxy',
    'gvproxy:token=0123456789abcdef',
    'gvproxy:allow=192.168.65.0/28',
    'gvproxy:token=0123456789abcdef;allow=10.0.0.0/8,192.168.65.3/32',
  ])
    t.equal(formatGuestApi(parseGuestApi(text)), text);
  t.equal(String(parseGuestApi('gvproxy:allow=192.168.65.3').allow[0]), '192.168.65.3/32');
  for (const wrong of [
    '',
    'vpnkit',
    'gvproxy:',
    'gvproxy:token=short',
    'gvproxy:token=has blanks in itself',
    'gvproxy:allow=x',
    'gvproxy:open',
  ])
    t.throws(() => parseGuestApi(wrong), GrammarError, wrong);
  t.end();
});

t.test('--control-tcp and its token', async (t) => {
  const folder = t.testdir();
  const file = join(folder, 'token');
  writeFileSync(file, ' 0123456789abcdef \r\nignored\n');
  const tcp = ['--control-tcp', '127.0.0.1:0'];
  t.equal((await config([...tcp, '--control-token-file', file])).controlTcp?.token, '0123456789abcdef');
  const env = { ISTHMUS_CONTROL_TOKEN: 'from-the-environment' };
  t.equal((await config(tcp, env)).controlTcp?.token, 'from-the-environment');
  t.equal(
    (await config([...tcp, '--control-token-file', file], env)).controlTcp?.token,
    '0123456789abcdef',
    'the file goes first',
  );
  t.equal((await config([], env)).controlTcp, undefined);
  await t.rejects(config(tcp), { exitCode: 64, message: /there is no token; expected --control-token-file/ });
  await t.rejects(config(tcp, { ISTHMUS_CONTROL_TOKEN: 'short' }), { message: /16 visible characters/ });
  await t.rejects(config(['--control-token-file', file]), { message: /there is no --control-tcp/ });
  await t.rejects(config([...tcp, '--control-token-file', join(folder, 'none')]), {
    exitCode: 66,
    message: /does not exist/,
  });
  writeFileSync(file, '\n0123456789abcdef\n');
  await t.rejects(config([...tcp, '--control-token-file', file]), { message: /first line/ });
  await t.rejects(config(['--control-tcp', '0.0.0.0:1'], env), { message: /loopback/ });
  const { warnings } = await loadConfig({ flags: new Map(), env, uid: 1000, vmOptional: true });
  t.strictSame(warnings, [], 'the variable is known');
});
