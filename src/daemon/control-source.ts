// What the control API reads and does, over the wired network: VMs, leases, policy, counters, captures, and the end of it all. Each
// answer is made when somebody asks; nothing is kept for it meanwhile. Loaded when there is a control socket.

import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { ApiError } from '../control/api-error.ts';
import type { EventHub } from '../control/event-hub.ts';
import type {
  ApiSource,
  CaptureStream,
  ConfigValue,
  DnsSource,
  FlowFilter,
  FlowPage,
  ForwardTable,
  LeaseInfo,
  PolicyInfo,
  ProxySource,
  StatValue,
  VmInfo,
} from '../control/resources.ts';
import { formatMac, setMac } from '../ethernet/mac.ts';
import { FlowDuplex } from '../forwarder/flow-duplex.ts';
import type { UdpForwarder } from '../forwarder/udp-forwarder.ts';
import { formatV4, IpAddress, parseV4 } from '../ip/address.ts';
import { LiveCapture } from '../link/live-capture.ts';
import type { Lease, Leases } from '../services/leases.ts';
import type { Stack } from '../stack/stack.ts';
import type { VmPort } from '../stack/vm-port.ts';
import { FlowList, type PublishedDatagrams } from './flow-list.ts';
import type { IsolationControl } from './network-api.ts';
import type { StatsSource } from './stats-source.ts';

/** What only the daemon as a whole knows and can do. */
export interface DaemonControl {
  readonly version: string;
  config(): Readonly<Record<string, ConfigValue>>;
  /** Metrics of the daemon itself. */
  stats(): StatsSource;
  /** Ends it once the network says that nothing runs any more, or after this time. */
  drain(timeoutMs: number): void;
  shutdown(): void;
}

/** The parts of the network. */
export interface NetworkParts {
  readonly stack: Stack;
  readonly udp: UdpForwarder;
  readonly udpPublisher: PublishedDatagrams;
  readonly leases: Leases;
  readonly clock: Clock;
  readonly forwards: ForwardTable;
  readonly dns: DnsSource;
  readonly proxy: ProxySource;
  readonly events: EventHub;
  readonly stats: StatsSource;
  readonly gateway: { readonly address: string; readonly mac: string; readonly hostAlias: string | null };
  readonly reservations: readonly { readonly mac: string; readonly address: string }[];
  readonly policy: () => PolicyInfo;
  readonly isolation: IsolationControl;
  /** Frames that live captures lack, as their readers were too slow. */
  readonly captureStats: { dropped: number };
}

export class ControlApi implements ApiSource {
  readonly version: string;
  readonly forwards: ForwardTable;
  readonly dns: DnsSource;
  readonly proxy: ProxySource;
  readonly events: EventHub;
  readonly #parts: NetworkParts;
  readonly #daemon: DaemonControl;
  readonly #flows: FlowList;

  constructor(parts: NetworkParts, daemon: DaemonControl) {
    this.#parts = parts;
    this.#daemon = daemon;
    this.version = daemon.version;
    this.forwards = parts.forwards;
    this.dns = parts.dns;
    this.proxy = parts.proxy;
    this.events = parts.events;
    this.#flows = new FlowList(parts.stack, parts.udp, parts.udpPublisher);
  }

  flows(filter: FlowFilter): FlowPage {
    return this.#flows.page(filter, this.#parts.clock.now());
  }

  killFlow(id: string): boolean {
    return this.#flows.kill(id, this.#parts.clock.now());
  }

