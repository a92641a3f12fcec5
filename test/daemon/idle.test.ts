// An idle daemon sleeps: with a VM that says nothing and a control socket that nobody asks, no timer of ours or of a library wakes it, but
// for a look at the clock twice a minute (host/sleep-watch).

import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import t from 'tap';
import { startDaemon } from '../helpers/daemon.ts';

/** Longer than every periodic timer that a library is known to set by itself (1 s, 5 s). */
const QUIET_MS = 6500;
/** More of them than a minute has of those looks. */
const TRIES = 6;

/** Times that the main thread has gone to sleep. */
function sleeps(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^voluntary_ctxt_switches:\s*(\d+)$/m.exec(status)?.[1]);
}

const skip = existsSync('/proc/self/status') ? false : 'needs /proc';

t.test('an idle daemon with a connected VM wakes for nothing', { skip, timeout: 90_000 }, async (t) => {
  // V8 looks for garbage to give back for a while after a start, and then stops; that is not ours.
  const daemon = await startDaemon(t, { nodeArgs: ['--no-memory-reducer'], args: ['--metrics', '127.0.0.1:0'] });
  const vm = connect(daemon.vmSocket);
  t.teardown(() => vm.destroy());
  const answered = new Promise((resolve) => vm.once('data', resolve));
  // It asks who has 192.168.65.1, so that it is a neighbour.
  const arp = 'ffffffffffff525400123456080600010800060400015254001234 56c0a84103000000000000c0a84101'.replace(' ', '');
  vm.write(Buffer.from(`0000002a${arp}`, 'hex'));
  await answered;
  t.match((await daemon.get('/metrics')).body, /^isthmus_vms 1$/m, 'all is loaded and the VM is there');

  const woken: number[] = [];
  for (let i = 0; i < TRIES && woken.at(-1) !== 0; i++) {
    const before = sleeps(daemon.pid);
    const cpu = daemon.cpuSeconds();
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    woken.push(sleeps(daemon.pid) - before);
    if (woken.at(-1) === 0) t.equal(daemon.cpuSeconds(), cpu, 'no CPU time');
  }
  t.equal(woken.at(-1), 0, `woken in ${QUIET_MS} ms, try by try: ${woken.join(', ')}`);
});
