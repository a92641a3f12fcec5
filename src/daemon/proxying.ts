// Proxies in the wired network: where the settings come from (options, VPNKit's file, the system, the control API), that they are checked
// before they hold, and who is told. What proxies do is src/proxy's, which is loaded when the first one is set.

import { execFile } from 'node:child_process';
import { networkInterfaces } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Clock, Millis } from '../base/clock.ts';
import type { EventType } from '../control/event-hub.ts';
import type { ProxyInfo, ProxyPatch, ProxySource } from '../control/resources.ts';
import { Destination, type Destinations } from '../forwarder/destination.ts';
import { WatchedFile } from '../forwarder/dns-files.ts';
import type { DnsService } from '../forwarder/dns-service.ts';
import type { Forwards } from '../forwarder/forwards.ts';
import type { FlowInterceptor } from '../forwarder/guest-services.ts';
import type { HostFlowGroups } from '../forwarder/host-flow-groups.ts';
import type { Outbound } from '../forwarder/outbound.ts';
import type { GatewayTcpService } from '../forwarder/tcp-forwarder.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { parseAddress } from '../ip/address.ts';
import { BypassList } from '../proxy/bypass-list.ts';
import { ProxyError } from '../proxy/proxy-error.ts';
import type { ProxyService } from '../proxy/proxy-service.ts';
import { ProxyCounts } from '../proxy/proxy-stats.ts';
import { type Refusal, RefusalCause, refusal } from '../proxy/refusal.ts';
import {
  checkPorts,
  formatPac,
  NO_PROXY,
  type ProxyChoice,
  type ProxySettings,
  parseProxyChoice,
} from '../proxy/settings.ts';
import type { SystemProxy } from '../proxy/system-proxy.ts';
import { formatUpstream, parseUpstream, type Upstream, upstreamName } from '../proxy/upstream.ts';
import { type FlowOwner, RefuseReason, type TcpFlow } from '../stack/ports.ts';
import type { ProxyConfig } from './config.ts';
import type { Log } from './log.ts';

export interface ProxyingOptions {
  readonly config: ProxyConfig;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly destinations: Destinations;
  readonly clock: Clock;
  readonly flows: HostFlowGroups;
  readonly outbound: Outbound;
  readonly dns: () => DnsService;
  readonly forwards: () => Forwards;
  readonly publish: (type: EventType, data: Readonly<Record<string, unknown>>) => void;
  readonly log: Log;
}

/** The same refusal of the same target is told so often at most. */
const TELL_MS = 1000;
const SCUTIL_MS = 5000;
const PAC_WAIT_MS = 2000;

export class Proxying implements FlowInterceptor, GatewayTcpService, ProxySource {
  readonly counts: ProxyCounts = new ProxyCounts();
  readonly #options: ProxyingOptions;
  #service: ProxyService | undefined;
  #loading: Promise<ProxyService> | undefined;
  #settings: ProxySettings;
  #origin: ProxyInfo['origin'] = 'none';
  #file: WatchedFile | undefined;
  #pac: { close(): void } | undefined;
  #problem: string | undefined;
  /** One change after the other. */
  #queue: Promise<unknown> = Promise.resolve();
  readonly #told = new Map<string, Millis>();
  #closed = false;

  constructor(options: ProxyingOptions) {
    this.#options = options;
    const { exclude, ports } = options.config;
    this.#settings = { ...NO_PROXY, exclude: BypassList.parse(exclude), ports };
  }

  /** Puts in force what the options say. @throws OperatorError */
  async start(): Promise<void> {
    const { choice, file, explicit } = this.#options.config;
    try {
      if (file !== undefined) await this.#startFile(file);
      else if (choice.kind !== 'none')
        await this.#use(await this.#chosen(choice, this.#settings), choice.kind === 'system' ? 'system' : 'option');
      else if (explicit) await this.#load();
    } catch (error) {
      if (!(error instanceof ProxyError)) throw error;
      throw new OperatorError(`${file === undefined ? 'proxy' : 'proxy-config'}: ${error.message}`, {
        code: error.code,
        exitCode: ExitCode.Config,
        cause: error,
      });
    }
  }

