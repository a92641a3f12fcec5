// Every set of TCP options that a Linux guest may have, at four MTUs: hashes right each way, nothing lost. In the suite each
// transfer is short; with ISTHMUS_SOAK=1 it is 10 GB, which wraps the sequence space twice.

import t from 'tap';
import { RSS_LIMIT_BYTES, startDaemon } from '../helpers/daemon.ts';
import { sink, source, sourceHash } from '../helpers/host-servers.ts';
import { HOST_ALIAS, NamespaceGuest } from '../helpers/namespace-guest.ts';
import { needsNamespace, soak } from '../helpers/requirements.ts';

const BYTES = soak ? 10_000_000_000 : 48_000_000;
const MTUS = [576, 1500, 9000, 65520];
const SWITCHES = ['tcp_sack', 'tcp_timestamps', 'tcp_window_scaling'] as const;

t.setTimeout(soak ? 4 * 3_600_000 : 180_000);

/** The counters of a guest that say that something went wrong. */
const TROUBLE = ['Tcp.InErrs', 'Tcp.InCsumErrors', 'TcpExt.TCPOFOQueue', 'TcpExt.TCPTimeouts'] as const;

for (const mtu of MTUS) {
  t.test(`MTU ${mtu}: each option on and off`, { skip: needsNamespace() }, async (test) => {
    const daemon = await startDaemon(test, { args: ['--mtu', String(mtu), '--strict'] });
    const guest = await NamespaceGuest.start(test, daemon, { mtu });
    const [from, to] = [await source(test), await sink(test)];
    const wanted = sourceHash(BYTES);
    for (let set = 0; set < 1 << SWITCHES.length; set++) {
      const on = SWITCHES.map((_, bit) => (set >> bit) & 1);
      for (const [bit, key] of SWITCHES.entries()) guest.namespace.sysctl(`net.ipv4.${key}`, String(on[bit]));
      const name = SWITCHES.map((key, bit) => `${key.slice(4)} ${on[bit] === 1 ? 'on' : 'off'}`).join(', ');
      const started = performance.now();
      const [down] = await guest.agent.call('download', HOST_ALIAS, from.port, BYTES, 1);
      test.equal(down?.sha256, wanted, `${name}: down`);
      const [up] = await guest.agent.call('upload', HOST_ALIAS, to.port, BYTES, 1);
      test.equal(up?.answer, up?.sent, `${name}: up`);
      const mbitPerS = (2 * BYTES * 8) / (performance.now() - started) / 1000;
      test.comment(`${name}: ${mbitPerS.toFixed(0)} Mbit/s`);
    }
    const counters = await guest.namespace.counters();
    for (const key of TROUBLE) test.equal(counters.get(key), 0, key);
    const metrics = await daemon.metrics();
    test.equal(metrics.sum('isthmus_tcp_fast_recoveries_total'), 0, 'no segment of ours was lost');
    test.equal(metrics.sum('isthmus_tcp_bugs_total'), 0, 'no contradiction in TCP');
    test.ok(daemon.peakRssBytes() < RSS_LIMIT_BYTES, `memory at most ${daemon.peakRssBytes() >> 20} MiB`);
  });
}
