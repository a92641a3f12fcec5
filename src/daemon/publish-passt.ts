// passt's grammar of `-t` and `-u`, as `--publish` takes it: `tcp-ports=SPEC`, `udp-ports=SPEC`, or with passt's own dashes. Text only.
//
//   none | [ADDRESS/]ITEM[,ITEM...]      ITEM: PORT[-PORT][:PORT[-PORT]] or ~PORT[-PORT], which leaves ports out again
//
// What passt binds to an interface (%eth0) cannot be had here, and "all" would be a socket for each port there is: both are refused.

import { IpAddress } from '../ip/address.ts';
import { PUBLISH_RANGE_MAX, type PublishSpec } from './publish-spec.ts';
import { GrammarError, parseIp } from './value-grammar.ts';

const RIGHT = '[ADDRESS/]PORT[-PORT][:PORT[-PORT]],... with ~PORT[-PORT] to leave some out, or none';

/** The protocol and the rest, if the text is in this grammar. */
export function cutPasst(text: string): { protocol: 'tcp' | 'udp'; rest: string } | undefined {
  const m = /^(?:-t|-u|(?:--)?(tcp|udp)-ports)(?:[ =]\s*|(?<=-[tu]))(.*)$/s.exec(text);
  if (m === null) return undefined;
  return { protocol: (m[1] ?? (text.startsWith('-t') ? 'tcp' : 'udp')) as 'tcp' | 'udp', rest: m[2]!.trim() };
}

/** @throws GrammarError that says which part is wrong. */
export function parsePasst(protocol: 'tcp' | 'udp', text: string): readonly PublishSpec[] {
  if (text === 'none') return [];
  const slash = text.indexOf('/');
  const hostAddress = slash < 0 ? IpAddress.v4(0) : parseAddress(text.slice(0, slash));
  const items = text.slice(slash + 1).split(',');
  if (items.some((item) => item === 'all' || item === 'auto') || items.every((item) => item.startsWith('~'))) {
    throw new GrammarError('means every port there is', 'the ports that are wanted: each is a listening socket');
  }
  const excluded = new Set<number>();
  const wanted = new Map<number, number>();
  for (const item of items) {
    if (item.startsWith('~')) {
      const { first, last } = parseRange(item.slice(1), item);
      for (let port = first; port <= last; port++) excluded.add(port);
      continue;
    }
    const [from = '', to, more] = item.split(':');
    if (more !== undefined) throw new GrammarError(`has "${item}" in it`, RIGHT);
    const host = parseRange(from, item);
    const guest = to === undefined ? host : parseRange(to, item);
    if (guest.last - guest.first !== host.last - host.first)
      throw new GrammarError(`has ranges of different length in "${item}"`, 'ranges of equal length, like 22-80:32-90');
    for (let port = host.first; port <= host.last; port++) {
      if (wanted.has(port)) throw new GrammarError(`names port ${port} twice`, 'each port once');
      wanted.set(port, guest.first + port - host.first);
    }
  }
  for (const port of excluded) wanted.delete(port);
  if (wanted.size > PUBLISH_RANGE_MAX)
    throw new GrammarError(`has ${wanted.size} ports`, `at most ${PUBLISH_RANGE_MAX} in one --publish`);
  return [...wanted].map(([hostPort, guestPort]) => ({
    protocol,
    hostAddress,
    hostPort,
    guestAddress: undefined,
    guestPort,
  }));
}

function parseAddress(text: string): IpAddress {
  if (text.includes('%')) {
    throw new GrammarError(
      `is for the interface "${text.slice(text.indexOf('%') + 1)}"`,
      'the address of that interface: a socket cannot be bound to an interface here',
    );
  }
  return parseIp(text);
}

function parseRange(text: string, item: string): { first: number; last: number } {
  const m = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(text);
  if (m === null) throw new GrammarError(`has "${item}" in it`, RIGHT);
  const first = Number(m[1]);
  const last = Number(m[2] ?? m[1]);
  if (first < 1 || last > 65535) throw new GrammarError(`has "${item}" in it`, 'ports from 1 to 65535');
  if (last < first) throw new GrammarError(`has "${item}" in it, which runs backwards`, `${last}-${first}`);
  return { first, last };
}
