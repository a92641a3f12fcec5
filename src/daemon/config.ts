// From flags, environment, file and defaults to one deep-frozen Config. It owns precedence (flag > environment > file > default),
// and the words of every error: key, source, what is wrong, what would be right. What options must agree on among each other is
// config-checks'; the files themselves are read in config-file; what an option is, is config-schema's.

import * as v from 'valibot';
import type { UpstreamRule } from '../dns/upstreams.ts';
import type { BindRule } from '../forwarder/forward-check.ts';
import type { ForwardSpec, VsockTarget } from '../forwarder/forward-spec.ts';
import type { OutboundRule } from '../forwarder/outbound.ts';
import type { PingMode } from '../forwarder/ping-mode.ts';
import { ExitCode } from '../host/exit-code.ts';
import { type HostNetwork, hostNetworks } from '../host/host-networks.ts';
import { OperatorError } from '../host/operator-error.ts';
import type { Cidr4, IpAddress } from '../ip/address.ts';
import type { ProxyChoice } from '../proxy/settings.ts';
import type { ApiSpec, GuestApiSpec } from './api-spec.ts';
import type { IsolateRule, NamedDescriptor } from './bind-grammar.ts';
import { checkConfig } from './config-checks.ts';
import { envNameOf, OPTION_NAMES, OPTIONS, type OptionName, type OptionValues } from './config-schema.ts';
import { controlToken, TOKEN_VARIABLE } from './control-token.ts';
import { dnsOptions } from './dns-option.ts';
import { AUTO } from './egress-grammar.ts';
import { configError, type GivenValue, type GivenValues, type ValueSource } from './given-value.ts';
import type { LogLevel } from './log.ts';
import { nearest } from './nearest.ts';
import { chooseNetwork } from './network-choice.ts';
import { type DefaultContext, NONE } from './option-spec.ts';
import type { PublishItem } from './publish-item.ts';
import type { PublishSpec } from './publish-spec.ts';
import type { Endpoint, FixedLease } from './value-grammar.ts';
import type { VmUrl } from './vm-url.ts';

/** A VM link with the MTU that holds for it. */
export interface VmLinkConfig extends VmUrl {
  /** Largest IP packet in bytes, 576 to 65,520. */
  readonly mtu: number;
}

/** What the proxy options say. */
export interface ProxyConfig {
  readonly choice: ProxyChoice;
  readonly exclude: readonly string[];
  /** VPNKit's JSON, in place of a choice. */
  readonly file: string | undefined;
  readonly ports: readonly number[];
  readonly listen: number;
  /** The explicit proxy serves also while nothing is proxied. */
  readonly explicit: boolean;
}

/** Everything the daemon was told. Deep-frozen; durations in milliseconds, sizes in bytes. */
export interface Config {
  readonly vm: readonly VmLinkConfig[];
  readonly network: Cidr4;
  readonly gateway: IpAddress;
  /** Lower case, with colons. */
  readonly gatewayMac: string;
  /** undefined: VMs cannot reach the host's loopback. */
  readonly hostAlias: IpAddress | undefined;
  /** Empty: the host chooses. */
  readonly outbound: readonly OutboundRule[];
  readonly ping: PingMode;
  /** Empty: the name servers of `dnsFiles`, else of `resolvConf`. */
  readonly dns: readonly Endpoint[];
  /** Servers of single domains. */
  readonly dnsRules: readonly UpstreamRule[];
  /** VPNKit's resolver files. */
  readonly dnsFiles: readonly string[];
  readonly resolvConf: string;
  /** undefined: no hosts file is served. */
  readonly hosts: string | undefined;
  readonly domain: string;
  /** Empty: the search list of `resolvConf`. */
  readonly search: readonly string[];
  /** Ports of guests that are told to set their clocks after a sleep. */
  readonly timesync: readonly VsockTarget[];
  readonly leases: readonly FixedLease[];
  readonly leaseTimeMs: number;
  /** Ports of the host for ports of guests, */
  readonly publish: readonly PublishSpec[];
  /** and every other kind of forward. */
  readonly forwards: readonly ForwardSpec[];
  /** Empty: every address may be listened on. */
  readonly allowBind: readonly BindRule[];
  readonly listenFds: readonly NamedDescriptor[];
  readonly isolate: readonly IsolateRule[];
  readonly proxy: ProxyConfig;
  readonly memoryBytes: number;
  readonly maxFlows: number;
  readonly udpMaxFlows: number;
  readonly udpIdleMs: number;
  readonly control: string | undefined;
  readonly controlTcp: { readonly at: Endpoint; readonly token: string } | undefined;
  readonly apis: readonly ApiSpec[];
  /** undefined: guests cannot publish. */
  readonly guestApi: GuestApiSpec | undefined;
  readonly metrics: Endpoint | undefined;
  /** undefined: nothing outlives the process. */
  readonly stateDir: string | undefined;
  readonly pidFile: string | undefined;
  readonly readyFd: number | undefined;
  readonly logLevel: LogLevel;
  readonly pcap: string | undefined;
  readonly strict: boolean;
}

