// The process has no file descriptor left: row TCP-RES-01, end to end with an embedded guest. The limit is lowered with prlimit.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import t from 'tap';
import { echo } from '../helpers/host-servers.ts';
import { codeOf, HOST, Rig } from './rig.ts';

/** Sets the soft limit of this process. @returns why it cannot be done; '' when it was. */
function setLimit(files: number): string {
  const { error, status, stderr } = spawnSync('prlimit', [`--pid=${process.pid}`, `--nofile=${files}:`], {
    encoding: 'utf8',
  });
  return error ? error.message : status === 0 ? '' : stderr;
}

/** Opens files until there is no descriptor left. */
function takeAll(): number[] {
  const taken: number[] = [];
  for (;;) {
    try {
      taken.push(openSync('/dev/null', 'r'));
    } catch {
      return taken;
    }
  }
}

const { stdout } = spawnSync('prlimit', ['--nofile', '--output=SOFT', '--noheadings'], { encoding: 'utf8' });
const limit = Number(stdout);
const skip = limit > 0 ? setLimit(limit) : 'prlimit is not there';

t.test('TCP-RES-01 no descriptor left: new flows are refused, old ones live, and it passes', { skip }, async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const server = await echo();
  t.teardown(() => server.close());
  const old = await guest.connect(HOST, server.port);
  const said = async (text: string): Promise<string> => {
    old.write(text);
    const [chunk] = (await once(old, 'data')) as [Buffer];
    return chunk.toString();
  };
  t.equal(await said('before'), 'before');

  t.equal(setLimit(256), '');
  t.teardown(() => setLimit(limit));
  const taken = takeAll();
  t.ok(taken.length > 0, `${taken.length} descriptors taken`);
  try {
    for (let i = 0; i < 20; i++) t.equal(await codeOf(guest.connect(HOST, server.port)), 'ECONNREFUSED');
    t.equal(await said('meanwhile'), 'meanwhile');
  } finally {
    for (const fd of taken) closeSync(fd);
  }
  t.equal(rig.holdings().opening, 0);

  const next = await guest.connect(HOST, server.port);
  next.end('after');
  const [chunk] = (await once(next, 'data')) as [Buffer];
  t.equal(chunk.toString(), 'after');
  old.end();
  await Promise.all([once(old, 'close'), once(next, 'close')]);
});
