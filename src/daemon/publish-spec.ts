// The grammar of `--publish`: our full form, and the short forms of `docker run -p`. One text gives one or, for a range, many
// ports. Text only; whether the guest's address lies in the network is config's question, whether the port is free the system's.
//
//   [tcp:|udp:]HOSTADDR:HOSTPORT:GUESTADDR:GUESTPORT        full
//   [HOSTADDR:][HOSTPORT:]GUESTPORT[/tcp|/udp]              as docker has it; no HOSTPORT: the system chooses one
//   HOSTPORT:GUESTADDR:GUESTPORT                            short, with the guest's address
//
// GUESTADDR may also be a VM's DHCP host name, or its MAC in brackets.

import type { ClientMode } from '../forwarder/forward-spec.ts';
import { IpAddress, parseAddress } from '../ip/address.ts';
import { nearest } from './nearest.ts';
import { formatEndpoint, GrammarError } from './value-grammar.ts';

/** One published port. */
export interface PublishSpec {
  readonly protocol: 'tcp' | 'udp';
  readonly hostAddress: IpAddress;
  /** 0: the system chooses a free one. */
  readonly hostPort: number;
  /** undefined: the only VM there is. */
  readonly guestAddress: IpAddress | undefined;
  /** The VM with this MAC or DHCP host name, instead of an address. */
  readonly guestName?: string;
  readonly guestPort: number;
  /** As whom its clients appear. */
  readonly client?: ClientMode;
  /** False: `[::]` takes IPv4 clients too. */
  readonly v6Only?: false;
}

interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** Most ports of one range: each is a listening socket. */
export const PUBLISH_RANGE_MAX = 4096;

const RIGHT =
  '[tcp:|udp:]HOSTADDR:HOSTPORT:GUESTADDR:GUESTPORT, or a form of docker -p like 8080:80 or 127.0.0.1:8080:80/udp';

/** @throws GrammarError that says which part is wrong. */
export function parsePublish(text: string): readonly PublishSpec[] {
  const { protocol, rest } = cutProtocol(text);
  const parts = splitParts(rest);
  const { hostAddress, hostPorts, guestAddress, guestPorts } = assign(parts);
  const guest = parseRange(guestPorts, 'guest port', 1);
  if (guest.last - guest.first >= PUBLISH_RANGE_MAX) {
    throw new GrammarError(
      `has a range of ${guest.last - guest.first + 1} ports`,
      `at most ${PUBLISH_RANGE_MAX} in one --publish`,
    );
  }
  const host = hostPorts === '' ? undefined : parseRange(hostPorts, 'host port', 0);
  if (host !== undefined && host.last - host.first !== guest.last - guest.first) {
    throw new GrammarError(
      `has ${count(host)} on the host and ${count(guest)} in the guest`,
      'ranges of equal length, like 8000-8010:80-90',
    );
  }
  if (host !== undefined && host.first === 0 && host.last > 0) {
    throw new GrammarError(`has port 0 in the host port range ${hostPorts}`, 'a range of ports from 1 to 65535');
  }
  const hostIp = hostAddress === '' ? IpAddress.v4(0) : parsePart(hostAddress, 'host address');
  const guestName = nameOf(guestAddress);
  const guestIp = guestAddress === '' || guestName !== undefined ? undefined : parsePart(guestAddress, 'guest address');
  const specs: PublishSpec[] = [];
  for (let i = 0; i <= guest.last - guest.first; i++) {
    specs.push({
      protocol,
      hostAddress: hostIp,
      hostPort: host === undefined ? 0 : host.first + i,
      guestAddress: guestIp,
      ...(guestName === undefined ? {} : { guestName }),
      guestPort: guest.first + i,
    });
  }
  return specs;
}

/** The full form, which `parsePublish` reads back. */
export function formatPublish(spec: PublishSpec): string {
  const { guestAddress, guestName, guestPort } = spec;
  const name = guestName?.includes(':') ? `[${guestName}]` : (guestName ?? '');
  const guest = guestAddress === undefined ? `${name}:${guestPort}` : formatEndpoint(guestAddress, guestPort);
  return `${spec.protocol}:${formatEndpoint(spec.hostAddress, spec.hostPort)}:${guest}`;
}