  vms(): readonly VmInfo[] {
    const { stack, clock } = this.#parts;
    const addresses = this.#addressesByPort();
    const now = clock.now();
    return [...stack.ports.values()].map((port) => this.#vm(port, addresses.get(port.id) ?? [], now));
  }

  disconnectVm(id: number): boolean {
    const port = this.#parts.stack.ports.get(id);
    port?.egress.close('disconnected by the operator');
    return port !== undefined;
  }

  isolateVm(id: number, isolated: boolean): VmInfo | undefined {
    const { stack, clock } = this.#parts;
    const port = stack.ports.get(id);
    if (port === undefined) return undefined;
    this.#parts.isolation.setIsolated(id, isolated);
    return this.#vm(port, this.#addressesByPort().get(id) ?? [], clock.now());
  }

  leases(): readonly LeaseInfo[] {
    const now = this.#parts.clock.now();
    return [...this.#parts.leases.values()].map((lease) => leaseInfo(lease, now));
  }

  removeLease(address: string): 'removed' | 'unknown' | 'in-use' {
    const v4 = parseV4(address);
    return v4 === undefined ? 'unknown' : this.#parts.leases.forget(v4, this.#parts.clock.now());
  }

  get gateway(): NetworkParts['gateway'] {
    return this.#parts.gateway;
  }

  reservations(): NetworkParts['reservations'] {
    return this.#parts.reservations;
  }

  dialGuest(address: string, port: number): Duplex | undefined {
    const { stack, clock, gateway } = this.#parts;
    const guest = parseV4(address);
    if (guest === undefined || !stack.network.contains(guest) || stack.isOurs(guest)) return undefined;
    const flow = stack.connect(IpAddress.v4(parseV4(gateway.address)!), IpAddress.v4(guest), port, clock.now());
    return flow === undefined ? undefined : new FlowDuplex(flow, clock);
  }

  policy(): PolicyInfo {
    return this.#parts.policy();
  }

  stats(): readonly StatValue[] {
    const values: StatValue[] = [];
    for (const source of [this.#daemon.stats(), this.#parts.stats]) {
      for (const { name, type, read } of source.metrics) {
        const value = read();
        if (typeof value === 'number') values.push({ name, type, value });
        else for (const sample of value) values.push({ name, type, labels: sample.labels, value: sample.value });
      }
    }
    return values;
  }

  capture(options: { readonly vm: number | undefined; readonly snapBytes: number }): CaptureStream {
    const { stack, clock } = this.#parts;
    const { vm, snapBytes } = options;
    if (vm !== undefined && !stack.ports.has(vm))
      throw new ApiError(404, 'ERR_VM_NOT_FOUND', `there is no VM ${vm}`, 'query.vm');
    const capture = new LiveCapture({ clock, snapBytes });
    const { captureStats } = this.#parts;
    const listener = {
      onFrame: (port: VmPort, toGuest: boolean, buf: Uint8Array, off: number, len: number): void => {
        if (!capture.add(port.id, port.info.name, toGuest, buf, off, len)) captureStats.dropped++;
      },
    };
    const ends = new Map<number, () => void>();
    const join = (port: VmPort): void => {
      ends.set(port.id, port.listen(listener, stack.egress.mem));
    };
    for (const port of stack.ports.values()) if (vm === undefined || port.id === vm) join(port);
    const unlisten = this.events.listen(({ type, data }) => {
      const port = stack.ports.get(data.vm as number);
      if (type === 'vm.up' && vm === undefined && port !== undefined) join(port);
      if (type === 'vm.down') ends.delete(data.vm as number);
      // Nothing more will come from the one VM that was asked for, or from any.
      if (type === 'daemon.stopping' || (type === 'vm.down' && data.vm === vm)) stop();
    });
    const stop = (): void => {
      unlisten();
      for (const end of ends.values()) end();
      ends.clear();
      capture.end();
    };
    return { output: capture.output, stop };
  }

  config(): Readonly<Record<string, ConfigValue>> {
    return this.#daemon.config();
  }

  drain(timeoutMs: number): void {
    this.#daemon.drain(timeoutMs);
  }

  shutdown(): void {
    this.#daemon.shutdown();
  }

  #addressesByPort(): Map<number, number[]> {
    const out = new Map<number, number[]>();
    for (const n of this.#parts.stack.neighbours.entries()) {
      if (!n.usable) continue;
      const list = out.get(n.portId);
      if (list === undefined) out.set(n.portId, [n.ip]);
      else list.push(n.ip);
    }
    return out;
  }

  #vm(port: VmPort, ips: readonly number[], now: number): VmInfo {
    const { stack, leases } = this.#parts;
    // A VM that has its lease but has not spoken since is known by the lease.
    const leased = [...leases.values()].filter((l) => l.vmId === port.id && l.active(now)).map((l) => l.address);
    const all = [...new Set([...leased, ...ips])];
    const hostName = all.map((ip) => leases.names.nameOf(ip)).find((name) => name !== undefined && name !== '');
    const { framesFromGuest, bytesFromGuest, framesToGuest, bytesToGuest, refused, flows } = port;
    return {
      id: port.id,
      link: port.info.name,
      macs: macsOf(stack, port),
      addresses: all.map((ip) => formatV4(ip)),
      hostName: hostName ?? null,
      mtu: port.info.mtu,
      connectedSeconds: Math.round((now - port.connectedAt) / 100) / 10,
      isolated: this.#parts.isolation.isIsolated(port.id) ?? false,
      counters: { framesFromGuest, bytesFromGuest, framesToGuest, bytesToGuest, refused, tcpFlows: flows },
    };
  }
}

/** A VM's MACs; that of the handshake first. */
function macsOf(stack: Stack, port: VmPort): string[] {
  const bytes = new Uint8Array(6);
  const learned = stack.macTable.addressesOf(port.id).map(({ hi, lo }) => {
    setMac(bytes, 0, hi, lo);
    return formatMac(bytes);
  });
  const own = port.info.mac === undefined ? [] : [formatMac(port.info.mac)];
  return [...new Set([...own, ...learned])];
}

function leaseInfo(lease: Lease, now: number): LeaseInfo {
  const active = lease.active(now);
  const known = lease.bound || lease.identity;
  return {
    address: formatV4(lease.address),
    mac: lease.macText,
    client: lease.key,
    hostName: lease.hostName === '' ? null : lease.hostName,
    state: active ? (known ? 'active' : 'offered') : 'expired',
    fixed: lease.fixed,
    identity: lease.identity,
    expiresInSeconds: active && lease.expiresAt > now ? Math.ceil((lease.expiresAt - now) / 1000) : null,
    vm: lease.vmId === 0 ? null : lease.vmId,
  };
}
