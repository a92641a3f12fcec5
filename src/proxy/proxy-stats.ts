// What is counted of proxies: plain numbers that the metrics read.

import { RefusalCause } from './refusal.ts';
import type { Route } from './upstream.ts';

export class ProxyStats {
  /** Flows of guests that were taken over for a proxy. */
  flows = 0;
  /** Connections of guests to the explicit proxy. */
  clients = 0;
  /** Requests of guests, over HTTP. */
  requests = 0;
  /** Times a PAC file was asked, */
  pacCalls = 0;
  /** and gave no answer: it is broken, or too slow. */
  pacFailed = 0;
  /** Guests turned away because too many connections were open. */
  limited = 0;
}

/** Connections by the way that they took. */
export class RouteCounts {
  readonly counts: Record<Route['kind'], number> = { http: 0, https: 0, socks5: 0, direct: 0 };

  add(route: Route): void {
    this.counts[route.kind]++;
  }
}

/** Refusals by cause. */
export class RefusalCounts {
  readonly counts: Record<RefusalCause, number>;

  constructor() {
    this.counts = Object.fromEntries(Object.values(RefusalCause).map((cause) => [cause, 0])) as Record<
      RefusalCause,
      number
    >;
  }

  add(cause: RefusalCause): void {
    this.counts[cause]++;
  }
}

/** All of it; it outlives the parts that count. */
export class ProxyCounts {
  readonly stats: ProxyStats = new ProxyStats();
  readonly routes: RouteCounts = new RouteCounts();
  readonly refusals: RefusalCounts = new RefusalCounts();
}
