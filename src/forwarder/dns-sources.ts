// Where the rules of who is asked for which name are written: options, VPNKit's resolver files, the host's resolv.conf, and on macOS
// /etc/resolver and `scutil --dns`. It watches the files, puts their rules together in the order of who has the say, and tells of changes;
// what a text means is the parsers' (dns/resolver-file, dns/resolv-conf, dns/macos-resolvers).
//
// For one domain the first of these that has a rule: options, resolver files in their order, /etc/resolver, scutil. For all other names:
// servers of the options, of resolver files, of scutil, of resolv.conf.

import type { Millis } from '../base/clock.ts';
import { parseMacosResolver, parseScutilDns } from '../dns/macos-resolvers.ts';
import { asksMore } from '../dns/nsswitch.ts';
import { isLoopback } from '../dns/policy.ts';
import { parseResolvConf, type ResolvConf, serverText } from '../dns/resolv-conf.ts';
import { parseResolverFile, type ResolverFile } from '../dns/resolver-file.ts';
import type { UpstreamServer } from '../dns/server.ts';
import { HostUse, type UpstreamRule } from '../dns/upstreams.ts';
import { preferStub, WatchedFile, WatchedFolder } from './dns-files.ts';

export type DnsLog = (level: 'info' | 'warn' | 'debug', event: string, fields: Record<string, unknown>) => void;

/** How the platform tells of resolvers by domain, beside resolv.conf. */
export interface ScopedResolvers {
  /** Folder of files as resolver(5) has them; empty for none. */
  readonly folder: string;
  /** The output of `scutil --dns`. Rejects when it cannot be had. Bounded in time and size. */
  readonly configuration?: (() => Promise<string>) | undefined;
}

export interface DnsSourcesOptions {
  /** Servers for every name in place of the host's. */
  readonly servers: readonly UpstreamServer[];
  readonly rules: readonly UpstreamRule[];
  /** VPNKit's resolver files. */
  readonly files: readonly string[];
  readonly resolvConfPath: string;
  readonly scoped?: ScopedResolvers | undefined;
  /** Where programs on this host that resolv.conf may name keep the servers behind them. */
  readonly behind?: readonly string[];
  /** nsswitch.conf, which tells whether the host's own resolver may know more than the servers of resolv.conf; '': it is not asked. */
  readonly nsswitchPath?: string | undefined;
  /** Rules may be others now; `useTcp`: ask over TCP only. */
  readonly onRules: (rules: readonly UpstreamRule[], useTcp: boolean) => void;
  /** The same servers are to be asked, but may be others: another network may have the same addresses for them, or they ask others. */
  readonly onOthers: () => void;
  /** Something happened: `check` is worth calling. */
  readonly onEvent: () => void;
  readonly log: DnsLog | undefined;
}

const NO_CONF: ResolvConf = parseResolvConf('');
/** The platform is asked again so often while names are asked for: it starts a process. */
const CONFIGURATION_MS = 2000;

export class DnsSources {
  readonly #options: DnsSourcesOptions;
  readonly #resolvConf: WatchedFile;
  readonly #files: readonly WatchedFile[];
  readonly #folder: WatchedFolder;
  readonly #behind: readonly WatchedFile[];
  readonly #nsswitch: WatchedFile;
  /** What the host's own resolver is good for when no server of resolv.conf answers. */
  #hostUse: HostUse = HostUse.Last;
  readonly #parsed: (ResolverFile | undefined)[];
  #conf = NO_CONF;
  #folderRules: readonly UpstreamRule[] = [];
  #configured: readonly UpstreamRule[] = [];
  #configuration = '';
  #asking = false;
  #nextAskAt: Millis = 0;
  #changed = true;
  #others = false;
  #running = false;

