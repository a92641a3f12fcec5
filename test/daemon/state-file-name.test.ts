// Whose state a directory holds, as the log says it: silence where this command line has its own, or nobody has any.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ownFolder } from '../../scripts/daemon/ordinary-user.ts';
import { parseCommand } from '../../src/daemon/cli.ts';
import type { Config } from '../../src/daemon/config.ts';
import { loadConfig } from '../../src/daemon/config.ts';
import { foreignState, stateFileName } from '../../src/daemon/state-file-name.ts';
import { ControlRig } from '../control/rig.ts';

async function config(...args: string[]): Promise<Config> {
  const command = parseCommand(['run', ...args]);
  if (command.kind !== 'run') throw new Error('not run');
  return (await loadConfig({ flags: command.flags, env: {}, uid: 1 })).config;
}

const directory = (t: Test): string => t.testdir({});

t.test('state of another command line is pointed out while there is none of this', async (t) => {
  const dir = directory(t);
  const mine = await config('--vm', 'qemu:/run/a.sock', '--state-dir', dir);
  const other = await config('--vm', 'qemu:/run/b.sock', '--state-dir', dir);
  t.equal(foreignState(mine), undefined, 'an empty directory');
  writeFileSync(join(dir, 'notes.json'), '');
  writeFileSync(join(dir, 'state-xyz.json'), '');
  writeFileSync(join(dir, 'leases-0123456789ab.json.bad'), '');
  t.equal(foreignState(mine), undefined, 'files of no daemon, and what was put aside');
  for (const what of ['leases', 'state'] as const) {
    const name = stateFileName(what, other);
    writeFileSync(join(dir, name), '');
    t.ok(foreignState(mine)?.includes(`newest: ${name}`), name);
    t.equal(foreignState(other), undefined, 'the other has its own');
    rmSync(join(dir, name));
  }
  const journal = `${stateFileName('state', mine)}.journal`;
  writeFileSync(join(dir, stateFileName('state', other)), '');
  writeFileSync(join(dir, journal), '');
  t.equal(foreignState(mine), undefined, 'killed before the first whole file was written: the journal is its own');
  t.ok(foreignState(await config('--vm', 'qemu:/run/a.sock', '--network', '10.1.0.0/24', '--state-dir', dir)));
  t.equal(foreignState(await config('--vm', 'qemu:/run/a.sock', '--state-dir', 'none')), undefined);
  t.equal(foreignState(await config('--vm', 'qemu:/run/a.sock', '--state-dir', join(dir, 'not-there'))), undefined);
});

t.test('the daemon says so in one line at its start, and does not the second time', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-run-'));
  ownFolder(folder);
  mkdirSync(join(folder, 'state'));
  ownFolder(join(folder, 'state'));
  writeFileSync(join(folder, 'state', 'state-0123456789ab.json'), '{}');
  const lines = (log: string): string[] => log.split('\n').filter((line) => line.includes('"state.foreign"'));
  const first = await ControlRig.start(t, [], folder);
  const listen = { kind: 'tcp', address: '127.0.0.1', port: 0 };
  const made = await first.ask('POST', '/v1/forwards', { body: { listen, target: { kind: 'guest', port: 80 } } });
  t.equal(made.status, 201, made.text);
  await first.daemon.stop();
  t.equal(lines(first.daemon.log).length, 1, first.daemon.log);
  t.match(JSON.parse(lines(first.daemon.log)[0]!).msg, /holds nothing for these --vm .*state-0123456789ab\.json/);
  const second = await ControlRig.start(t, [], folder);
  await second.daemon.stop();
  t.equal(lines(second.daemon.log).length, 0);
});
