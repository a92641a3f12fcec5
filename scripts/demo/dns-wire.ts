// Builds DNS questions and reads answers for guests that have no resolver of their own to do it (TCP, in the VM).
// Uses dns-packet rather than src/dns, so that the demo and the tests judge our codec by another one.

import dnsPacket from 'dns-packet';
import type { GuestQuery } from './guest-driver.ts';

/** The question as a DNS message, without TCP's length. */
export function encodeQuery(query: GuestQuery, id: number): Buffer {
  return dnsPacket.encode({
    type: 'query',
    id,
    flags: dnsPacket.RECURSION_DESIRED,
    questions: [{ type: query.type, name: query.name }],
  });
}

/** The answers of a message as text. Throws on an error code, a wrong id or a truncated answer. */
export function decodeAnswers(message: Buffer, query: GuestQuery, id: number): string[] {
  const reply = dnsPacket.decode(message) as dnsPacket.DecodedPacket & { rcode?: string };
  if (reply.id !== id || reply.type !== 'response') throw new Error(`not the answer to question ${id}`);
  if (reply.rcode !== undefined && reply.rcode !== 'NOERROR') throw new Error(`${query.name}: ${reply.rcode}`);
  if (reply.flag_tc) throw new Error(`${query.name}: the answer is truncated`);
  const found: string[] = [];
  for (const answer of reply.answers ?? []) {
    if (answer.type !== query.type) continue;
    found.push(answer.type === 'TXT' ? [answer.data].flat().map(String).join('') : String(answer.data));
  }
  return found;
}