function cutProtocol(text: string): { protocol: 'tcp' | 'udp'; rest: string } {
  const prefix = /^([a-z]+):(.*)$/is.exec(text);
  // "localhost:8080:80" also starts with letters: that is told below as a wrong address.
  const named =
    prefix !== null && (isProtocol(prefix[1]!) || nearest(prefix[1]!, ['tcp', 'udp', 'sctp']) !== undefined);
  let rest = named ? prefix[2]! : text;
  const before = named ? checkProtocol(prefix[1]!) : undefined;
  const slash = rest.lastIndexOf('/');
  let after: 'tcp' | 'udp' | undefined;
  if (slash >= 0) {
    after = checkProtocol(rest.slice(slash + 1));
    rest = rest.slice(0, slash);
  }
  if (before !== undefined && after !== undefined && before !== after) {
    throw new GrammarError(`says ${before}: before and /${after} after`, 'one protocol, in one place');
  }
  return { protocol: before ?? after ?? 'tcp', rest };
}

function isProtocol(text: string): boolean {
  return text === 'tcp' || text === 'udp';
}

function checkProtocol(text: string): 'tcp' | 'udp' {
  const lower = text.toLowerCase();
  if (lower === 'tcp' || lower === 'udp') return lower;
  throw new GrammarError(`has the unknown protocol "${text}"`, 'tcp or udp');
}

/** Splits at colons outside brackets. */
function splitParts(text: string): string[] {
  const parts: string[] = [];
  let rest = text;
  for (;;) {
    const m = /^(\[[^\]]*\]|[^:[\]]*)(:|$)/s.exec(rest);
    if (m === null) throw new GrammarError(`has brackets in the wrong place at "${rest}"`, 'IPv6 like [::1]:8080:80');
    parts.push(m[1]!);
    if (m[2] === '') return parts;
    rest = rest.slice(m[0].length);
  }
}

function assign(parts: readonly string[]): Record<'hostAddress' | 'hostPorts' | 'guestAddress' | 'guestPorts', string> {
  const [a = '', b = '', c = '', d = ''] = parts;
  switch (parts.length) {
    case 1:
      return { hostAddress: '', hostPorts: '', guestAddress: '', guestPorts: a };
    case 2:
      if (isAddressLike(a)) {
        throw new GrammarError(
          `has no host port after the address ${a}`,
          `${a}:HOSTPORT:GUESTPORT, or ${a}::GUESTPORT for any free port`,
        );
      }
      if (a === '')
        throw new GrammarError('has no host port', 'HOSTPORT:GUESTPORT, or GUESTPORT alone for any free port');
      return { hostAddress: '', hostPorts: a, guestAddress: '', guestPorts: b };
    case 3:
      if (isPorts(a) && !isPorts(b) && b !== '')
        return { hostAddress: '', hostPorts: a, guestAddress: b, guestPorts: c };
      return { hostAddress: a, hostPorts: b, guestAddress: '', guestPorts: c };
    case 4:
      return { hostAddress: a, hostPorts: b, guestAddress: c, guestPorts: d };
    default:
      throw new GrammarError(`has ${parts.length} parts`, `${RIGHT}; IPv6 in brackets`);
  }
}

function isPorts(text: string): boolean {
  return /^\d+(-\d+)?$/.test(text);
}

/** The MAC (in brackets) or DHCP host name in the place of a guest's address, in lower case. */
function nameOf(text: string): string | undefined {
  const mac = /^\[((?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2})\]$/i.exec(text)?.[1];
  if (mac !== undefined) return mac.toLowerCase().replaceAll('-', ':');
  const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(text) && /[a-z]/i.test(text);
  return label && text !== 'localhost' ? text.toLowerCase() : undefined;
}

function isAddressLike(text: string): boolean {
  return text.startsWith('[') || text.includes('.');
}

function parsePart(text: string, what: string): IpAddress {
  const right = 'an IPv4 address, or an IPv6 address in brackets';
  if (text === 'localhost') throw new GrammarError(`has a name as its ${what}`, '127.0.0.1 or [::1]');
  const bare = /^\[(.*)\]$/s.exec(text)?.[1];
  const address = parseAddress(bare ?? text);
  if (address === undefined) throw new GrammarError(`has "${text}" as its ${what}`, right);
  return address;
}

function parseRange(text: string, what: string, least: 0 | 1): PortRange {
  const right = `a port from ${least} to 65535, or a range like 8000-8010`;
  if (text === '') throw new GrammarError(`has no ${what}`, RIGHT);
  const m = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(text);
  if (m === null) throw new GrammarError(`has "${text}" as its ${what}`, right);
  const first = Number(m[1]);
  const last = Number(m[2] ?? m[1]);
  if (first < least || first > 65535 || last > 65535) throw new GrammarError(`has ${what} ${text}`, right);
  if (last < first) throw new GrammarError(`has the ${what} range ${text}, which runs backwards`, `${last}-${first}`);
  return { first, last };
}

function count(range: PortRange): string {
  const n = range.last - range.first + 1;
  return n === 1 ? '1 port' : `${n} ports`;
}
