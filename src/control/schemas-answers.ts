// The schemas of answers, for the OpenAPI document and for the tests, which hold every answer against its schema.

import * as v from 'valibot';
import type { Schema } from './api-route.ts';
import { forwardSpec } from './schemas.ts';
import { dnsRouteAnswer } from './v1-dns-explain.ts';

const counters = v.record(v.string(), v.number());
const text = v.string();
const whole = v.pipe(v.number(), v.integer());
const at = v.pipe(v.string(), v.isoTimestamp());

export const errorAnswer: Schema<unknown> = v.strictObject({
  error: v.strictObject({
    code: v.pipe(text, v.description('Stable; docs/control-api.md lists all')),
    message: text,
    key: v.optional(
      v.pipe(text, v.description('Path of what is to blame: listen.port, forwards[3].key, query.limit, path.id')),
    ),
  }),
});

export const forwardAnswer: Schema<unknown> = v.strictObject({
  id: text,
  key: text,
  spec: forwardSpec,
  origin: v.picklist(['config', 'api', 'state']),
  createdAt: at,
  state: v.picklist(['listening', 'failed']),
  bound: v.pipe(v.array(text), v.description('What is really bound; the chosen port where 0 was asked for')),
  error: v.optional(v.strictObject({ code: text, message: text })),
  counters: v.strictObject({
    connections: whole,
    active: whole,
    refused: whole,
    bytesToTarget: whole,
    bytesToClient: whole,
  }),
});

export const forwardList: Schema<unknown> = v.strictObject({ forwards: v.array(forwardAnswer) });

export const flowAnswer: Schema<unknown> = v.strictObject({
  id: text,
  protocol: v.picklist(['tcp', 'udp']),
  vm: v.nullable(whole),
  guest: text,
  remote: v.nullable(text),
  direction: v.picklist(['outbound', 'inbound']),
  state: text,
  ageSeconds: v.nullable(v.number()),
  idleSeconds: v.number(),
  bytesToHost: whole,
  bytesToGuest: whole,
  retransmits: whole,
});
export const flowPage: Schema<unknown> = v.strictObject({
  total: v.pipe(whole, v.description('All flows that the filter takes')),
  flows: v.array(flowAnswer),
});

export const vmAnswer: Schema<unknown> = v.strictObject({
  id: whole,
  link: text,
  macs: v.array(text),
  addresses: v.array(text),
  hostName: v.nullable(text),
  mtu: whole,
  connectedSeconds: v.number(),
  isolated: v.boolean(),
  counters: v.strictObject({
    framesFromGuest: whole,
    bytesFromGuest: whole,
    framesToGuest: whole,
    bytesToGuest: whole,
    refused: whole,
    tcpFlows: whole,
  }),
});
export const vmList: Schema<unknown> = v.strictObject({ vms: v.array(vmAnswer) });

export const leaseList: Schema<unknown> = v.strictObject({
  leases: v.array(
    v.strictObject({
      address: text,
      mac: text,
      client: text,
      hostName: v.nullable(text),
      state: v.picklist(['active', 'offered', 'expired']),
      fixed: v.boolean(),
      identity: v.boolean(),
      expiresInSeconds: v.nullable(v.number()),
      vm: v.nullable(whole),
    }),
  ),
});

const record = v.strictObject({
  name: v.optional(text),
  pattern: v.optional(text),
  addresses: v.array(text),
  ttl: v.optional(whole),
});
export const zoneAnswer: Schema<unknown> = v.strictObject({
  name: text,
  records: v.array(record),
  defaultAddress: v.optional(text),
});
export const nameAnswer: Schema<unknown> = v.strictObject({
  name: text,
  addresses: v.array(text),
  ttl: v.optional(whole),
});
export const dnsAnswer: Schema<unknown> = v.strictObject({
  names: v.array(nameAnswer),
  zones: v.array(zoneAnswer),
  servers: v.array(text),
  order: v.array(text),
});

export const proxyAnswer: Schema<unknown> = v.strictObject({
  origin: v.picklist(['none', 'option', 'file', 'system', 'api']),
  http: v.nullable(v.string()),
  https: v.nullable(v.string()),
  pac: v.nullable(v.string()),
  noProxy: v.array(v.string()),
  ports: v.array(v.number()),
  problem: v.nullable(v.string()),
});

export const policyAnswer: Schema<unknown> = v.strictObject({
  network: text,
  gateway: text,
  hostAlias: v.nullable(text),
  destinations: v.array(v.strictObject({ destination: text, action: text })),
  outbound: v.array(v.strictObject({ destination: text, address: text })),
  ping: text,
  dns: v.strictObject({
    order: v.array(text),
    servers: v.array(text),
    domain: text,
    routes: v.array(dnsRouteAnswer),
  }),
  proxy: proxyAnswer,
  allowBind: v.nullable(v.array(text)),
  limits: counters,
  apis: v.array(text),
  guestApi: v.nullable(text),
});

export const statsAnswer: Schema<unknown> = v.strictObject({
  version: text,
  pid: whole,
  uptimeSeconds: v.number(),
  memoryBytes: v.strictObject({ rss: whole, heapUsed: whole, external: whole }),
  metrics: v.array(
    v.strictObject({
      name: text,
      type: v.picklist(['counter', 'gauge']),
      labels: v.optional(v.record(text, text)),
      value: v.number(),
    }),
  ),
});

export const configAnswer: Schema<unknown> = v.strictObject({
  options: v.record(
    text,
    v.strictObject({
      value: v.nullable(v.union([text, v.array(text)])),
      source: v.picklist(['flag', 'env', 'file', 'default']),
      from: text,
    }),
  ),
});

export const stoppingAnswer: Schema<unknown> = v.strictObject({ status: v.picklist(['draining', 'stopping']) });
