// The side of the network that the control API holds on to: events, names that it has added, what it may do, and draining. It owns what only
// the API brings about; the parts of the network are lent. What the API itself needs is loaded when it is asked for.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { ApiSource } from '../control/resources.ts';
import { Zones } from '../dns/zones.ts';
import type { DnsService } from '../forwarder/dns-service.ts';
import type { Forwards } from '../forwarder/forwards.ts';
import type { UdpPublisher } from '../forwarder/udp-publisher.ts';
import { type FlowAcceptor, RefuseReason, type TcpFlow } from '../stack/ports.ts';
import type { VmPort } from '../stack/vm-port.ts';
import type { Config } from './config.ts';
import type { DaemonControl, NetworkParts } from './control-source.ts';
import type { DnsRecords, DnsStore } from './dns-records.ts';
import type { Log } from './log.ts';
import { NetworkEvents } from './network-events.ts';

/** What the network lends; complete once it is made. */
export interface ControlledNetwork
  extends Pick<NetworkParts, 'stack' | 'udp' | 'leases' | 'clock' | 'isolation' | 'stats' | 'proxy'> {
  readonly forwards: Forwards;
  readonly udpPublisher: UdpPublisher;
  readonly dns: DnsService;
  readonly gatewayMac: string;
  readonly store: DnsStore & { readonly size: number };
}

/** A draining daemon looks so often whether flows are left. */
const DRAIN_LOOK_MS = 50;

export class NetworkControl implements FlowAcceptor {
  readonly events: NetworkEvents = new NetworkEvents();
  readonly zones: Zones = new Zones();
  readonly captureStats: { dropped: number } = { dropped: 0 };
  readonly #config: Config;
  readonly #log: Log;
  readonly #acceptor: FlowAcceptor;
  readonly #network: () => ControlledNetwork;
  /** When draining ends at the latest; undefined: it does not drain. */
  #drainEnd: Millis | undefined;
  #closed = false;
  #records: Promise<DnsRecords> | undefined;

  /** @param acceptor takes guests' new flows, unless the daemon drains. */
  constructor(config: Config, log: Log, acceptor: FlowAcceptor, network: () => ControlledNetwork) {
    this.#config = config;
    this.#log = log;
    this.#acceptor = acceptor;
    this.#network = network;
  }

  onSyn(flow: TcpFlow, now: Millis): void {
    if (this.#drainEnd !== undefined) flow.refuse(RefuseReason.Refused, now);
    else this.#acceptor.onSyn(flow, now);
  }

  onVmConnected(port: VmPort): void {
    if (this.#drainEnd !== undefined) port.egress.close('the daemon drains');
    else this.events.vmUp(port);
  }

  /** Once the state was read: names are back, and changes of forwards are told. */
  async start(): Promise<void> {
    const { store, forwards } = this.#network();
    forwards.onChange((event) => this.events.forward(event));
    if (store.size > 0) await this.#dnsRecords();
  }

  close(): void {
    this.#closed = true;
    this.events.close();
  }

  async api(daemon: DaemonControl): Promise<ApiSource> {
    const { ControlApi } = await import('./control-source.ts');
    const { policyOf } = await import('./network-policy.ts');
    const config = this.#config;
    const network = this.#network();
    const { stack, udp, udpPublisher } = network;
    const drops = stack.stats.drops.counts;
    this.events.watchLimits(() => ({
      'max-flows': drops[Drop.TcpFlowLimit] ?? 0,
      'opening-flows': drops[Drop.TcpSynLimit] ?? 0,
      'udp-max-flows': udp.stats.flowsEvicted + udpPublisher.stats.clientsEvicted,
    }));
    const parts: NetworkParts = {
      ...network,
      dns: await this.#dnsRecords(),
      events: this.events.hub,
      gateway: {
        address: config.gateway.toString(),
        mac: network.gatewayMac,
        hostAlias: config.hostAlias?.toString() ?? null,
      },
      reservations: config.leases.map(({ mac, address }) => ({ mac, address: address.toString() })),
      captureStats: this.captureStats,
      policy: () => policyOf(config, network.dns.responder.resolver.upstreams, network.proxy.info()),
    };
    return new ControlApi(parts, daemon);
  }

  /** No new flows, clients or VMs from now on. Resolves when no TCP flow is left, or the time is over. */
  async drain(timeoutMs: number): Promise<void> {
    const { forwards, clock, stack } = this.#network();
    const end = clock.now() + timeoutMs;
    // Of two the earlier one ends it.
    this.#drainEnd = Math.min(this.#drainEnd ?? end, end);
    forwards.closeAll(false);
    this.events.hub.publish('daemon.draining', { timeoutSeconds: timeoutMs / 1000 });
    while (stack.tcp.flows > 0 && clock.now() < end && !this.#closed) await sleep(DRAIN_LOOK_MS);
  }

  /** What a draining daemon waits for, in one line; undefined while it does not drain. */
  draining(): string | undefined {
    if (this.#drainEnd === undefined) return undefined;
    const { clock, stack } = this.#network();
    const { flows } = stack.tcp;
    const left = Math.max(0, Math.ceil((this.#drainEnd - clock.now()) / 1000));
    const what = flows === 1 ? 'the last TCP flow has' : `${flows} TCP flows have`;
    return `nothing new is taken; it ends when ${what} ended, in ${left} s at the latest`;
  }

  #servers(): readonly string[] {
    return this.#network().dns.responder.resolver.servers.all.map((server) => server.text);
  }

  #dnsRecords(): Promise<DnsRecords> {
    this.#records ??= Promise.all([
      import('./dns-records.ts'),
      import('./network-policy.ts'),
      import('../dns/explain.ts'),
    ]).then(async ([{ DnsRecords: Records }, { DNS_ORDER }, { explain }]) => {
      const { dns, clock } = this.#network();
      const { zones } = this;
      const hostsPath = this.#config.hosts ?? '';
      const records = new Records({
        zones,
        explain: (name, type) => explain(dns.responder, name, type, { zones, hostsPath, now: clock.now() }),
        store: this.#network().store,
        servers: () => this.#servers(),
        order: DNS_ORDER,
        onChange: (what) => this.events.hub.publish('dns.records', what),
        report: (message) => this.#log.warn({ event: 'dns.records' }, message),
      });
      await records.restore();
      return records;
    });
    return this.#records;
  }
}