/** One line of --print-config. */
export interface ConfigEntry {
  readonly name: OptionName;
  readonly repeatable: boolean;
  /** Canonical texts; empty when the option is not set. */
  readonly texts: readonly string[];
  readonly source: ValueSource;
}

export interface LoadedConfig {
  readonly config: Config;
  readonly entries: readonly ConfigEntry[];
  /** For the log: what was passed over. */
  readonly warnings: readonly string[];
}

export interface ConfigInput {
  readonly flags: GivenValues;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly uid: number;
  /** --print-config may do without a VM. */
  readonly vmOptional?: boolean;
  /** For `--network auto`; the host's by default. */
  readonly hostNetworks?: () => readonly HostNetwork[];
}

/** Reads everything, checks it, and freezes it. @throws OperatorError for the first mistake. */
export async function loadConfig(input: ConfigInput): Promise<LoadedConfig> {
  const { given: fromEnv, warnings } = readEnvironment(input.env);
  const file = input.flags.get('config') ?? fromEnv.get('config');
  const fromFile = file === undefined ? undefined : (await import('./config-file.ts')).readConfigFile(file);
  const reader = new OptionReader([input.flags, fromEnv, fromFile ?? new Map()], { env: input.env, uid: input.uid });
  const config = deepFreeze(assemble(reader, input));
  return { config, entries: reader.entries(), warnings };
}

/** Values of `ISTHMUS_*`; a list is separated by commas, an empty variable counts as not set. */
function readEnvironment(env: ConfigInput['env']): { given: Map<OptionName, GivenValue>; warnings: string[] } {
  const byVariable = new Map(OPTION_NAMES.map((name) => [envNameOf(name), name]));
  const given = new Map<OptionName, GivenValue>();
  const warnings: string[] = [];
  for (const [variable, text] of Object.entries(env)) {
    if (!variable.startsWith('ISTHMUS_') || variable === TOKEN_VARIABLE || text === undefined || text === '') continue;
    const name = byVariable.get(variable);
    if (name === undefined) {
      const near = nearest(variable, byVariable.keys());
      warnings.push(`${variable} is not a variable of isthmus${near === undefined ? '' : `; did you mean ${near}?`}`);
      continue;
    }
    const texts = OPTIONS[name].repeatable ? text.split(',').map((part) => part.trim()) : [text];
    given.set(name, { texts, source: { kind: 'env', label: variable } });
  }
  return { given, warnings };
}

/** Picks each option's source by precedence and parses it. */
class OptionReader {
  readonly #layers: readonly GivenValues[];
  readonly #context: Omit<DefaultContext, 'network' | 'gateway'>;
  readonly #entries = new Map<OptionName, ConfigEntry>();
  network: Cidr4 | undefined;
  gateway: IpAddress | undefined;

  constructor(layers: readonly GivenValues[], context: Omit<DefaultContext, 'network' | 'gateway'>) {
    this.#layers = layers;
    this.#context = context;
  }

