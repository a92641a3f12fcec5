// Random programs of hosts and guests over faulty links, against the simple peer and against our own TCP: 300 seeds, every rule of
// world.ts at every turn. ISTHMUS_SEED=N runs that seed alone; a failure prints its seed and the smallest program that fails so.

import t from 'tap';
import { makeProgram } from './program.ts';
import { runSeed } from './run-seed.ts';
import { World } from './world.ts';

t.setTimeout(120_000);

const SEEDS = 300;
const IN_ONE_TEST = 25;
/** Failures that are made smaller; and after which there is nothing more to learn. */
const SHRUNK = 2;
const ENOUGH = 10;

const chosen = process.env.ISTHMUS_SEED;
if (chosen !== undefined) {
  t.test(`seed ${chosen}`, async (t) => {
    const report = runSeed(Number(chosen));
    if (report !== undefined) t.fail(report);
    t.pass('ran');
  });
} else {
  let failures = 0;
  for (let from = 1; from <= SEEDS; from += IN_ONE_TEST) {
    t.test(`random programs, seeds ${from} to ${from + IN_ONE_TEST - 1}`, async (t) => {
      for (let seed = from; seed < from + IN_ONE_TEST; seed++) {
        if (failures >= ENOUGH) {
          t.fail('not run, too many failures before');
          return;
        }
        const report = runSeed(seed, failures < SHRUNK);
        if (report !== undefined) failures++;
        t.ok(report === undefined, report ?? `seed ${seed}`);
      }
    });
  }

  t.test('a seed replays: the same frames, the same decisions of the links', async (t) => {
    for (const seed of [3, 40, 117]) {
      const runs = [1, 2].map(() => {
        const world = new World(makeProgram(seed), 1_000_000);
        world.run();
        return [world.trace, world.stations.map((s) => [s.toGuest.log, s.toHost.log])];
      });
      t.same(runs[0], runs[1], `seed ${seed}`);
    }
  });
}
