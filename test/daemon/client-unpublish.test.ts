// What unpublish finds, what it says of what it does not find, and what shells offer it.

import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { completionScript } from '../../src/daemon/completion.ts';
import { type ControlRig, freePort } from '../control/rig.ts';
import { needsProgram } from '../helpers/requirements.ts';
import { environment, keys, type Ran, run, start } from './command-rig.ts';

/** Free ports in a row. */
async function freeRow(count: number): Promise<number> {
  for (;;) {
    const first = await freePort();
    const servers = Array.from({ length: count }, () => createServer());
    const bound = await Promise.all(
      servers.map(async (server, i) => {
        server.listen(first + i, '127.0.0.1');
        return await once(server, 'listening').then(
          () => true,
          () => false,
        );
      }),
    );
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    if (bound.every((is) => is)) return first;
  }
}

t.test('what unpublish finds by a port, and what it says of what it does not', async (t) => {
  const { rig, isthmus } = await start(t);
  const first = await freeRow(3);
  t.equal((await isthmus('publish', `127.0.0.1:${first}-${first + 2}:80-82`)).code, 0);
  t.equal((await keys(rig)).length, 3, 'as many forwards as ports');
  t.equal((await isthmus('unpublish', String(first + 1))).code, 0);
  t.same(await keys(rig), [`tcp:127.0.0.1:${first}`, `tcp:127.0.0.1:${first + 2}`]);
  const row = await freeRow(3);
  const listen = { kind: 'tcp', address: '127.0.0.1', port: row, count: 3 };
  const range = await rig.ask('POST', '/v1/forwards', { body: { listen, target: { kind: 'guest', port: 80 } } });
  t.equal(range.status, 201, range.text);
  for (const port of [row, row + 1, row + 2]) {
    const ran = await isthmus('unpublish', String(port));
    t.match(ran, { code: 65, stderr: new RegExp(`one of 3 ports of a range.*tcp:127\\.0\\.0\\.1:${row}-${row + 2}`) });
  }
  t.equal((await keys(rig)).length, 3);
  t.equal((await isthmus('unpublish', `tcp:127.0.0.1:${row}-${row + 2}`)).code, 0, 'all of it by its key');

  const udp = await isthmus('publish', '--udp', '--json', '127.0.0.1:0:53');
  const port = JSON.parse(udp.stdout).forwards[0].bound[0].split(':')[1];
  t.match(await isthmus('unpublish', port), { code: 65, stderr: /is no TCP port, but one of UDP; add --udp\n$/ });
  t.match(await isthmus('unpublish', `${port}/tcp`), { code: 65, stderr: /write \/udp\n$/ });
  t.match(await isthmus('unpublish', '--udp', String(first)), { code: 65, stderr: /leave out --udp\n$/ });
  t.match(await isthmus('unpublish', '--udp', port), { code: 0, stderr: '' });
  t.equal((await isthmus('unpublish', `127.0.0.1:${first}`, `127.0.0.1:${first + 2}/tcp`)).code, 0);
  t.same(await keys(rig), []);
});

