// `/v1/dns/explain`: why a name is answered as it is.

import * as v from 'valibot';
import { type AnyRoute, route, type Schema } from './api-route.ts';
import type { ApiSource, ExplainQuery } from './resources.ts';

const text = v.string();
const whole = v.pipe(v.number(), v.integer());

const explainQuery: Schema<ExplainQuery> = v.strictObject({
  name: v.pipe(
    text,
    v.minLength(1, 'is empty; expected a name, or an address for its reverse name'),
    v.maxLength(1024, 'is longer than a name can be'),
    v.description('A name, or an address for its reverse name'),
  ),
  type: v.optional(
    v.pipe(text, v.description('A record type, like AAAA or TYPE65; A if not given, PTR for an address')),
  ),
});

/** A rule of who is asked for which names; of the policy too. */
export const dnsRouteAnswer: Schema<unknown> = v.strictObject({
  domain: v.pipe(text, v.description('`.` for every name that no other rule is for')),
  from: text,
  servers: v.array(
    v.strictObject({
      server: text,
      order: whole,
      timeoutMs: v.nullable(whole),
      health: v.picklist(['healthy', 'suspect', 'unasked']),
      rttMs: v.nullable(v.number()),
      asked: whole,
      answered: whole,
    }),
  ),
  hostResolver: v.pipe(
    v.picklist(['alone', 'last', 'first']),
    v.description("When the host's own resolver is asked for addresses: without servers, if none answers, before them"),
  ),
  thorough: v.pipe(v.boolean(), v.description('"No such name" counts only when every server has said so')),
});

const explainAnswer: Schema<unknown> = v.strictObject({
  name: text,
  type: text,
  source: v.picklist(['localhost', 'zone', 'host-alias', 'gateway', 'guest', 'own-domain', 'hosts-file', 'upstream']),
  rule: v.pipe(text, v.description('In words')),
  answer: v.pipe(
    v.nullable(v.strictObject({ rcode: text, addresses: v.array(text), names: v.array(text), ttlSeconds: v.number() })),
    v.description('What guests are answered; null where servers are asked'),
  ),
  route: v.nullable(dnsRouteAnswer),
  asks: v.pipe(v.array(text), v.description('Whom a question without a cached answer goes to now, in order')),
  cached: v.array(
    v.strictObject({
      rcode: text,
      records: whole,
      ttlSeconds: whole,
      flags: v.pipe(v.array(text), v.description('What a question must have to get it: do, cd, ad, edns')),
    }),
  ),
});

export function explainRoute({ dns }: ApiSource): AnyRoute {
  return route<undefined, ExplainQuery>({
    method: 'get',
    path: '/dns/explain',
    tag: 'dns',
    summary: 'Why a name is answered as it is: what decides, what is answered or who is asked, what is cached',
    query: explainQuery,
    errors: { ERR_DNS_QUESTION: '400: the name or type is none' },
    answers: { 200: { description: 'The explanation', schema: explainAnswer } },
    run: ({ query }) => ({ status: 200, body: dns.explain(query) }),
  });
}
