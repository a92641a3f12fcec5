// How the layers below show their integers to the scraper: plain functions, called when somebody asks and not before.
// Nothing here counts, and no metrics library is known here.

/** One value of a metric with labels. Labels come from closed sets (protocol, reason), never addresses or names of a guest. */
export interface StatsSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** One metric: its description, and how to read it now. */
export interface StatsMetric {
  /** `isthmus_<area>_<what>_<unit>`; a counter's ends in `_total`. */
  readonly name: string;
  /** One sentence for the scraper. */
  readonly help: string;
  /** A counter only grows while the process lives; a gauge is the value of this moment. */
  readonly type: 'counter' | 'gauge';
  /** Label names; every sample of `read` has exactly these. Absent or empty: `read` gives a number. */
  readonly labels?: readonly string[];
  read(): number | readonly StatsSample[];
}

/** All metrics of one part of the daemon. The list itself does not change while the daemon runs. */
export interface StatsSource {
  readonly metrics: readonly StatsMetric[];
}