t.test('a forward of an inherited socket is found by its port', async (t) => {
  const held = createServer();
  held.listen(0, '127.0.0.1');
  await once(held, 'listening');
  const { port } = held.address() as AddressInfo;
  const datagrams = createSocket('udp4');
  datagrams.bind(0, '127.0.0.1');
  await once(datagrams, 'listening');
  const folder = mkdtempSync(join(tmpdir(), 'isth-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const control = join(folder, 'c.sock');
  const fdOf = (handle: unknown): number => (handle as { fd: number }).fd;
  const symbol = Object.getOwnPropertySymbols(datagrams).find((s) => String(s).includes('state symbol'))!;
  const udpHandle = (datagrams as unknown as Record<symbol, { handle: unknown }>)[symbol]!.handle;
  const daemon = spawn(
    process.execPath,
    [
      ...[daemonEntry(), 'run', '--vm', `qemu:${join(folder, 'v.sock')}`, '--state-dir', 'none', '--control', control],
      ...['--listen-fd', 'web=3', '--listen-fd', 'dns=4'],
      ...['--publish', 'hostfwd=fd:web-:80', '--publish', 'hostfwd=fd:dns/udp-:53'],
    ],
    {
      env: environment,
      stdio: ['ignore', 'pipe', 'ignore', fdOf((held as unknown as { _handle: unknown })._handle), fdOf(udpHandle)],
    },
  );
  const exited = once(daemon, 'exit');
  t.teardown(async () => {
    daemon.kill();
    await exited;
  });
  await once(daemon.stdout!, 'data');
  const udpPort = datagrams.address().port;
  held.close();
  datagrams.close();
  const isthmus = (...words: string[]): Promise<Ran> =>
    run(process.execPath, [daemonEntry(), ...words], { ISTHMUS_CONTROL: control });
  t.match(await isthmus('unpublish', String(port)), { code: 0, stderr: '' });
  t.match(await isthmus('unpublish', String(udpPort)), { code: 65, stderr: /add --udp/ });
  t.match(await isthmus('unpublish', '--udp', `127.0.0.1:${udpPort}`), { code: 0, stderr: '' });
  t.equal((await isthmus('ports', '--quiet')).stdout, '');
});

/** A daemon with forwards, and an `isthmus` on the path of a shell that asks it. */
async function completed(
  t: Test,
): Promise<{ rig: ControlRig; env: Record<string, string>; folder: string; port: string }> {
  const { rig, isthmus } = await start(t);
  const made = await isthmus('publish', '--json', `127.0.0.1:${await freePort()}:80`);
  t.equal((await isthmus('publish', '--key', 'web', '127.0.0.1:0:80')).code, 0);
  const hostile = '$(touch pwned) `touch pwned` "\'';
  t.equal((await isthmus('publish', '--key', `evil ${hostile}`, '127.0.0.1:0:80')).code, 0);
  const folder = t.testdir({ isthmus: `#!/bin/sh\nexec '${process.execPath}' '${daemonEntry()}' "$@"\n` });
  chmodSync(join(folder, 'isthmus'), 0o755);
  const env = { PATH: `${folder}:${process.env.PATH}`, ISTHMUS_CONTROL: rig.socket };
  return { rig, env, folder, port: JSON.parse(made.stdout).forwards[0].bound[0].split(':')[1] };
}

t.test('bash completes what unpublish takes: keys and ports of the daemon, which it does not expand', async (t) => {
  const { rig, env, folder, port } = await completed(t);
  const script = join(folder, 'c.bash');
  writeFileSync(script, completionScript('bash'));
  /** As bash calls it: the line, and its words broken at spaces and colons. */
  const complete = async (line: string, vars = env, breaks = ' :='): Promise<string[]> => {
    const words = line.split(breaks.includes(':') ? /\s+|(:)/ : /\s+/).filter((word) => word !== undefined);
    const quoted = words.map((word) => `'${word}'`).join(' ');
    const program = `cd ${folder}; source ${script}; COMP_WORDBREAKS='${breaks}'; COMP_LINE='${line}'; COMP_POINT=\${#COMP_LINE}; COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _isthmus; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { code, stdout, stderr } = await run('bash', ['-c', program], vars);
    t.equal(code, 0, stderr);
    return stdout.split('\n').filter((text) => text !== '');
  };
  const all = await complete('isthmus unpublish ');
  t.ok(all.includes('web') && all.includes(port) && all.includes(`tcp:127.0.0.1:${port}`), all.join(' '));
  t.same(await complete(`isthmus unpublish ${port.slice(0, -1)}`), [port]);
  t.same(await complete('isthmus unpublish web tc'), [`tcp:127.0.0.1:${port}`]);
  t.same(await complete('isthmus unpublish tcp:127.0.0.1:'), [port], 'what readline has already is not given again');
  t.same(
    await complete('isthmus unpublish tcp:127', env, ' ='),
    [`tcp:127.0.0.1:${port}`],
    'unless it breaks no words',
  );
  t.same(await complete('isthmus unpublish --cl'), ['--close']);
  const [evil] = await complete('isthmus unpublish ev');
  const back = await run('bash', ['-c', `printf %s ${evil}`], env);
  t.equal(back.stdout, 'evil $(touch pwned) `touch pwned` "\'', 'quoted so that it is itself');
  const { ISTHMUS_CONTROL: control, ...without } = env;
  t.same(
    await complete(`isthmus unpublish --control ${control} we`, without),
    ['web'],
    'of the daemon that the line names',
  );
  await rig.daemon.stop();
  t.same(await complete('isthmus unpublish '), [], 'no daemon: nothing, and no noise');
  t.equal((await run('ls', [folder], {})).stdout.includes('pwned'), false);
});

t.test('zsh and fish: the same', { skip: needsProgram('zsh', 'fish') }, async (t) => {
  const { env, folder, port } = await completed(t);
  writeFileSync(join(folder, 'c.fish'), completionScript('fish'));
  const fish = async (line: string): Promise<string[]> => {
    const { stdout } = await run('fish', ['-c', `source ${folder}/c.fish; complete -C '${line}'`], {
      ...env,
      HOME: folder,
    });
    return stdout.split('\n').map((text) => text.split('\t')[0]!);
  };
  t.ok((await fish('isthmus unpublish ')).includes('web'));
  t.ok((await fish('isthmus unpublish tcp')).includes(`tcp:127.0.0.1:${port}`));
  t.ok((await fish('isthmus publish --cl')).includes('--client'));

  writeFileSync(join(folder, '_isthmus'), completionScript('zsh'));
  // compadd is what a completion function ends in: here it prints.
  const program = `autoload -Uz compinit; compinit -u -d ${folder}/dump; source ${folder}/_isthmus; compadd() { shift; print -l -- \${(P)1} }; words=(isthmus unpublish ''); CURRENT=3; _isthmus_forwards`;
  const { stdout, stderr } = await run('zsh', ['-f', '-c', program], { ...env, HOME: folder });
  const offered = stdout.split('\n');
  t.ok(
    offered.includes('web') && offered.includes(port) && offered.includes(`tcp:127.0.0.1:${port}`),
    `${stdout}${stderr}`,
  );
});
