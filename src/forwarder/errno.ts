// What a guest is told when a host socket fails: one table from errno names to TCP refusals and ICMP codes.
// It decides nothing else; whoever got the error acts on it.

import { RefuseReason } from '../stack/ports.ts';

/** No ICMP message fits: the datagram is dropped and counted. */
export const NO_ICMP = -1;

/** ICMP destination unreachable codes (RFC 792, RFC 1191, RFC 1812 5.2.7.1) as `DatagramSender.sendUnreachable` takes them. */
export const UNREACHABLE = { Net: 0, Host: 1, Port: 3, FragNeeded: 4, Prohibited: 13 } as const;

interface Answer {
  readonly tcp: RefuseReason;
  readonly udp: number;
}

const refused = (udp: number): Answer => ({ tcp: RefuseReason.Refused, udp });
const host: Answer = { tcp: RefuseReason.HostUnreachable, udp: UNREACHABLE.Host };
const net: Answer = { tcp: RefuseReason.NetUnreachable, udp: UNREACHABLE.Net };
const prohibited: Answer = { tcp: RefuseReason.Prohibited, udp: UNREACHABLE.Prohibited };

const ANSWERS: Readonly<Record<string, Answer>> = {
  ECONNREFUSED: refused(UNREACHABLE.Port),
  ECONNRESET: refused(UNREACHABLE.Port),
  ETIMEDOUT: host,
  EHOSTUNREACH: host,
  EHOSTDOWN: host,
  ENETUNREACH: net,
  ENETDOWN: net,
  EADDRNOTAVAIL: net,
  // A "blackhole" route of Linux, as far as an address and port that can be dialled may have this error at all.
  EINVAL: net,
  EACCES: prohibited,
  EPERM: prohibited,
  EMSGSIZE: refused(UNREACHABLE.FragNeeded),
  // Our own shortage. TCP: refused at once beats a guest that waits; UDP: dropped, as on any full queue.
  EMFILE: refused(NO_ICMP),
  ENFILE: refused(NO_ICMP),
  ENOBUFS: refused(NO_ICMP),
  ENOMEM: refused(NO_ICMP),
};

/** The errno name of anything thrown or emitted; '' if it has none. */
export function errnoOf(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : '';
}

/** How a TCP flow whose dial failed is refused. Unknown errors are refusals. */
export function refuseReasonOf(errno: string): RefuseReason {
  return ANSWERS[errno]?.tcp ?? RefuseReason.Refused;
}

/** The ICMP unreachable code for a datagram that the host did not deliver, or NO_ICMP. */
export function unreachableCodeOf(errno: string): number {
  return ANSWERS[errno]?.udp ?? NO_ICMP;
}

/** The ICMP unreachable code that says the same as a refusal of a flow. */
export function unreachableCodeOfReason(reason: RefuseReason): number {
  switch (reason) {
    case RefuseReason.Refused:
      return UNREACHABLE.Port;
    case RefuseReason.NetUnreachable:
      return UNREACHABLE.Net;
    case RefuseReason.HostUnreachable:
      return UNREACHABLE.Host;
    case RefuseReason.Prohibited:
      return UNREACHABLE.Prohibited;
  }
}

/** The route or the source address of a connected socket may have gone (a VPN came or went): a new socket may do better. */
export function isStaleRoute(errno: string): boolean {
  return (
    errno === 'ENETUNREACH' ||
    errno === 'EHOSTUNREACH' ||
    errno === 'ENETDOWN' ||
    errno === 'EADDRNOTAVAIL' ||
    errno === 'EINVAL' ||
    errno === 'ENODEV' ||
    errno === 'ENXIO'
  );
}

// RFC 1191 section 7, without sizes that no IPv4 link has today.
const PLATEAUS = [32000, 17914, 9216, 8166, 4352, 2002, 1500, 1492, 1280, 1006, 576];

/** The MTU to name when a packet of `totalBytes` was too big and nobody says what would fit: the next plateau below. */
export function plateauBelow(totalBytes: number): number {
  for (const mtu of PLATEAUS) if (mtu < totalBytes) return mtu;
  return 576;
}
