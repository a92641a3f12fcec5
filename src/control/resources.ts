// The resources of the control API as plain JSON, and where they come from: what the routes read and do, with no word of how. The
// daemon implements the sources (daemon/control-source.ts). Types only; the schemas that check and document them are schemas.ts.

import type { Duplex, Readable } from 'node:stream';
import type { Forward, ForwardSpec } from '../forwarder/forward-spec.ts';
import type { EventHub } from './event-hub.ts';

/**
 * Answer of `GET /healthz`. `ok` is 200; `degraded` and `draining` are 200 with a reason, as what runs is served; `stopping` is 503.
 */
export interface HealthAnswer {
  readonly status: 'ok' | 'degraded' | 'draining' | 'stopping';
  readonly reason?: string;
  /** What is amiss on the host and does not stop the daemon; absent when nothing is. */
  readonly warnings?: readonly string[];
  readonly pid: number;
  readonly uptimeSeconds: number;
}

/** Bytes and frames of one VM since it connected. */
export interface VmCounters {
  readonly framesFromGuest: number;
  readonly bytesFromGuest: number;
  readonly framesToGuest: number;
  readonly bytesToGuest: number;
  /** Frames not sent because the VM does not drain. */
  readonly refused: number;
  readonly tcpFlows: number;
}

export interface VmInfo {
  /** Number of this connection; never used again while the daemon runs. */
  readonly id: number;
  /** `qemu:/run/vm.sock#3`: the `--vm` and the number of the connection there. */
  readonly link: string;
  readonly macs: readonly string[];
  readonly addresses: readonly string[];
  /** Name that it gave itself by DHCP. */
  readonly hostName: string | null;
  readonly mtu: number;
  readonly connectedSeconds: number;
  /** Its frames reach no other VM. */
  readonly isolated: boolean;
  readonly counters: VmCounters;
}

export interface FlowInfo {
  /** `tcp-12`; never used again while the daemon runs. */
  readonly id: string;
  readonly protocol: 'tcp' | 'udp';
  /** Number of the VM, or null where its address is still being looked for. */
  readonly vm: number | null;
  /** `ADDRESS:PORT` of the guest. */
  readonly guest: string;
  /** `ADDRESS:PORT` as the guest sees it; null for a UDP flow of a guest, which has any number of remotes. */
  readonly remote: string | null;
  /** `outbound`: the guest opened it; `inbound`: a client of a published port. */
  readonly direction: 'outbound' | 'inbound';
  /** A TCP state as RFC 9293 names it, or `OPEN`. */
  readonly state: string;
  /** Null for UDP. */
  readonly ageSeconds: number | null;
  /** Since anything was sent or heard. */
  readonly idleSeconds: number;
  readonly bytesToHost: number;
  readonly bytesToGuest: number;
  readonly retransmits: number;
}

/** What `GET /v1/flows` may be asked for; all given ones must hold. */
export interface FlowFilter {
  readonly vm?: number | undefined;
  readonly protocol?: 'tcp' | 'udp' | undefined;
  /** `ADDRESS` or `ADDRESS:PORT`. */
  readonly guest?: string | undefined;
  readonly remote?: string | undefined;
  readonly state?: string | undefined;
  readonly offset: number;
  readonly limit: number;
}

export interface FlowPage {
  /** All that the filter takes. */
  readonly total: number;
  readonly flows: readonly FlowInfo[];
}

export interface LeaseInfo {
  readonly address: string;
  readonly mac: string;
  /** The key that the lease is kept by: the MAC, or the client identifier. */
  readonly client: string;
  readonly hostName: string | null;
  /** `active`: in use; `offered`: waits for its request; `expired`: remembered for its client. */
  readonly state: 'active' | 'offered' | 'expired';
  /** Given by `--lease`. */
  readonly fixed: boolean;
  /** Of a VPNKit identity. */
  readonly identity: boolean;
  /** Seconds until it ends; null once it has, or while a VPNKit identity holds it. */
  readonly expiresInSeconds: number | null;
  readonly vm: number | null;
}

