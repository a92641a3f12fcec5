// /metrics: the integers of every layer as Prometheus text, read when somebody asks. Loaded on demand, as prom-client takes 40 ms.
// It counts nothing itself; metric objects are never handed down.

import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { invariant } from '../base/invariant.ts';
import type { StatsMetric, StatsSource } from './stats-source.ts';

const NAME = /^isthmus(_[a-z0-9]+)+$/;

/** prom-client samples the delay of the event loop by a timer of its own, which would wake an idle daemon 100 times a second. */
const NO_SAMPLING_MS = 0x7fffffff;
/** What comes of those samples; `nodejs_eventloop_lag_seconds` is measured at the scrape, and stays. */
const SAMPLED = ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'].map((of) => `nodejs_eventloop_lag_${of}_seconds`);

/** A registry over all sources, with the process's own metrics. */
export function createMetrics(sources: readonly StatsSource[]): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: NO_SAMPLING_MS });
  for (const name of SAMPLED) registry.removeSingleMetric(name);
  for (const source of sources) for (const metric of source.metrics) register(registry, metric);
  return registry;
}

function register(registry: Registry, metric: StatsMetric): void {
  const { name, help, type, labels = [] } = metric;
  invariant(NAME.test(name), `metric name ${name}`);
  invariant(name.endsWith('_total') === (type === 'counter'), `metric ${name} is named like its type`);
  const options = { name, help, labelNames: [...labels], registers: [registry] };
  if (type === 'gauge') {
    new Gauge({
      ...options,
      collect() {
        const value = metric.read();
        if (typeof value === 'number') {
          this.set(value);
          return;
        }
        // Label sets that are gone must not linger with their last value.
        this.reset();
        for (const sample of value) this.set(sample.labels, sample.value);
      },
    });
    return;
  }
  new Counter({
    ...options,
    collect() {
      this.reset();
      const value = metric.read();
      if (typeof value === 'number') this.inc(value);
      else for (const sample of value) this.inc(sample.labels, sample.value);
    },
  });
}
