// Why a frame, packet or segment was dropped: closed set, counted by index, printed by name. Drops never throw.

export const Drop = {
  None: 0,
  LinkRunt: 1,
  LinkTxFull: 2,
  EthBadSource: 3,
  EthUnknownDestination: 4,
  EthUnknownType: 5,
  EthMacTableFull: 6,
  ArpMalformed: 7,
  ArpUnresolved: 8,
  Ip4Malformed: 9,
  Ip4BadChecksum: 10,
  Ip4Martian: 11,
  Ip4TtlZero: 12,
  Ip4BadOption: 13,
  Ip4UnknownProtocol: 14,
  Ip4WrongGuest: 15,
  Ip6Unsupported: 16,
  FragMalformed: 17,
  FragOverlap: 18,
  FragLimit: 19,
  FragTimeout: 20,
  IcmpMalformed: 21,
  IcmpBadChecksum: 22,
  IcmpUnhandled: 23,
  IcmpRateLimited: 24,
  UdpMalformed: 25,
  UdpBadChecksum: 26,
  UdpPortZero: 27,
  UdpNotRelayed: 28,
  UdpNoService: 29,
  UdpTooBig: 30,
  TcpMalformed: 31,
  TcpBadChecksum: 32,
  TcpMartian: 33,
  TcpPortZero: 34,
  TcpBadFlags: 35,
  TcpNoFlow: 36,
  TcpSynLimit: 37,
  TcpFlowLimit: 38,
  TcpWrongVm: 39,
  DhcpMalformed: 40,
  DhcpIgnored: 41,
  NtpMalformed: 42,
  Ip4NoRoute: 43,
  EthMacTaken: 44,
  LinkTooBig: 45,
  EthIsolated: 46,
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
