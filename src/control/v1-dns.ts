// `/v1/dns`: names and zones that the gateway's DNS server answers itself. A change is seen by the next question of any guest, and
// outlives a restart.

import { ApiError } from './api-error.ts';
import { type AnyRoute, route } from './api-route.ts';
import type { ApiSource, DnsName, DnsZone } from './resources.ts';
import {
  type AddressQuery,
  addressQuery,
  type DnsNameBody,
  type DnsZoneBody,
  dnsNameBody,
  dnsNameRecord,
  dnsZone,
  dnsZoneBody,
  type NameParams,
  nameParams,
} from './schemas.ts';
import { dnsAnswer, nameAnswer, zoneAnswer } from './schemas-answers.ts';
import { explainRoute } from './v1-dns-explain.ts';

const ERRORS = {
  ERR_DNS_PATTERN: '400: a pattern is no RE2 expression',
  ERR_DNS_LIMIT: '429: too many names, zones or records',
} as const;
const ABSENT = { ERR_DNS_NOT_FOUND: '404: there is no such name or zone' } as const;

export function dnsRoutes(source: ApiSource): AnyRoute[] {
  const { dns } = source;
  return [
    route({
      method: 'get',
      path: '/dns',
      tag: 'dns',
      summary: 'Names, zones, upstream servers, and the order in which they are asked',
      answers: { 200: { description: 'All of it', schema: dnsAnswer } },
      run: () => ({ status: 200, body: dns.info() }),
    }),
    explainRoute(source),
    route<undefined, undefined, DnsName>({
      method: 'post',
      path: '/dns/names',
      tag: 'dns',
      summary: 'Adds addresses to a name, or makes it',
      body: dnsNameRecord,
      errors: ERRORS,
      answers: { 200: { description: 'The name as it is now', schema: nameAnswer } },
      run: async ({ body }) => ({ status: 200, body: await dns.addName(body) }),
    }),
    route<NameParams>({
      method: 'get',
      path: '/dns/names/:name',
      tag: 'dns',
      summary: 'One name',
      params: nameParams,
      errors: ABSENT,
      answers: { 200: { description: 'The name', schema: nameAnswer } },
      run: ({ params }) => ({ status: 200, body: dns.name(params.name) ?? absent('name', params.name) }),
    }),
    route<NameParams, undefined, DnsNameBody>({
      method: 'put',
      path: '/dns/names/:name',
      tag: 'dns',
      summary: 'Sets the addresses of a name',
      params: nameParams,
      body: dnsNameBody,
      errors: ERRORS,
      answers: {
        200: { description: 'Replaced', schema: nameAnswer },
        201: { description: 'Made', schema: nameAnswer },
      },
      run: async ({ params, body }) => {
        const { record, created } = await dns.putName({ name: params.name, ...body });
        return { status: created ? 201 : 200, body: record };
      },
    }),
    route<NameParams, AddressQuery>({
      method: 'delete',
      path: '/dns/names/:name',
      tag: 'dns',
      summary: 'Removes a name, or one address of it',
      params: nameParams,
      query: addressQuery,
      errors: ABSENT,
      answers: { 204: { description: 'It is gone' } },
      run: async ({ params, query }) => {
        if (!(await dns.removeName(params.name, query.address))) absent('name', params.name);
        return { status: 204 };
      },
    }),
    route<undefined, undefined, DnsZone>({
      method: 'post',
      path: '/dns/zones',
      tag: 'dns',
      summary: 'Adds records to a zone, before those that it has, or makes it',
      body: dnsZone,
      errors: ERRORS,
      answers: { 200: { description: 'The zone as it is now', schema: zoneAnswer } },
      run: async ({ body }) => ({ status: 200, body: await dns.addZone(body) }),
    }),
    route<NameParams>({
      method: 'get',
      path: '/dns/zones/:name',
      tag: 'dns',
      summary: 'One zone',
      params: nameParams,
      errors: ABSENT,
      answers: { 200: { description: 'The zone', schema: zoneAnswer } },
      run: ({ params }) => ({ status: 200, body: dns.zone(params.name) ?? absent('zone', params.name) }),
    }),
    route<NameParams, undefined, DnsZoneBody>({
      method: 'put',
      path: '/dns/zones/:name',
      tag: 'dns',
      summary: 'Makes a zone exactly this',
      params: nameParams,
      body: dnsZoneBody,
      errors: ERRORS,
      answers: {
        200: { description: 'Replaced', schema: zoneAnswer },
        201: { description: 'Made', schema: zoneAnswer },
      },
      run: async ({ params, body }) => {
        const { zone, created } = await dns.putZone({ name: params.name, ...body });
        return { status: created ? 201 : 200, body: zone };
      },
    }),
    route<NameParams>({
      method: 'delete',
      path: '/dns/zones/:name',
      tag: 'dns',
      summary: 'Removes a zone with its records',
      params: nameParams,
      errors: ABSENT,
      answers: { 204: { description: 'It is gone' } },
      run: async ({ params }) => {
        if (!(await dns.removeZone(params.name))) absent('zone', params.name);
        return { status: 204 };
      },
    }),
  ];
}

function absent(what: 'name' | 'zone', name: string): never {
  throw new ApiError(
    404,
    'ERR_DNS_NOT_FOUND',
    `there is no ${what} ${name} that the control API has added`,
    'path.name',
  );
}
