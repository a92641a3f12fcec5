// Why a frame, packet or segment was dropped: closed set, counted by index, printed by name. Drops never throw.

export const Drop = {
  None: 0,
  LinkRunt: 1,
  LinkOverlong: 2,
  LinkTxFull: 3,
  EthBadSource: 4,
  EthUnknownDestination: 5,
  EthUnknownType: 6,
  EthMacTableFull: 7,
  EthIsolated: 8,
  ArpMalformed: 9,
  ArpUnresolved: 10,
  Ip4Malformed: 11,
  Ip4BadChecksum: 12,
  Ip4Martian: 13,
  Ip4TtlZero: 14,
  Ip4BadOption: 15,
  Ip4UnknownProtocol: 16,
  Ip4WrongGuest: 17,
  Ip6Unsupported: 18,
  FragMalformed: 19,
  FragOverlap: 20,
  FragLimit: 21,
  FragTimeout: 22,
  IcmpMalformed: 23,
  IcmpBadChecksum: 24,
  IcmpUnhandled: 25,
  IcmpRateLimited: 26,
  UdpMalformed: 27,
  UdpBadChecksum: 28,
  UdpPortZero: 29,
  UdpNotRelayed: 30,
  UdpNoService: 31,
  UdpFlowLimit: 32,
  UdpTooBig: 33,
  UdpHostError: 34,
  TcpMalformed: 35,
  TcpBadChecksum: 36,
  TcpMartian: 37,
  TcpPortZero: 38,
  TcpBadFlags: 39,
  TcpNoFlow: 40,
  TcpSynLimit: 41,
  TcpFlowLimit: 42,
  TcpWrongVm: 43,
  TcpNoMemory: 44,
  DhcpMalformed: 45,
  DhcpIgnored: 46,
  NtpMalformed: 47,
  DnsMalformed: 48,
  DnsLimit: 49,
  Ip4NoRoute: 50,
  EthMacTaken: 51,
  LinkTooBig: 52,
} as const;

export type Drop = (typeof Drop)[keyof typeof Drop];

/** Names by code, for status and metrics, e.g. `TcpBadChecksum`. */
export const DROP_NAMES: readonly string[] = Object.entries(Drop)
  .sort((a, b) => a[1] - b[1])
  .map(([name]) => name);

/** One counter a drop code. */
export class DropCounters {
  readonly counts: Float64Array = new Float64Array(DROP_NAMES.length);

  add(code: Drop): void {
    this.counts[code]!++;
  }

  get(code: Drop): number {
    return this.counts[code]!;
  }
}
