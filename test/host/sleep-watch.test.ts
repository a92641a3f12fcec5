// Sleep of the host, seen by its clocks; the clocks are hands of the test.

import t from 'tap';
import { LOOK_MS, SLEEP_LEAST_MS, SleepWatch } from '../../src/host/sleep-watch.ts';

function rig() {
  const hands = { now: 1000, wall: 1_700_000_000_000, woken: [] as number[] };
  const watch = new SleepWatch(
    () => hands.wall,
    hands.now,
    (ms) => hands.woken.push(ms),
  );
  return {
    hands,
    watch,
    pass: (ms: number) => {
      hands.now += ms;
      hands.wall += ms;
    },
    /** Linux: the monotonic clock stands still. */
    sleep: (ms: number) => {
      hands.wall += ms;
    },
  };
}

t.test('Linux: the wall clock goes on while the other stands still; the next packet notices, once', (t) => {
  const { hands, watch, pass, sleep } = rig();
  pass(20_000);
  watch.look(hands.now);
  pass(300);
  sleep(3_600_000);
  watch.look(hands.now);
  t.same(hands.woken, [3_600_000]);
  pass(300);
  watch.look(hands.now);
  watch.poll(hands.now);
  t.same(hands.woken, [3_600_000]);
  t.end();
});

t.test('with no packet at all the timer notices, which an idle daemon wakes for twice a minute', (t) => {
  const { hands, watch, pass, sleep } = rig();
  t.equal(watch.nextDeadline(), hands.now + LOOK_MS);
  sleep(60_000);
  pass(LOOK_MS - 1);
  watch.poll(hands.now);
  t.same(hands.woken, [], 'not due yet');
  pass(1);
  watch.poll(hands.now);
  t.same(hands.woken, [60_000]);
  t.equal(watch.nextDeadline(), hands.now + LOOK_MS);
  t.end();
});

t.test('macOS: both clocks go on, but the look comes late', (t) => {
  const { hands, watch, pass } = rig();
  pass(LOOK_MS + 600_000);
  watch.look(hands.now);
  t.same(hands.woken, [LOOK_MS + 600_000]);
  pass(LOOK_MS + SLEEP_LEAST_MS - 1);
  watch.poll(hands.now);
  t.equal(hands.woken.length, 1, 'a timer that is late by a busy machine is no sleep');
  t.end();
});

t.test('short naps, slewing and a clock that is set back are none', (t) => {
  const { hands, watch, pass, sleep } = rig();
  sleep(SLEEP_LEAST_MS - 1);
  pass(1000);
  watch.look(hands.now);
  for (let i = 0; i < 10_000; i++) {
    pass(1000);
    sleep(1);
    watch.look(hands.now);
  }
  t.same(hands.woken, [], 'ten seconds in ten thousand');
  hands.wall -= 3_600_000;
  pass(1000);
  watch.look(hands.now);
  t.same(hands.woken, []);
  pass(1000);
  sleep(SLEEP_LEAST_MS);
  watch.look(hands.now);
  t.same(hands.woken, [SLEEP_LEAST_MS], 'counted from where it was set');
  t.end();
});

t.test('looks that follow each other closely do not read the wall clock', (t) => {
  let reads = 0;
  const watch = new SleepWatch(
    () => {
      reads++;
      return 0;
    },
    0,
    () => t.fail('no sleep'),
  );
  for (let now = 0; now < 1000; now++) watch.look(now);
  t.ok(reads <= 5, `${reads} reads in a second of packets`);
  t.end();
});