/** A record of a zone: a name or a pattern below it, and addresses. */
export interface DnsRecord {
  /** Part of the name left of the zone, `@` for the zone itself. Either this or `pattern`. */
  readonly name?: string | undefined;
  /** RE2 expression for that part, found anywhere in it. */
  readonly pattern?: string | undefined;
  readonly addresses: readonly string[];
  readonly ttl?: number | undefined;
}

export interface DnsZone {
  readonly name: string;
  /** In order: the first that fits answers. */
  readonly records: readonly DnsRecord[];
  /** For every other name of the zone; without it such names do not exist. */
  readonly defaultAddress?: string | undefined;
}

/** A name of its own, outside of any zone. */
export interface DnsName {
  readonly name: string;
  readonly addresses: readonly string[];
  readonly ttl?: number | undefined;
}

export interface DnsInfo {
  readonly names: readonly DnsName[];
  readonly zones: readonly DnsZone[];
  /** Servers that other questions go to, in order. */
  readonly servers: readonly string[];
  /** Who is asked for a name, in order. */
  readonly order: readonly string[];
}

/** A question to explain. */
export interface ExplainQuery {
  readonly name: string;
  readonly type?: string | undefined;
}

/** Who is asked for the names of a domain. */
export interface DnsRoute {
  /** `.` for every name that no other rule is for. */
  readonly domain: string;
  /** Where the rule is written. */
  readonly from: string;
  readonly servers: readonly {
    readonly server: string;
    readonly order: number;
    readonly timeoutMs: number | null;
    readonly health: 'healthy' | 'suspect' | 'unasked';
    readonly rttMs: number | null;
    readonly asked: number;
    readonly answered: number;
  }[];
  /** When the host's own resolver is asked for addresses: without servers, if none answers, before them. */
  readonly hostResolver: 'alone' | 'last' | 'first';
  readonly thorough: boolean;
}

/** Why a name is answered as it is. */
export interface DnsExplanation {
  readonly name: string;
  readonly type: string;
  readonly source: string;
  readonly rule: string;
  readonly answer: {
    readonly rcode: string;
    readonly addresses: readonly string[];
    readonly names: readonly string[];
    readonly ttlSeconds: number;
  } | null;
  readonly route: DnsRoute | null;
  readonly asks: readonly string[];
  readonly cached: readonly {
    readonly rcode: string;
    readonly records: number;
    readonly ttlSeconds: number;
    readonly flags: readonly string[];
  }[];
}

export interface PolicyInfo {
  readonly network: string;
  readonly gateway: string;
  readonly hostAlias: string | null;
  /** What becomes of a destination, in order: the first that fits holds. */
  readonly destinations: readonly { readonly destination: string; readonly action: string }[];
  /** Addresses of the host that traffic leaves from, where it does not choose. */
  readonly outbound: readonly { readonly destination: string; readonly address: string }[];
  /** What becomes of pings to the outside. */
  readonly ping: string;
  readonly dns: {
    readonly order: readonly string[];
    readonly servers: readonly string[];
    readonly domain: string;
    /** Who is asked for what no source above the upstream servers knows; that for every other name last. */
    readonly routes: readonly DnsRoute[];
  };
  /** Through which proxies guests' flows go. */
  readonly proxy: ProxyInfo;
  /** Addresses that forwards may listen on; null: all. */
  readonly allowBind: readonly string[] | null;
  readonly limits: Readonly<Record<string, number>>;
  /** Control protocols beside this one. */
  readonly apis: readonly string[];
  readonly guestApi: string | null;
}

export interface ConfigValue {
  readonly value: string | readonly string[] | null;
  readonly source: 'flag' | 'env' | 'file' | 'default';
  readonly from: string;
}

/** How many of what. */
export interface StatValue {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly value: number;
}

/** The table of forwards; forwarder/forwards.ts fits by structure. */
export interface ForwardTable {
  add(
    spec: ForwardSpec,
    options?: ForwardAddOptions,
  ): Promise<{ readonly forward: Forward; readonly created: boolean }>;
  remove(id: string, options?: { readonly close?: boolean }): Promise<boolean>;
  /** All or nothing. */
  replace(specs: readonly ForwardSpec[], owner: string | undefined): Promise<readonly Forward[]>;
  /** What hung on this connection ends. */
  release(holder: object): Promise<void>;
  get(id: string): Forward | undefined;
  list(filter?: { readonly key?: string; readonly owner?: string }): readonly Forward[];
}

