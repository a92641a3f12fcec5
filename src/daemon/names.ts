// What the daemon makes of names beyond DNS itself: which sources the DNS service gets, what happens when the host has slept, how a name is
// explained, and the search list. The parts are dns', forwarder's and host's; this puts them together.

import type { Clock, Millis } from '../base/clock.ts';
import type { DnsService, DnsServiceOptions } from '../forwarder/dns-service.ts';
import type { ScopedResolvers } from '../forwarder/dns-sources.ts';
import { Timesync, type TimesyncStats } from '../forwarder/timesync.ts';
import { SleepWatch } from '../host/sleep-watch.ts';
import type { Config } from './config.ts';
import { formatTimesync } from './dns-option.ts';
import type { Log } from './log.ts';
import { formatEndpoint } from './value-grammar.ts';

/** The resolvers of the host's own programs. Another file is the operator's own, and the whole truth. */
const HOST_RESOLV_CONF = '/etc/resolv.conf';
/** Where macOS keeps resolvers of single domains. */
const MACOS_FOLDER = '/etc/resolver';
/** Where systemd-resolved and NetworkManager write down the servers behind the one on this host that resolv.conf names. */
const BEHIND = ['/run/systemd/resolve/resolv.conf', '/run/NetworkManager/no-stub-resolv.conf'];

export interface NamesOptions {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Log;
  readonly dns: () => DnsService;
  /** Tells clients of the control API. */
  readonly publish: (type: 'host.wake', data: Readonly<Record<string, unknown>>) => void;
  readonly onSearch: () => void;
  readonly wall?: () => number;
  readonly platform?: NodeJS.Platform;
}

export class Names {
  /** For metrics. */
  readonly stats: { wakes: number } & TimesyncStats = { wakes: 0, timesyncPokes: 0, timesyncFailures: 0 };
  readonly sleep: SleepWatch;
  readonly timesync: Timesync;
  readonly #options: NamesOptions;

  constructor(options: NamesOptions) {
    this.#options = options;
    const { config, clock, log } = options;
    this.timesync = new Timesync({
      targets: config.timesync,
      stats: this.stats,
      report: (ok, target, error) => {
        const at = { target: formatTimesync(target) };
        if (ok) log.info({ event: 'timesync.works', ...at }, 'the guest sets its clock again');
        else
          log.warn(
            { event: 'timesync.failed', ...at, reason: error?.message },
            'the guest cannot be told to set its clock',
          );
      },
    });
    const wall = options.wall ?? ((): number => Date.now());
    this.sleep = new SleepWatch(wall, clock.now(), (sleptMs) => this.#onWake(sleptMs));
  }

  /** The DNS service's slice of the configuration. */
  dnsOptions(): Pick<
    DnsServiceOptions,
    | 'upstreams'
    | 'rules'
    | 'resolverFiles'
    | 'resolvConfPath'
    | 'hostsPath'
    | 'scoped'
    | 'behind'
    | 'nsswitchPath'
    | 'onSearch'
    | 'onQuery'
  > {
    const { config, onSearch, platform = process.platform } = this.#options;
    return {
      upstreams: config.dns.map((e) => formatEndpoint(e.address, e.port)),
      rules: config.dnsRules,
      resolverFiles: config.dnsFiles,
      resolvConfPath: config.resolvConf,
      hostsPath: config.hosts ?? '',
      scoped: this.#scoped(),
      behind: platform === 'linux' ? BEHIND : [],
      nsswitchPath:
        config.resolvConf !== HOST_RESOLV_CONF ? '' : platform === 'linux' ? '/etc/nsswitch.conf' : undefined,
      onSearch,
      // Before a cached answer of the time before a sleep is given.
      onQuery: (now) => this.sleep.look(now),
    };
  }

  /** What guests are told to complete names with. */
  search(): readonly string[] {
    const { config, dns } = this.#options;
    return config.search.length > 0 ? config.search : dns().search;
  }

  look(now: Millis): void {
    this.sleep.look(now);
  }

  close(): void {
    this.timesync.close();
  }

  #scoped(): ScopedResolvers | undefined {
    const { config, platform = process.platform } = this.#options;
    // A resolv.conf of the operator's own is the whole truth.
    if (platform !== 'darwin' || config.resolvConf !== HOST_RESOLV_CONF) return undefined;
    // Loaded there only: what starts processes would cost every start some milliseconds.
    const configuration = (): Promise<string> => import('../host/scutil.ts').then(({ scutilDns }) => scutilDns());
    return { folder: MACOS_FOLDER, configuration };
  }

  #onWake(sleptMs: number): void {
    const { log, dns, publish } = this.#options;
    this.stats.wakes++;
    const sleptSeconds = Math.round(sleptMs / 1000);
    log.info({ event: 'host.wake', sleptSeconds }, 'the host has slept');
    publish('host.wake', { sleptSeconds });
    dns().refresh();
    void this.timesync.poke();
  }
}
