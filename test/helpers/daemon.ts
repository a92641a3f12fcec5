// The daemon in end-to-end tests: started as an ordinary user, with helpers to see that it came back to what it was.

import type { Test } from 'tap';
import { type DaemonOptions, DaemonProcess, type Metrics } from '../../scripts/daemon/daemon-process.ts';

/** Largest resident memory that the daemon may ever have in these tests. */
export const RSS_LIMIT_BYTES: number = 200 * 1024 * 1024;

/** Starts a daemon that ends with the test, however that ends. */
export async function startDaemon(test: Test, options: DaemonOptions = {}): Promise<DaemonProcess> {
  const daemon = await DaemonProcess.start(options);
  test.teardown(async () => {
    await daemon.stop();
    daemon.clean();
  });
  return daemon;
}

/** What has to come back to its value once all flows are over. */
export interface Level {
  readonly tcpFlows: number;
  readonly hostSockets: number;
  readonly opening: number;
  readonly udpFlows: number;
  readonly timers: number;
  readonly slabBytes: number;
  readonly descriptors: number;
}

function gauge(metrics: Metrics, name: string): number {
  const value = metrics.sum(name);
  if (value === undefined) throw new Error(`there is no metric ${name}`);
  return value;
}

/** The daemon's level now; flows in TIME-WAIT are not flows any more and count apart. */
export async function levelOf(daemon: DaemonProcess): Promise<Level> {
  const metrics = await daemon.metrics();
  return {
    tcpFlows: gauge(metrics, 'isthmus_tcp_flows'),
    hostSockets: gauge(metrics, 'isthmus_tcp_host_sockets'),
    opening: gauge(metrics, 'isthmus_tcp_flows_opening'),
    udpFlows: gauge(metrics, 'isthmus_udp_flows'),
    timers: gauge(metrics, 'isthmus_timers'),
    slabBytes: gauge(metrics, 'isthmus_slab_used_bytes'),
    descriptors: daemon.fdCount(),
  };
}

/** Waits until `reached` holds of the metrics. @returns them, or throws with the last values of `names` when time is over. */
export async function untilMetrics(
  daemon: DaemonProcess,
  names: readonly string[],
  reached: (value: (name: string) => number) => boolean,
  limitMs = 10_000,
): Promise<Metrics> {
  const end = performance.now() + limitMs;
  for (;;) {
    const metrics = await daemon.metrics();
    if (reached((name) => metrics.sum(name) ?? Number.NaN)) return metrics;
    if (performance.now() > end) {
      throw new Error(`after ${limitMs} ms: ${names.map((name) => `${name}=${metrics.sum(name)}`).join(' ')}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until the daemon's level is `start` again. @returns the last level seen. */
export async function settledLevel(daemon: DaemonProcess, start: Level, limitMs = 15_000): Promise<Level> {
  const end = performance.now() + limitMs;
  for (;;) {
    const level = await levelOf(daemon);
    const same = (Object.keys(start) as (keyof Level)[]).every((key) => level[key] <= start[key]);
    if (same || performance.now() > end) return level;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
