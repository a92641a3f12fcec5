// `isthmus dns explain NAME`: an explanation of the daemon as text for people.

import type { DnsExplanation, DnsRoute } from '../control/resources.ts';
import { ageText, plain } from './client-output.ts';

const INDENT = 12;

/** Several lines; names come from guests and files, so what could move the cursor is shown. */
export function explanationText(e: DnsExplanation): string {
  const lines: [string, string][] = [];
  lines.push(['decided by', `${e.source}: ${e.rule}`]);
  if (e.answer !== null) {
    const data = [...e.answer.addresses, ...e.answer.names];
    const nothing = e.answer.rcode === 'NOERROR' ? 'nothing of this type (NODATA)' : 'no such name';
    lines.push(['answer', `${e.answer.rcode}, ${data.length === 0 ? nothing : data.join(' ')}`]);
    lines.push(['ttl', `${e.answer.ttlSeconds}s`]);
  }
  if (e.route !== null) lines.push(...routeLines(e.route));
  if (e.source === 'upstream') {
    lines.push(['asks', e.asks.length === 0 ? 'nobody: SERVFAIL' : e.asks.join(', then ')]);
    if (e.cached.length === 0) lines.push(['cached', 'no']);
    for (const { rcode, records, ttlSeconds, flags } of e.cached) {
      const with_ = flags.length === 0 ? '' : ` for questions with ${flags.join(', ')}`;
      lines.push([
        'cached',
        `${rcode}, ${records} ${records === 1 ? 'record' : 'records'}, ${ttlSeconds}s left${with_}`,
      ]);
    }
  }
  const body = lines.map(([head, text]) => `${head.padEnd(INDENT)}${plain(text)}\n`);
  return `${plain(e.name)} ${e.type}\n${body.join('')}`;
}

function routeLines({ domain, from, servers, hostResolver, thorough }: DnsRoute): [string, string][] {
  const lines: [string, string][] = [
    ['rule', `${domain === '.' ? 'all other names' : domain}, from ${from === '' ? 'nowhere' : from}`],
  ];
  for (const s of servers) {
    const facts = [
      s.health,
      ...(s.rttMs === null ? [] : [`${s.rttMs} ms`]),
      `${s.answered} of ${s.asked} answered`,
      ...(s.order === 0 ? [] : [`order ${s.order}`]),
      ...(s.timeoutMs === null ? [] : [`waited for ${ageText(s.timeoutMs / 1000)}`]),
    ];
    lines.push(['server', `${s.server} (${facts.join(', ')})`]);
  }
  if (hostResolver === 'last') lines.push(['', "the host's own resolver, for addresses, if none answers"]);
  if (hostResolver === 'first') lines.push(['', "the host's own resolver first, for addresses"]);
  if (thorough) lines.push(['', '"no such name" counts when every server has said so']);
  return lines;
}
