// The network, wired: packet memory, stack, services, forwarders and links of one daemon. Each part gets its own slice of the
// configuration; nothing here does a part's work.

import { join } from 'node:path';
import type { Millis } from '../base/clock.ts';
import type { ApiSource } from '../control/resources.ts';
import { LocalNames } from '../dns/local-names.ts';
import { parseMac } from '../ethernet/mac.ts';
import { Destinations } from '../forwarder/destination.ts';
import { DnsService } from '../forwarder/dns-service.ts';
import type { Forwards } from '../forwarder/forwards.ts';
import { TcpForwarder } from '../forwarder/tcp-forwarder.ts';
import { UdpForwarder } from '../forwarder/udp-forwarder.ts';
import { HostClock, HostTimers } from '../host/host-clock.ts';
import { HostRandom } from '../host/host-random.ts';
import { LeaseFile } from '../host/lease-file.ts';
import { createPacketMemory, type PacketMemory } from '../host/packet-memory.ts';
import { StateStore } from '../host/state-store.ts';
import { TurnClock } from '../host/turn-clock.ts';
import { WakeTimer } from '../host/wake-timer.ts';
import { IpAddress } from '../ip/address.ts';
import { CaptureHost } from '../link/capture.ts';
import { CaptureFile } from '../link/capture-file.ts';
import { LinkCounters } from '../link/link-counters.ts';
import { LinkListener } from '../link/listener.ts';
import type { LinkContext } from '../link/vm-link.ts';
import type { VmSocket } from '../link/vm-socket.ts';
import { DhcpService } from '../services/dhcp-server.ts';
import { Leases } from '../services/leases.ts';
import type { NtpService } from '../services/ntp.ts';
import { VpnkitIdentities } from '../services/vpnkit-identity.ts';
import type { LinkHost } from '../stack/ports.ts';
import { Stack } from '../stack/stack.ts';
import type { VmPort } from '../stack/vm-port.ts';
import { DEFAULT_TCP_LIMITS } from '../tcp/limits.ts';
import type { Config } from './config.ts';
import type { DaemonControl } from './control-source.ts';
import { Forwarding } from './forwarding.ts';
import { DNS_PORT, gatewayService, HTTP_PORT, VPNKIT_HTTPS_PORT } from './gateway-services.ts';
import { GuestApi } from './guest-api.ts';
import { GuestDirectory } from './guest-directory.ts';
import { HostEgress } from './host-egress.ts';
import { hostTime } from './host-time.ts';
import { Isolation } from './isolation.ts';
import type { Log } from './log.ts';
import { Names } from './names.ts';
import type { Health, NetworkService, ReadyInfo } from './network-api.ts';
import { NetworkControl } from './network-control.ts';
import { networkMetrics } from './network-metrics.ts';
import { Proxying } from './proxying.ts';
import { forwardOf } from './publish-item.ts';
import { foreignState, stateFileName } from './state-file-name.ts';
import type { StatsSource } from './stats-source.ts';
import { makeUdpSockets } from './udp-sockets.ts';

const DHCP_PORT = 67;
const NTP_PORT = 123;
/** A bug is logged at most so often. */
const BUG_LOG_MS = 1000;

/** @param sockets those of `config.vm` that listen already, in its order. */
export function createNetwork(
  config: Config,
  log: Log,
  sockets: readonly (VmSocket | undefined)[] = [],
): NetworkService {
  return new Network(config, log, sockets);
}

class Network implements NetworkService {
  readonly finished: Promise<void>;
  readonly isolation: Isolation;
  readonly #config: Config;
  readonly #log: Log;
  readonly #sockets: readonly (VmSocket | undefined)[];
  readonly #clock = new HostClock();
  readonly #timers = new HostTimers();
  readonly #random = new HostRandom();
  readonly #memory: PacketMemory;
  readonly #wake: WakeTimer;
  readonly #stack: Stack;
  readonly #leases: Leases;
  readonly #guests: GuestDirectory;
  readonly #identities: VpnkitIdentities;
  readonly #leaseFile: LeaseFile | undefined;
  readonly #state: StateStore;
  readonly #dhcp: DhcpService;
  readonly #ntp: NtpService;
  readonly #dns: DnsService;
  readonly #names: Names;
  readonly #tcp: TcpForwarder;
  readonly #udp: UdpForwarder;
  readonly #egress: HostEgress;
  readonly #forwarding: Forwarding;
  readonly #proxying: Proxying;
  readonly #listeners: LinkListener[] = [];
  readonly #stats: StatsSource;
  readonly #control: NetworkControl;
  #capture: CaptureFile | undefined;
  readonly #turns: TurnClock;
  #stopping = false;
  #degraded: string | undefined;
  #bugLoggedAt: Millis = Number.NEGATIVE_INFINITY;
  #unfinished = 0;
  #finish: () => void = () => {};