  /** Every value of an option. */
  list<K extends OptionName>(name: K): OptionValues[K][] {
    const spec = OPTIONS[name];
    const { texts, source } = this.#given(name);
    if (texts.length > 1 && !spec.repeatable) {
      throw configError(
        name,
        source,
        `is given ${texts.length} times (${texts.map((text) => quote(spec.shown(text))).join(', ')})`,
        'one value',
      );
    }
    const values = texts.map((text) => {
      const result = v.safeParse(spec.schema, text);
      if (result.success) return result.output;
      const issue = result.issues[0];
      throw configError(name, source, `${quote(spec.shown(text))} ${issue.message}`, issue.expected ?? 'another value');
    });
    this.#entries.set(name, {
      name,
      repeatable: spec.repeatable,
      texts: values.flatMap((value) => spec.format(value)),
      source,
    });
    return values;
  }

  /** The value of an option that takes one, or undefined. */
  one<K extends OptionName>(name: K): OptionValues[K] | undefined {
    return this.list(name)[0];
  }

  /** The value of an option that always has one. */
  always<K extends OptionName>(name: K): OptionValues[K] {
    return this.one(name)!;
  }

  source(name: OptionName): ValueSource {
    return this.#given(name).source;
  }

  fail(name: OptionName, problem: string, expected: string, cause?: unknown): never {
    throw configError(name, this.source(name), problem, expected, cause);
  }

  /** Notes what was chosen where the choice was left to us. */
  chosen(name: OptionName, text: string): void {
    const entry = this.#entries.get(name)!;
    const source = { ...entry.source, label: `${entry.source.label} auto` };
    this.#entries.set(name, { ...entry, texts: [text], source });
  }

  entries(): ConfigEntry[] {
    return OPTION_NAMES.flatMap((name) => this.#entries.get(name) ?? []);
  }

  #given(name: OptionName): GivenValue {
    for (const layer of this.#layers) {
      const given = layer.get(name);
      if (given !== undefined) return given;
    }
    const text = OPTIONS[name].default({ ...this.#context, network: this.network, gateway: this.gateway });
    return { texts: text === undefined ? [] : [text], source: { kind: 'default', label: 'default' } };
  }
}

function assemble(read: OptionReader, { vmOptional, env, hostNetworks: networks }: ConfigInput): Config {
  read.one('config');
  const vm = read.list('vm');
  if (vm.length === 0 && vmOptional !== true) {
    throw new OperatorError('vm: no VM link is given; expected at least one, like --vm qemu:/run/vm.sock', {
      code: 'ERR_CONFIG_VM',
      exitCode: ExitCode.Usage,
    });
  }
  const mtu = read.one('mtu');
  const given = read.always('network');
  const network = given === AUTO ? chosenNetwork(read, networks ?? hostNetworks) : given;
  read.network = network;
  const gateway = read.always('gateway');
  read.gateway = gateway;
  const hostAlias = read.always('host-alias');
  const publish: readonly PublishItem[] = read.list('publish').flat();
  const config: Config = {
    vm: vm.map((link) => ({ ...link, mtu: mtu ?? (link.framing === 'qemu' ? 65520 : 1500) })),
    network,
    gateway,
    gatewayMac: read.always('gateway-mac'),
    hostAlias: hostAlias === NONE ? undefined : hostAlias,
    outbound: read.list('outbound-address'),
    ping: read.always('ping'),
    ...dnsOptions(read.list('dns')),
    resolvConf: read.always('resolv-conf'),
    hosts: unlessNone(read.one('hosts')),
    domain: read.always('domain'),
    search: read.list('search'),
    timesync: read.list('timesync'),
    leases: read.list('lease'),
    leaseTimeMs: read.always('lease-time'),
    publish: publish.filter((item) => !('forward' in item)) as PublishSpec[],
    forwards: publish.flatMap((item) => ('forward' in item ? [item.forward] : [])),
    allowBind: read.list('allow-bind'),
    listenFds: read.list('listen-fd'),
    isolate: read.list('isolate'),
    proxy: proxyConfig(read),
    memoryBytes: read.always('memory'),
    maxFlows: read.always('max-flows'),
    udpMaxFlows: read.always('udp-max-flows'),
    udpIdleMs: read.always('udp-idle'),
    control: read.one('control'),
    controlTcp: controlTcp(read, env),
    apis: read.list('api'),
    guestApi: read.one('guest-api'),
    metrics: read.one('metrics'),
    stateDir: unlessNone(read.one('state-dir')),
    pidFile: read.one('pid-file'),
    readyFd: read.one('ready-fd'),
    logLevel: read.always('log-level'),
    pcap: read.one('pcap'),
    strict: read.always('strict'),
  };
  checkConfig(config, read);
  return config;
}

/** `--network auto`: from here on the network is as good as given. */
function chosenNetwork(read: OptionReader, networks: () => readonly HostNetwork[]): Cidr4 {
  const network = chooseNetwork(networks());
  if (network === undefined)
    read.fail('network', '"auto" finds no private /24 that this host does not use itself', 'a network of your choice');
  read.chosen('network', `${network}`);
  return network;
}

/** VPNKit's, and squid's. */
const PROXY_PORT = 3128;

function proxyConfig(read: OptionReader): ProxyConfig {
  const choice = read.always('proxy');
  const file = read.one('proxy-config');
  const listen = read.one('proxy-listen');
  if (file !== undefined && choice.kind !== 'none')
    read.fail('proxy-config', 'there is a --proxy too', 'one of the two');
  return {
    choice,
    exclude: read.list('no-proxy').flat(),
    file,
    ports: read.always('proxy-ports'),
    listen: listen ?? PROXY_PORT,
    explicit: file !== undefined || listen !== undefined,
  };
}

function controlTcp(read: OptionReader, env: ConfigInput['env']): Config['controlTcp'] {
  const file = read.one('control-token-file');
  const at = read.one('control-tcp');
  if (at === undefined) {
    if (file !== undefined) read.fail('control-token-file', 'there is no --control-tcp to use it', 'both or neither');
    return undefined;
  }
  return { at, token: controlToken(read.source('control-tcp'), file, read.source('control-token-file'), env) };
}

function unlessNone(value: string | undefined): string | undefined {
  return value === NONE ? undefined : value;
}

function quote(text: string): string {
  return `"${text.length > 200 ? `${text.slice(0, 200)}...` : text}"`;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) deepFreeze(part);
  }
  return value;
}
