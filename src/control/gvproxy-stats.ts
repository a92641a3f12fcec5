// gvproxy's `/stats`: gVisor's tree of counters, filled with ours where they count the same. What has no counterpart is left out rather
// than shown as 0.

import type { ApiSource } from './resources.ts';

export function gvproxyStats(source: ApiSource): Record<string, unknown> {
  const values = new Map<string, number>();
  for (const { name, value, labels } of source.stats()) {
    const key = labels?.reason === undefined ? name : `${name}{${labels.reason}}`;
    values.set(key, (values.get(key) ?? 0) + value);
    if (labels !== undefined) values.set(name, (values.get(name) ?? 0) + value);
  }
  const of = (name: string): number => values.get(`isthmus_${name}`) ?? 0;
  return {
    BytesReceived: of('stack_bytes_from_guest_total'),
    BytesSent: of('stack_bytes_to_guest_total'),
    DroppedPackets: of('dropped_total'),
    ARP: { RequestsReceived: of('stack_arp_replies_total'), OutgoingRepliesSent: of('stack_arp_replies_total') },
    NICs: {
      Rx: { Packets: of('stack_frames_from_guest_total'), Bytes: of('stack_bytes_from_guest_total') },
      Tx: { Packets: of('stack_frames_to_guest_total'), Bytes: of('stack_bytes_to_guest_total') },
    },
    TCP: {
      ActiveConnectionOpenings: of('tcp_active_opens_total'),
      PassiveConnectionOpenings: of('tcp_passive_opens_total'),
      CurrentConnected: of('tcp_flows'),
      ForwardMaxInFlightDrop: of('dropped_total{TcpSynLimit}') + of('dropped_total{TcpFlowLimit}'),
      Retransmits: of('tcp_retransmits_total'),
      ChecksumErrors: of('dropped_total{TcpBadChecksum}'),
      ResetsSent: of('tcp_resets_to_guest_total'),
    },
    UDP: {
      PacketsReceived: of('udp_datagrams_to_host_total'),
      PacketsSent: of('udp_datagrams_to_guest_total'),
      ReceiveBufferErrors: of('udp_to_host_dropped_total'),
      ChecksumErrors: of('dropped_total{UdpBadChecksum}'),
    },
  };
}
