// The network's counters as metrics: names, help and where each is read. It counts nothing itself.

import { DROP_NAMES } from '../base/drop.ts';
import type { DnsService } from '../forwarder/dns-service.ts';
import type { HostFlowStats } from '../forwarder/host-flow.ts';
import type { LinkCounters } from '../link/link-counters.ts';
import type { ProxyCounts } from '../proxy/proxy-stats.ts';
import type { Stack } from '../stack/stack.ts';
import type { StatsMetric, StatsSource } from './stats-source.ts';

/** What there is to read from. */
export interface MetricsInput {
  readonly stack: Stack;
  readonly tcp: { readonly stats: HostFlowStats; readonly live: number };
  readonly udp: { readonly size: number; readonly stats: object };
  readonly tcpPublished: object;
  readonly udpPublisher: { readonly size: number; readonly stats: object };
  readonly forwards: { readonly size: number; readonly listening: number };
  readonly dns: Pick<DnsService, 'stats' | 'sessions' | 'responder' | 'upstream'>;
  readonly dhcp: { readonly stats: object };
  readonly ntp: { readonly stats: object };
  /** What is noticed of the host itself. */
  readonly host: { readonly stats: object };
  readonly ping: { readonly running: number; readonly stats: object };
  /** Counters of all links, gone ones included. */
  readonly links: () => LinkCounters;
  readonly linksRefused: () => number;
  readonly leases: () => number;
  readonly control: {
    readonly events: { readonly hub: { readonly lost: number } };
    readonly captureStats: { readonly dropped: number };
  };
  readonly proxying: { readonly counts: ProxyCounts; readonly live: number };
  readonly wakeups: () => number;
}

/** `bytesToHost` -> `bytes_to_host`. */
function snake(name: string): string {
  return name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
}

/** `bytes_to_host` -> `Bytes to host`. */
function sentence(prefix: string, name: string): string {
  return `${prefix}: ${name.replaceAll('_', ' ')}.`;
}

/** Every number field of a stats object as a counter of its own. */
function counters(area: string, title: string, stats: object): StatsMetric[] {
  const fields = stats as Record<string, unknown>;
  return Object.keys(fields)
    .filter((key) => typeof fields[key] === 'number')
    .map((key) => ({
      name: `isthmus_${area}_${snake(key)}_total`,
      help: sentence(title, snake(key)),
      type: 'counter' as const,
      read: () => fields[key] as number,
    }));
}

function gauge(name: string, help: string, read: () => number): StatsMetric {
  return { name: `isthmus_${name}`, help, type: 'gauge', read };
}

function labelled(name: string, help: string, label: string, read: () => [string, number][]): StatsMetric {
  return {
    name: `isthmus_${name}_total`,
    help,
    type: 'counter',
    labels: [label],
    read: () => read().map(([key, value]) => ({ labels: { [label]: key }, value })),
  };
}

