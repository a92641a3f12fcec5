// Recovery quality beside Linux: goodput through the same faulty link (1 % random loss each way, 20 ms round trip) of Linux to
// Linux, of our sender to Linux, of Linux to our receiver, and of our sender in the simulation.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { startDaemon } from '../helpers/daemon.ts';
import { serve, source } from '../helpers/host-servers.ts';
import { Namespace } from '../helpers/namespace.ts';
import { GATEWAY, GuestAgent, HOST_ALIAS } from '../helpers/namespace-guest.ts';
import { firstReason, needsCongestion, needsNamespace } from '../helpers/requirements.ts';
import { CLEAN } from '../sim/faulty-link.ts';
import { FaultyRelay, type RelaySide } from '../sim/faulty-relay.ts';
import { goodput } from '../sim/quality.ts';

t.setTimeout(180_000);

const LOSS = 0.01;
const RTT_MS = 20;
/** Flows of each kind, each over a link of its own: the mean over some 1,000 losses. */
const LINKS = 4;
const WARM_UP_MS = 2000;
const SPAN_MS = 15_000;
const PROFILE = { ...CLEAN, loss: LOSS, delayMs: RTT_MS / 2 };
/** Of both: what Linux uses where nobody asked for another. */
const CONGESTION = 'cubic';
/** Of what Linux reaches. */
const LEAST = 0.9;

const mbitPerS = (bytes: number): number => (bytes * 8) / SPAN_MS / 1000;
const mean = (values: readonly number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length;

/** A namespace on one side of a relay. */
async function station(test: Test, path: string, address: string): Promise<GuestAgent> {
  const namespace = Namespace.create(test);
  await namespace.plug({ socket: path, mtu: 1500 });
  namespace.address(`${address}/24`, GATEWAY);
  namespace.congestion(CONGESTION);
  return GuestAgent.start(namespace);
}

async function relay(test: Test, a: RelaySide, b: RelaySide, seed: number): Promise<void> {
  const made = await FaultyRelay.start(a, b, PROFILE, seed);
  test.teardown(() => made.close());
}

t.test(
  '1 % loss each way at 20 ms: goodput beside Linux',
  { skip: firstReason(needsNamespace(), needsCongestion(CONGESTION)) },
  async (test) => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-recovery-'));
    test.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const numbers = Array.from({ length: LINKS }, (_, i) => i);

    const linux: number[] = [];
    await test.test('Linux to Linux', async (sub) => {
      const pairs = await Promise.all(
        numbers.map(async (i) => {
          const [left, right] = [join(folder, `left${i}`), join(folder, `right${i}`)];
          await relay(sub, { path: left, listen: true }, { path: right, listen: true }, i);
          return Promise.all([station(sub, left, '192.168.65.2'), station(sub, right, '192.168.65.3')]);
        }),
      );
      const pulls = pairs.map(async ([reader, writer]) => {
        const port = await writer.call('serveEndless');
        return reader.call('pull', '192.168.65.3', port, WARM_UP_MS, SPAN_MS);
      });
      linux.push(...(await Promise.all(pulls)).map(mbitPerS));
      sub.ok(mean(linux) > 1, `${mean(linux).toFixed(2)} Mbit/s`);
    });

    await test.test('through the daemon, both ways', async (sub) => {
      const daemon = await startDaemon(sub, { args: ['--mtu', '1500', '--strict'] });
      const guests = await Promise.all(
        Array.from({ length: 2 * LINKS }, async (_, i) => {
          const path = join(folder, `vm${i}`);
          await relay(sub, { path, listen: true }, { path: daemon.vmSocket, listen: false }, i);
          return station(sub, path, `192.168.65.${10 + i}`);
        }),
      );
      const [readers, writers] = [guests.slice(0, LINKS), guests.slice(LINKS)];
      const from = await source(sub);
      const pulls = readers.map((guest) => guest.call('pull', HOST_ALIAS, from.port, WARM_UP_MS, SPAN_MS));

      const ups: Promise<number>[] = [];
      const into = await serve(
        (socket) => {
          socket.on('data', () => {});
          ups.push(
            (async (): Promise<number> => {
              await sleep(WARM_UP_MS);
              const before = socket.bytesRead;
              await sleep(SPAN_MS);
              return socket.bytesRead - before;
            })(),
          );
        },
        {},
        sub,
      );
      await Promise.all(writers.map((guest) => guest.call('push', HOST_ALIAS, into.port, WARM_UP_MS + SPAN_MS + 1000)));
      const down = (await Promise.all(pulls)).map(mbitPerS);
      const up = (await Promise.all(ups)).map(mbitPerS);

      const simulated = numbers.map((seed) =>
        goodput(
          {
            sender: 'host',
            receiver: 'stack',
            congestion: CONGESTION,
            sack: true,
            loss: LOSS,
            rttMs: RTT_MS,
            mbitPerS: 0,
            mtu: 1500,
          },
          seed,
          SPAN_MS,
        ),
      );
      const show = (values: readonly number[]): string =>
        `${mean(values).toFixed(2)} Mbit/s (${values.map((v) => v.toFixed(1)).join(', ')})`;
      sub.comment(`Linux to Linux       ${show(linux)}`);
      sub.comment(`ours to Linux        ${show(down)}`);
      sub.comment(`Linux to ours        ${show(up)}`);
      sub.comment(`ours to ours, simul. ${show(simulated)}`);
      for (const [name, values] of Object.entries({ 'ours to Linux': down, 'Linux to ours': up, simulated })) {
        sub.equal(values.length, LINKS, `${name}: all flows ran`);
        sub.ok(mean(values) >= LEAST * mean(linux), `${name}: ${(mean(values) / mean(linux)).toFixed(2)} of Linux`);
      }
    });
  },
);