  /** A change that the control API asks for. @throws ProxyError, and all is as before then */
  change({ proxy, http, https, noProxy, ports }: ProxyPatch): Promise<ProxyInfo> {
    const one = (text: string | null | undefined, key: string): Partial<ProxySettings> =>
      text === undefined ? {} : { [key]: text === null ? undefined : parseUpstream(text, key), pac: undefined };
    return this.#enqueue(async () => {
      const choice = proxy === undefined ? undefined : parseProxyChoice(proxy, 'proxy');
      const chosen = choice === undefined ? this.#settings : await this.#chosen(choice, this.#settings);
      const settings = {
        ...chosen,
        ...one(http, 'http'),
        ...one(https, 'https'),
        ...(noProxy === undefined ? {} : { exclude: BypassList.parse(noProxy, 'noProxy') }),
        ...(ports === undefined ? {} : { ports: checkPorts(ports, 'ports') }),
      };
      await this.#use(settings, choice?.kind === 'system' ? 'system' : 'api');
      return this.info();
    });
  }

  info(): ProxyInfo {
    const { http, https, pac, exclude, ports } = this.#settings;
    return {
      origin: this.#origin,
      http: http === undefined ? null : formatUpstream(http),
      https: https === undefined ? null : formatUpstream(https),
      pac: pac === undefined ? null : formatPac(pac),
      noProxy: exclude.texts,
      ports,
      problem: this.#problem ?? null,
    };
  }

  /** For `/healthz` and `isthmus status`. */
  warnings(): string[] {
    return this.#problem === undefined ? [] : [`proxy: ${this.#problem}`];
  }

  /** Settings of the system and PAC files are read again (SIGHUP); VPNKit's file is when it has changed. */
  async reload(): Promise<void> {
    this.#file?.check(this.#options.clock.now(), true);
    if (this.#origin !== 'system' && this.#settings.pac === undefined) return;
    await this.#enqueue(async () => {
      const settings = this.#settings;
      await this.#use(
        this.#origin === 'system' ? await this.#chosen({ kind: 'system' }, settings) : settings,
        this.#origin,
      );
    }).catch((error: unknown) => this.#report((error as Error).message));
  }

  /** Flows and connections that proxies hold. */
  get live(): number {
    return this.#service?.live ?? 0;
  }

  onSyn(flow: TcpFlow, now: Millis): boolean {
    this.#file?.check(now);
    return this.#service?.onSyn(flow, now) ?? false;
  }

  onTcpFlow(flow: TcpFlow, now: Millis): FlowOwner | undefined {
    if (this.#service !== undefined) return this.#service.onTcpFlow(flow, now);
    flow.refuse(RefuseReason.Refused, now);
    return undefined;
  }

  close(): void {
    this.#closed = true;
    this.#file?.close();
    this.#pac?.close();
    this.#service?.close();
  }

  #enqueue<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(run);
    this.#queue = result.catch(() => {});
    return result;
  }

  /** What a choice means now. @throws ProxyError */
  async #chosen(choice: ProxyChoice, { exclude, ports, allow, allowMessage }: ProxySettings): Promise<ProxySettings> {
    const base = { ...NO_PROXY, exclude, ports, allow, allowMessage };
    switch (choice.kind) {
      case 'none':
        return base;
      case 'upstream':
        return { ...base, http: choice.upstream, https: choice.upstream };
      case 'pac':
        return { ...base, pac: choice.pac };
      case 'system': {
        const found = await this.#system();
        if (found.unknown.length > 0)
          this.#options.log.warn(
            { event: 'proxy.problem' },
            `exceptions of the system that are no destination are passed over: ${found.unknown.join(', ')}`,
          );
        const all = BypassList.parse([...new Set([...found.exclude.texts, ...this.#options.config.exclude])]);
        return { ...base, http: found.http, https: found.https, pac: found.pac, exclude: all };
      }
    }
  }

  async #system(): Promise<SystemProxy> {
    const { environmentProxy, scutilProxy } = await import('../proxy/system-proxy.ts');
    const fromEnv = environmentProxy(this.#options.env);
    if (process.platform !== 'darwin' || fromEnv.http !== undefined || fromEnv.https !== undefined) return fromEnv;
    try {
      const { stdout } = await promisify(execFile)('scutil', ['--proxy'], { timeout: SCUTIL_MS });
      return scutilProxy(stdout);
    } catch (error) {
      if (error instanceof ProxyError) throw error;
      throw new ProxyError(
        'ERR_PROXY_SYSTEM',
        `scutil --proxy failed: ${(error as Error).message}`,
        'a URL in place of system',
      );
    }
  }

  async #startFile(path: string): Promise<void> {
    const { parseVpnkitJson } = await import('../proxy/vpnkit-json.ts');
    const { clock } = this.#options;
    let first: Promise<void> | undefined;
    const onText = (text: string | undefined): void => {
      const run = async (): Promise<void> => {
        if (text === undefined) throw new ProxyError('ERR_PROXY_FILE', `${path} cannot be read`, 'a readable file');
        await this.#use(parseVpnkitJson(text), 'file');
      };
      const result = this.#enqueue(run);
      if (first === undefined) first = result;
      // What was had before holds, until the file is right again.
      else result.catch((error: unknown) => this.#report(`${path}: ${(error as Error).message}`));
    };
    this.#file = new WatchedFile(path, onText, () => this.#file?.check(clock.now()));
    this.#file.start(clock.now());
    await first;
  }

  /** Checks settings, and puts them in force for flows to come. @throws ProxyError */
  async #use(settings: ProxySettings, origin: ProxyInfo['origin']): Promise<void> {
    for (const upstream of [settings.http, settings.https]) {
      const wrong = upstream === undefined ? undefined : this.#guard(upstream);
      if (wrong !== undefined) throw new ProxyError('ERR_PROXY_LOOP', wrong.message, 'a proxy outside of isthmus');
    }
    const service = await this.#load();
    if (this.#closed) return;
    let pac: import('../proxy/pac-file.ts').PacFile | undefined;
    if (settings.pac !== undefined) {
      const { PacFile } = await import('../proxy/pac-file.ts');
      const { url } = settings.pac;
      pac = new PacFile({
        source: settings.pac,
        clock: this.#options.clock,
        stats: this.counts.stats,
        report: (problem) => {
          if (this.#pac === pac || pac === undefined)
            this.#report(problem === undefined ? undefined : `the PAC file ${url}: ${problem}`);
        },
      });
    }
    const before = this.#pac;
    this.#pac = pac;
    this.#problem = undefined;
    // A server of PAC files that does not answer holds up nobody for long; until it does, flows go directly.
    if (pac !== undefined) await Promise.race([pac.start(), sleep(PAC_WAIT_MS, undefined, { ref: false })]);
    before?.close();
    this.#settings = settings;
    this.#origin = origin;
    service.use(settings, pac);
    const { responder } = this.#options.dns();
    responder.onAnswer = service.isProxying
      ? (client, buf, off, len) => service.names.learn(client, buf, off, len)
      : undefined;
    const { http, https, pac: pacText, noProxy, ports } = this.info();
    const told = { origin, http, https, pac: pacText, noProxy, ports };
    this.#options.log.info({ event: 'proxy.settings', ...told }, 'proxy settings in force');
    this.#options.publish('proxy.settings', told);
  }

  #load(): Promise<ProxyService> {
    this.#loading ??= import('../proxy/proxy-service.ts').then(({ ProxyService: Service }) => {
      const { destinations, clock, flows, config, outbound } = this.#options;
      const dns = this.#options.dns();
      const service = new Service({
        destinations,
        clock,
        flows: flows.open(),
        outbound,
        counts: this.counts,
        names: dns,
        local: (name) => dns.responder.policy.lookup(name)?.addresses,
        guard: (upstream) => this.#guard(upstream),
        onRefused: ({ guest, target, refusal: why }) => this.#tell(guest, target, why),
      });
      service.explicit = config.explicit;
      this.#service = service;
      return service;
    });
    return this.#loading;
  }

  /** A proxy that is isthmus itself, or a port that leads to a VM, whose own flows would come back here. */
  #guard(upstream: Upstream): Refusal | undefined {
    const { destinations, forwards } = this.#options;
    const { host, port } = upstream;
    const loop = (what: string): Refusal =>
      refusal(RefusalCause.Loop, 508, `the proxy ${upstreamName(upstream)} leads back to isthmus: ${what}`);
    const address = parseAddress(host);
    const kind = address === undefined ? undefined : destinations.classify(address);
    if (kind === Destination.Gateway || kind === Destination.HostLoopback || kind === Destination.Unused)
      return loop("its address is one of the VMs' network");
    for (const { spec, bound } of forwards().list()) {
      if (spec.target.kind !== 'guest' || (spec.listen.kind !== 'tcp' && spec.listen.kind !== 'fd')) continue;
      if (bound.some((at) => isSamePort(at, host, port))) return loop('it is a published port of a VM');
    }
    return undefined;
  }

  #tell(guest: string, target: string, why: Refusal): void {
    const now = this.#options.clock.now();
    const key = `${target} ${why.cause}`;
    if (now - (this.#told.get(key) ?? Number.NEGATIVE_INFINITY) < TELL_MS) return;
    // Guests choose the targets: what is remembered of them is little.
    if (this.#told.size > 256) this.#told.clear();
    this.#told.set(key, now);
    const data = { guest, target, cause: why.cause, status: why.status, proxyStatus: why.proxyStatus ?? null };
    this.#options.log.warn({ event: 'proxy.refused', ...data }, why.message);
    this.#options.publish('proxy.refused', { ...data, message: why.message });
  }

  #report(problem: string | undefined): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    if (problem !== undefined) this.#options.log.warn({ event: 'proxy.problem' }, problem);
    this.#options.publish('proxy.problem', { problem: problem ?? null });
  }
}

/** Whether `bound` (`ADDRESS:PORT`) is where a dial to host and port ends. */
function isSamePort(bound: string, host: string, port: number): boolean {
  const [, address = '', boundPort] = /^\[?([^\]]*)\]?:(\d+)$/.exec(bound) ?? [];
  if (Number(boundPort) !== port) return false;
  if (address === host) return true;
  const own = host === 'localhost' || /^127\./.test(host) || host === '::1' || hostAddresses().has(host);
  const everywhere = address === '0.0.0.0' || address === '::';
  return own && (everywhere || (host === 'localhost' && /^(127\.|::1$)/.test(address)));
}

function hostAddresses(): Set<string> {
  return new Set(Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)));
}