export function networkMetrics(input: MetricsInput): StatsSource {
  const { stack } = input;
  const { slab } = stack;
  const { responder, upstream } = input.dns;
  return {
    metrics: [
      gauge('vms', 'VMs connected now.', () => stack.ports.size),
      gauge('tcp_flows', 'TCP flows now, without those in TIME-WAIT.', () => stack.tcp.flows),
      gauge('tcp_flows_opening', 'TCP flows whose handshake or dial is not finished.', () => stack.tcp.opening),
      gauge('tcp_time_waits', 'TCP flows in TIME-WAIT.', () => stack.tcp.timeWaits),
      gauge('tcp_host_sockets', 'Host sockets of TCP flows.', () => input.tcp.live),
      gauge('udp_flows', 'UDP flows now.', () => input.udp.size),
      gauge('udp_published_clients', 'Clients of published UDP ports now.', () => input.udpPublisher.size),
      gauge('forwards', 'Forwards in the table.', () => input.forwards.size),
      gauge('forwards_listening', 'Ports and sockets that forwards listen on now.', () => input.forwards.listening),
      gauge('dns_sessions', 'DNS connections of guests now.', () => input.dns.sessions),
      gauge('dns_in_flight', 'DNS questions that wait for an answer from upstream.', () => responder.resolver.inFlight),
      gauge('dns_cache_bytes', 'Bytes of cached DNS answers.', () => responder.cache.bytes),
      gauge('dns_upstream_sockets', 'Host sockets to DNS servers.', () => upstream.udpSockets + upstream.tcpSockets),
      gauge('ping_processes', 'Processes that carry echo requests now.', () => input.ping.running),
      gauge('leases', 'DHCP leases known.', input.leases),
      gauge('neighbours', 'Guest addresses known.', () => stack.neighbours.size),
      gauge('timers', 'Connections with a deadline.', () => stack.tcp.deadlines.size),
      gauge('slab_bytes', 'Packet memory in all.', () => slab.size),
      gauge('slab_used_bytes', 'Packet memory in use.', () => slab.usedBytes),
      gauge('slab_peak_bytes', 'Most packet memory ever in use.', () => slab.peakBytes),
      {
        name: 'isthmus_tcp_window_refused_total',
        help: 'Times a receive window did not grow because all of them together promise enough.',
        type: 'counter',
        read: () => stack.tcp.windows.refused,
      },
      {
        name: 'isthmus_mac_table_refused_total',
        help: 'MAC addresses not learned: a cap, or in use on another port.',
        type: 'counter',
        read: () => stack.macTable.capped + stack.macTable.moveRefused,
      },
      {
        name: 'isthmus_neighbours_refused_total',
        help: 'Guest addresses not learned: a cap, or in use on another port.',
        type: 'counter',
        read: () => stack.neighbours.capped + stack.neighbours.moveRefused,
      },
      {
        name: 'isthmus_links_refused_total',
        help: 'VMs turned away because a link had too many.',
        type: 'counter',
        read: input.linksRefused,
      },
      {
        name: 'isthmus_slab_refused_total',
        help: 'Requests for packet memory refused because it was full.',
        type: 'counter',
        read: () => slab.refused,
      },
      {
        name: 'isthmus_control_events_lost_total',
        help: 'Events that a client of the control API did not get because it did not read.',
        type: 'counter',
        read: () => input.control.events.hub.lost,
      },
      {
        name: 'isthmus_control_capture_dropped_total',
        help: 'Frames that live captures lack because their reader was too slow.',
        type: 'counter',
        read: () => input.control.captureStats.dropped,
      },
      {
        name: 'isthmus_timer_wakeups_total',
        help: 'Times the deadline timer fired.',
        type: 'counter',
        read: input.wakeups,
      },
      {
        name: 'isthmus_dropped_total',
        help: 'Frames, packets and segments dropped, by reason.',
        type: 'counter',
        labels: ['reason'],
        read: () =>
          DROP_NAMES.slice(1).map((reason, i) => ({ labels: { reason }, value: stack.stats.drops.counts[i + 1] ?? 0 })),
      },
      ...counters('stack', 'Stack', stack.stats),
      ...counters('tcp', 'TCP', stack.stats.tcp),
      ...counters('tcp_host', 'Host sockets', input.tcp.stats),
      ...counters('tcp_published', 'Published TCP ports', input.tcpPublished),
      ...counters('udp', 'UDP flows', input.udp.stats),
      ...counters('udp_published', 'Published UDP ports', input.udpPublisher.stats),
      ...counters('dns', 'DNS', input.dns.stats),
      ...counters('dhcp', 'DHCP', input.dhcp.stats),
      ...counters('ntp', 'NTP', input.ntp.stats),
      ...counters('host', 'Host', input.host.stats),
      ...counters('ping', 'Pings to the outside', input.ping.stats),
      ...counters('proxy', 'Proxies', input.proxying.counts.stats),
      gauge('proxy_connections', "Guests' connections that proxies hold now.", () => input.proxying.live),
      labelled('proxy_routes', 'Connections made, by the way that they took.', 'route', () =>
        Object.entries(input.proxying.counts.routes.counts),
      ),
      labelled('proxy_refused', 'Flows and requests that got nowhere, by cause.', 'cause', () =>
        Object.entries(input.proxying.counts.refusals.counts),
      ),
      ...linkMetrics(input.links),
    ],
  };
}

/** Link counters are summed over links when asked for. */
function linkMetrics(totals: () => LinkCounters): StatsMetric[] {
  const names = Object.keys(totals()).filter(
    (key) => typeof (totals() as unknown as Record<string, unknown>)[key] === 'number',
  );
  return names.map((key) => ({
    name: `isthmus_link_${snake(key)}_total`,
    help: sentence('VM links', snake(key)),
    type: 'counter' as const,
    read: () => (totals() as unknown as Record<string, number>)[key] ?? 0,
  }));
}