  constructor(config: Config, log: Log, sockets: readonly (VmSocket | undefined)[]) {
    this.#config = config;
    this.isolation = new Isolation(config.isolate);
    this.#log = log;
    this.#sockets = sockets;
    this.finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#memory = createPacketMemory(config.memoryBytes);
    this.#wake = new WakeTimer(this.#clock);
    const { network, gateway, hostAlias } = config;
    const destinations = new Destinations({ network, gateway, hostAlias });
    this.#turns = new TurnClock(this.#clock, (now) => {
      if (!this.#stopping) this.#stack.onEndTurn(now);
    });
    this.#egress = new HostEgress({
      config,
      destinations,
      echo: () => this.#stack.echo,
      clock: this.#clock,
      log: log.child({ part: 'egress' }),
      onClash: ({ clashes }) => this.#control.events.clash(network, clashes),
    });
    const { clash } = this.#egress;
    const { mem } = this.#memory;
    this.#tcp = new TcpForwarder({ destinations, clock: this.#clock, mem, turns: this.#turns, ...this.#egress.way });
    const onDeadlineChanged = (): void => this.#wake.update();
    // The stack and those who send through it need each other: the senders get it by these two closures.
    const sender: UdpSender = {
      sendDatagram: (src, srcPort, dst, dstPort, buf, off, len, now) =>
        this.#stack.udp.sendDatagram(src, srcPort, dst, dstPort, buf, off, len, now),
      sendUnreachable: (...args) => this.#stack.udp.sendUnreachable(...args),
    };
    const udpSockets = makeUdpSockets(this.#memory);
    this.#leases = new Leases({
      network,
      gateway: gateway.v4,
      hostAlias: hostAlias?.v4,
      fixed: config.leases.map((l) => ({ mac: l.mac, address: l.address.v4 })),
      leaseMs: config.leaseTimeMs,
    });
    this.#state = new StateStore({
      path: config.stateDir === undefined ? undefined : join(config.stateDir, stateFileName('state', config)),
      report: (message) => log.warn({ event: 'state.file' }, message),
    });
    this.#forwarding = new Forwarding({
      destinations,
      connector: { connect: (...args) => this.#stack.connect(...args) },
      sender,
      guests: { find: (guest) => this.#guests.find(guest) },
      vms: () => this.#guests.vms,
      addresses: {
        isOwn: (address) => address.equals(gateway) || (hostAlias?.equals(address) ?? false),
        serviceAt: (address, port) => (address.equals(gateway) ? gatewayService(config, port) : undefined),
        claim: ({ v4 }) => {
          if (!this.#leases.setAside(v4, this.#clock.now())) return false;
          if (this.#stack.claimAddress(v4)) return true;
          this.#leases.putBack(v4);
          return false;
        },
        release: ({ v4 }) => {
          this.#stack.releaseAddress(v4);
          this.#leases.putBack(v4);
        },
      },
      flows: this.#tcp.context,
      clock: this.#clock,
      sockets: udpSockets,
      onDeadlineChanged,
      allowBind: config.allowBind,
      listenFds: config.listenFds,
      udpIdleMs: config.udpIdleMs,
      udpMaxClients: config.udpMaxFlows,
      store: this.#state.table('forwards'),
      log: log.child({ part: 'forwards' }),
    });
    this.#proxying = new Proxying({
      config: config.proxy,
      env: process.env,
      destinations,
      clock: this.#clock,
      flows: this.#forwarding.flows,
      outbound: this.#egress.way.outbound,
      dns: () => this.#dns,
      forwards: () => this.forwards,
      publish: (type, data) => this.#control.events.hub.publish(type, data),
      log: log.child({ part: 'proxy' }),
    });
    const { services } = this.#forwarding;
    this.#tcp.interceptor = { onSyn: (flow, now) => services.onSyn(flow, now) || this.#proxying.onSyn(flow, now) };
    this.#tcp.serve(config.proxy.listen, this.#proxying);
    if (config.proxy.file !== undefined) this.#tcp.serve(VPNKIT_HTTPS_PORT, this.#proxying);
    this.#udp = new UdpForwarder({
      destinations,
      sender,
      clock: this.#clock,
      onDeadlineChanged,
      claimer: this.#forwarding.udp,
      ...this.#egress.way,
      sockets: udpSockets,
      idleMs: config.udpIdleMs,
      maxFlows: config.udpMaxFlows,
    });
    this.#control = new NetworkControl(config, log, this.#tcp, () => ({
      stack: this.#stack,
      udp: this.#udp,
      udpPublisher: this.#forwarding.udp,
      leases: this.#leases,
      clock: this.#clock,
      isolation: this.isolation,
      stats: this.#stats,
      forwards: this.forwards,
      dns: this.#dns,
      proxy: this.#proxying,
      gatewayMac: config.gatewayMac,
      store: this.#state.table('dns'),
    }));
    this.#stack = new Stack(
      {
        network,
        gateway: gateway.v4,
        hostAlias: hostAlias?.v4,
        mac: parseMac(config.gatewayMac)!,
        tcp: { ...DEFAULT_TCP_LIMITS, flowsMax: config.maxFlows },
        kernel: this.#memory.kernel,
      },
      this.#memory.slab,
      this.#random,
      this.#control,
      this.#udp,
      {
        onTurnWanted: () => this.#turns.want(),
        onTurnEnd: (now) => {
          this.#names.look(now);
          this.#wake.update();
        },
        onVmConnected: (port) => {
          this.isolation.onVmConnected(port);
          this.#control.onVmConnected(port);
          clash.onHint();
        },
        onMacLearned: (port, mac, off) => this.isolation.onMacLearned(port, mac, off),
        onVmGone: (port) => this.#onVmGone(port),
        onBug: (error, what) => this.#onBug(error, what),
      },
    );
    this.#stack.echo.acceptor = this.#egress.ping;
    this.#guests = new GuestDirectory(this.#stack, this.#leases, this.#clock);
    this.#identities = new VpnkitIdentities(this.#leases, this.#random);
    this.#leaseFile =
      config.stateDir === undefined
        ? undefined
        : new LeaseFile({
            path: join(config.stateDir, stateFileName('leases', config)),
            leases: this.#leases,
            identities: this.#identities,
            clock: this.#clock,
            report: (message) => log.warn({ event: 'leases.file' }, message),
          });
    this.#dhcp = new DhcpService(
      {
        gateway: gateway.v4,
        dns: [gateway.v4],
        ntp: [gateway.v4],
        domain: config.domain,
        search: config.search,
        routes: [],
        mtuOf: (vmId) => this.#stack.ports.get(vmId)?.info.mtu ?? 1500,
      },
      this.#leases,
      this.#stack.udp,
      this.#stack.stats.drops,
      {
        onLease: (mac, address, hostName) => {
          const guest = IpAddress.v4(address).toString();
          log.info({ event: 'dhcp.lease', mac: Buffer.from(mac).toString('hex'), guest, hostName }, 'lease given');
          this.#control.events.lease(mac, address, hostName);
        },
        onRelease: (mac, address) => {
          log.info({ event: 'dhcp.release', guest: IpAddress.v4(address).toString() }, 'lease given back');
          this.#control.events.released(mac, address);
        },
      },
    );
    this.#ntp = hostTime(network, sender, this.#stack.stats.drops);
    this.#names = new Names({
      config,
      clock: this.#clock,
      log,
      dns: () => this.#dns,
      publish: (type, data) => this.#control.events.hub.publish(type, data),
      onSearch: () => this.#dhcp.setDomains(config.domain, this.#names.search()),
    });
    this.#dns = new DnsService({
      sender,
      clock: this.#clock,
      random: this.#random,
      sockets: udpSockets,
      names: new LocalNames({
        gateway: [gateway],
        hostAlias: hostAlias === undefined ? [] : [hostAlias],
        network,
        domain: config.domain,
        guests: this.#leases.names,
        zones: this.#control.zones,
      }),
      ...this.#names.dnsOptions(),
      linkLimitBytes: (vm) => Math.max(1232, ((vm as VmPort).takes ?? 1500) - 28),
      onDeadlineChanged,
      log: (level, event, fields) => {
        log[level]({ event, ...fields }, event);
        this.#control.events.dns(event, fields);
        clash.onHint();
      },
    });
    this.#stack.udp.serve(DNS_PORT, this.#dns);
    this.#stack.udp.serve(DHCP_PORT, this.#dhcp);
    this.#stack.udp.serve(NTP_PORT, this.#ntp);
    this.#tcp.serve(DNS_PORT, this.#dns);
    if (config.guestApi !== undefined)
      this.#tcp.serve(HTTP_PORT, new GuestApi(config.guestApi, this.#clock, () => this.forwards, log));
    for (const p of [this.#stack, this.#udp, this.#forwarding.udp, this.#dns, this.#names.sleep]) this.#wake.add(p);
    this.#stats = networkMetrics({
      stack: this.#stack,
      tcp: this.#forwarding.flows,
      udp: this.#udp,
      tcpPublished: this.#forwarding.tcpStats,
      udpPublisher: this.#forwarding.udp,
      forwards: this.#forwarding.forwards,
      dns: this.#dns,
      dhcp: this.#dhcp,
      ntp: this.#ntp,
      host: this.#names,
      ping: this.#egress.ping,
      links: () => this.#linkTotals(),
      linksRefused: () => this.#listeners.reduce((n, l) => n + l.refused, 0),
      leases: () => this.#leases.size,
      control: this.#control,
      proxying: this.#proxying,
      wakeups: () => this.#wake.wakeups,
    });
  }

  control(daemon: DaemonControl): Promise<ApiSource> {
    return this.#control.api(daemon);
  }

  drain(timeoutMs: number): Promise<void> {
    return this.#control.drain(timeoutMs);
  }

  get forwards(): Forwards {
    return this.#forwarding.forwards;
  }

  async start(): Promise<ReadyInfo> {
    const config = this.#config;
    this.#forwarding.checkDescriptors();
    const foreign = foreignState(this.#config);
    if (foreign !== undefined) this.#log.info({ event: 'state.foreign' }, foreign);
    this.#leaseFile?.load();
    this.#dns.start();
    const links = this.#log.child({ part: 'link' });
    let host: LinkHost = this.#stack;
    if (config.pcap !== undefined) {
      this.#capture = await CaptureFile.open({ path: config.pcap }, this.#clock, this.#timers, links);
      host = new CaptureHost(this.#stack, this.#capture, this.#memory.mem);
    }
    const context: LinkContext = {
      memory: this.#memory,
      host,
      clock: this.#clock,
      timers: this.#timers,
      identities: {
        identify: (uuid, preferred) => this.#identities.identify(uuid, preferred, this.#clock.now()),
        disconnected: (uuid) => this.#identities.disconnected(uuid, this.#clock.now()),
      },
      log: links,
    };
    for (const [i, vm] of config.vm.entries()) {
      const { transport } = vm;
      const place = transport.kind === 'listen' ? { kind: 'path' as const, path: transport.path } : transport;
      this.#unfinished++;
      const listener = new LinkListener(
        {
          url: { text: vm.url, format: vm.framing, place },
          mtu: vm.mtu,
          socket: this.#sockets[i],
          onFinished: () => {
            if (--this.#unfinished === 0) this.#finish();
          },
        },
        context,
      );
      this.#listeners.push(listener);
      await listener.listen();
    }
    // The links are ours now, and so is the state that goes with them.
    await this.#state.open();
    const publish = await this.#forwarding.publish([...config.publish.map(forwardOf), ...config.forwards]);
    await this.forwards.restore();
    await this.#proxying.start();
    await this.#control.start();
    this.#egress.start();
    return {
      network: config.network.toString(),
      gateway: config.gateway.toString(),
      vm: config.vm.map((vm) => ({
        url: vm.url,
        path: vm.transport.kind === 'listen' ? vm.transport.path : null,
        mtu: vm.mtu,
      })),
      publish,
    };
  }

  async stop(_deadlineMs: number): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#control.close();
    this.#forwarding.close();
    this.#proxying.close();
    this.#stack.stop(this.#clock.now());
    this.#tcp.close();
    this.#udp.close();
    this.#egress.close();
    this.#dns.close();
    this.#names.close();
    this.#wake.close();
    await Promise.all(this.#listeners.map((l) => l.close()));
    await Promise.all([this.#capture?.close(), this.#leaseFile?.close(), this.#state.close()]);
  }

  stats(): StatsSource {
    return this.#stats;
  }

  health(): Health {
    if (this.#stopping) return { status: 'stopping' };
    this.#egress.clash.onHint();
    const warnings = [...this.#egress.clash.warnings(), ...this.#proxying.warnings()];
    const draining = this.#control.draining();
    let state: Health = { status: 'ok' };
    if (draining !== undefined) state = { status: 'draining', reason: draining };
    else if (this.#degraded !== undefined) state = { status: 'degraded', reason: this.#degraded };
    return warnings.length === 0 ? state : { ...state, warnings };
  }

  async reload(): Promise<void> {
    this.#dns.refresh();
    this.#egress.clash.check();
    await this.#proxying.reload();
  }

  #onVmGone(port: VmPort): void {
    this.#control.events.vmDown(port);
    this.#dhcp.vmGone(port.id);
    this.#egress.ping.onVmGone(port.id);
    this.isolation.onVmGone(port);
  }

  #onBug(error: unknown, what: string): void {
    if (this.#config.strict) throw error;
    const now = this.#clock.now();
    this.#degraded = 'a bug of isthmus cost a flow; see the log for event "bug"';
    if (now - this.#bugLoggedAt < BUG_LOG_MS) return;
    this.#bugLoggedAt = now;
    this.#log.error({ event: 'bug', err: error }, `bug: a ${what} was lost to it`);
  }

  #linkTotals(): LinkCounters {
    const total = new LinkCounters();
    for (const l of this.#listeners) l.totals().addTo(total);
    return total;
  }
}

type UdpSender = ConstructorParameters<typeof UdpForwarder>[0]['sender'];