  constructor(options: DnsSourcesOptions) {
    this.#options = options;
    const { onEvent, scoped } = options;
    const others = (): void => {
      this.#others = true;
    };
    const confText = (text: string | undefined): void => this.#onResolvConf(text);
    this.#resolvConf = new WatchedFile(options.resolvConfPath, confText, onEvent, preferStub, others);
    const { nsswitchPath } = options;
    this.#nsswitch = new WatchedFile(nsswitchPath ?? '', (text) => this.#onNsswitch(text), onEvent);
    this.#behind = (options.behind ?? []).map((path) => {
      // What asks them is on this host, or it is none of its files.
      const changed = (): void => {
        if (this.#rules().some((r) => r.servers.some((s) => isLoopback(s.address)))) others();
      };
      return new WatchedFile(path, changed, onEvent, undefined, changed);
    });
    this.#parsed = options.files.map(() => undefined);
    this.#files = options.files.map(
      (file, i) => new WatchedFile(file, (text) => this.#onFile(i, text), onEvent, undefined, others),
    );
    this.#folder = new WatchedFolder(scoped?.folder ?? '', (texts) => this.#onFolder(texts), onEvent);
  }

  /** The search list of the first resolver file that has one, else of resolv.conf. */
  get search(): readonly string[] {
    return this.#parsed.find((file) => file !== undefined && file.search.length > 0)?.search ?? this.#conf.search;
  }

  start(now: Millis): void {
    this.#running = true;
    this.#changed = true;
    this.#askPlatform(now, true);
    for (const file of this.#all) file.start(now);
    this.#others = false;
    this.#settle();
  }

  /** Looks whether a file has changed, at most twenty times a second unless by `force`; tells before it returns. */
  check(now: Millis, force = false): void {
    if (!this.#running) return;
    for (const file of this.#all) file.check(now, force);
    this.#askPlatform(now, force || this.#changed);
    this.#settle();
  }

  close(): void {
    this.#running = false;
    for (const file of this.#all) file.close();
  }

  get #all(): readonly (WatchedFile | WatchedFolder)[] {
    return [this.#resolvConf, ...this.#files, this.#folder, this.#nsswitch, ...this.#behind];
  }

  #settle(): void {
    if (this.#others) {
      this.#others = false;
      this.#options.onOthers();
    }
    if (!this.#changed) return;
    this.#changed = false;
    const rules = this.#rules();
    const fromConf = rules.find((r) => r.domain === '') === rules.at(-1);
    this.#options.onRules(rules, fromConf && this.#conf.useTcp);
  }

  #rules(): UpstreamRule[] {
    const { servers, rules } = this.#options;
    const ofFiles = this.#parsed.flatMap((file) => file?.rules ?? []);
    const own: UpstreamRule[] =
      servers.length > 0 ? [{ domain: '', servers, source: '--dns', host: HostUse.Alone }] : [];
    const { readFrom: source } = this.#resolvConf;
    const last: UpstreamRule = { domain: '', servers: this.#conf.servers, source, host: this.#hostUse };
    return [...rules, ...own, ...ofFiles, ...this.#folderRules, ...this.#configured, last];
  }

  #onResolvConf(text: string | undefined): void {
    const conf = parseResolvConf(text ?? '');
    const { path } = this.#resolvConf;
    if (conf.unusable.length > 0) this.#log('warn', 'dns.resolv-conf.unusable', { path, nameservers: conf.unusable });
    this.#conf = conf;
    this.#changed = true;
  }

  #onNsswitch(text: string | undefined): void {
    if (this.#options.nsswitchPath === undefined) return;
    this.#hostUse = asksMore(text) ? HostUse.Last : HostUse.Alone;
    this.#changed = true;
  }

  #onFile(i: number, text: string | undefined): void {
    const path = this.#options.files[i]!;
    if (text === undefined) {
      this.#log('warn', 'dns.file.missing', { path });
      this.#parsed[i] = undefined;
      this.#changed = true;
      return;
    }
    const parsed = parseResolverFile(text, path);
    if ('line' in parsed) {
      // It may be half written: what it said before holds until it can be read again.
      this.#log('warn', 'dns.file.unusable', { path, ...parsed });
      return;
    }
    const servers = parsed.rules.find((r) => r.domain === '')?.servers ?? [];
    this.#log('info', 'dns.file.read', { path, servers: servers.map(serverText), search: parsed.search });
    this.#parsed[i] = parsed;
    this.#changed = true;
  }

  #onFolder(texts: ReadonlyMap<string, string>): void {
    const { path } = this.#folder;
    this.#folderRules = [...texts].flatMap(([name, text]) => parseMacosResolver(text, name, `${path}/${name}`) ?? []);
    this.#changed = true;
  }

  /** Asks the platform in the background; one question at a time. */
  #askPlatform(now: Millis, force: boolean): void {
    const ask = this.#options.scoped?.configuration;
    if (ask === undefined || this.#asking || (!force && now < this.#nextAskAt)) return;
    this.#asking = true;
    this.#nextAskAt = now + CONFIGURATION_MS;
    ask()
      .then(
        (text) => this.#onConfiguration(text),
        (err: unknown) => {
          if (this.#running) this.#log('warn', 'dns.scutil.failed', { err });
        },
      )
      .finally(() => {
        this.#asking = false;
      });
  }

  #onConfiguration(text: string): void {
    if (!this.#running || text === this.#configuration) return;
    this.#configuration = text;
    this.#configured = parseScutilDns(text);
    this.#changed = true;
    this.#settle();
    this.#options.onEvent();
  }

  #log(level: 'info' | 'warn', event: string, fields: Record<string, unknown>): void {
    this.#options.log?.(level, event, fields);
  }
}