export interface ForwardAddOptions {
  /** Takes the place of a forward with the same key. */
  readonly replace?: boolean;
  /** The control connection, for forwards with the lease `connection`. */
  readonly holder?: object;
}

/** A live capture. */
export interface CaptureStream {
  /** pcapng. */
  readonly output: Readable;
  stop(): void;
}

/** Names and zones that the control API has added. */
export interface DnsSource {
  info(): DnsInfo;
  /** @throws ApiError ERR_DNS_QUESTION */
  explain(query: ExplainQuery): DnsExplanation;
  zone(name: string): DnsZone | undefined;
  /** Adds records before those that are there, or makes the zone. */
  addZone(zone: DnsZone): Promise<DnsZone>;
  putZone(zone: DnsZone): Promise<{ readonly zone: DnsZone; readonly created: boolean }>;
  removeZone(name: string): Promise<boolean>;
  name(name: string): DnsName | undefined;
  addName(record: DnsName): Promise<DnsName>;
  putName(record: DnsName): Promise<{ readonly record: DnsName; readonly created: boolean }>;
  /** @param address only this one; the whole name if not given. */
  removeName(name: string, address?: string): Promise<boolean>;
}

/** The proxy settings in force; no password is in them. */
export interface ProxyInfo {
  /** Who they came from. */
  readonly origin: 'none' | 'option' | 'file' | 'system' | 'api';
  readonly http: string | null;
  readonly https: string | null;
  readonly pac: string | null;
  readonly noProxy: readonly string[];
  readonly ports: readonly number[];
  /** What does not work now; null when all is well. */
  readonly problem: string | null;
}

/** A change of them; what is not given stays. */
export interface ProxyPatch {
  /** As `--proxy`. */
  readonly proxy?: string | undefined;
  /** For `http:` URLs alone; null: directly. */
  readonly http?: string | null | undefined;
  /** For everything else. */
  readonly https?: string | null | undefined;
  readonly noProxy?: readonly string[] | undefined;
  readonly ports?: readonly number[] | undefined;
}

export interface ProxySource {
  info(): ProxyInfo;
  change(patch: ProxyPatch): Promise<ProxyInfo>;
}

/** What `/v1` reads and does. Methods throw errors with `status` and `code` for what cannot be done. */
export interface ApiSource {
  readonly version: string;
  readonly forwards: ForwardTable;
  readonly dns: DnsSource;
  readonly proxy: ProxySource;
  readonly events: EventHub;
  flows(filter: FlowFilter): FlowPage;
  killFlow(id: string): boolean;
  vms(): readonly VmInfo[];
  disconnectVm(id: number): boolean;
  isolateVm(id: number, isolated: boolean): VmInfo | undefined;
  leases(): readonly LeaseInfo[];
  removeLease(address: string): 'removed' | 'unknown' | 'in-use';
  /** The gateway as guests see it, and the address of the host's loopback. */
  readonly gateway: { readonly address: string; readonly mac: string; readonly hostAlias: string | null };
  /** Addresses that are kept for one MAC each. */
  reservations(): readonly { readonly mac: string; readonly address: string }[];
  /** A connection to a guest's port, from the gateway; it emits `connect`. @returns undefined when none can be made. */
  dialGuest(address: string, port: number): Duplex | undefined;
  policy(): PolicyInfo;
  stats(): readonly StatValue[];
  capture(options: { readonly vm: number | undefined; readonly snapBytes: number }): CaptureStream;
  config(): Readonly<Record<string, ConfigValue>>;
  /** No new flows, clients or VMs from now on; the daemon ends when the last flow has, or after `timeoutMs`. */
  drain(timeoutMs: number): void;
  shutdown(): void;
}

/** What the control server reads. */
export interface ControlSource {
  health(): HealthAnswer;
  /** Prometheus text. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  /** Absent where there is no network behind the server. Called once, when the first request is to be answered. */
  api?(): Promise<ApiSource | undefined>;
}
