// The schemas of requests: what the routes take, and through openapi.ts what the document says of it. Objects are strict: an unknown field
// is an error with its path. Answers are described in schemas-answers.ts.

import { isIP, isIPv4 } from 'node:net';
import * as v from 'valibot';
import type { ForwardLease, ForwardListen, ForwardSpec, ForwardTarget } from '../forwarder/forward-spec.ts';
import type { Schema } from './api-route.ts';
import { EVENT_TYPES } from './event-hub.ts';
import type { DnsName, DnsRecord, DnsZone, FlowFilter } from './resources.ts';

/** Forwards in one bulk replace. */
export const FORWARDS_MAX = 10_000;
const TEXT_MAX = 256;
const PATH_MAX = 4096;

const text = v.pipe(
  v.string(),
  v.minLength(1, 'is empty'),
  v.maxLength(TEXT_MAX, `has more than ${TEXT_MAX} characters`),
);
const path = v.pipe(
  v.string(),
  v.minLength(1, 'is empty; expected a path'),
  v.maxLength(PATH_MAX, `has more than ${PATH_MAX} characters`),
  v.check((s) => !s.includes('\0'), 'has a zero byte in it'),
);

function whole(min: number, max: number): v.GenericSchema<unknown, number> {
  const wrong = `expected a whole number from ${min} to ${max}`;
  return v.pipe(v.number(), v.integer(wrong), v.minValue(min, wrong), v.maxValue(max, wrong));
}

const port = v.pipe(whole(1, 65_535), v.description('1 to 65535'));
const anyPort = v.pipe(whole(0, 65_535), v.description('0 to 65535; 0 lets the system choose'));
const count = v.pipe(whole(1, 65_535), v.description('Ports in a row; the target runs along. 1 if not given'));
const address = v.pipe(
  v.string(),
  v.check((s) => isIP(s) !== 0, 'expected an IP address, like 127.0.0.1 or ::1, without brackets'),
  v.metadata({ examples: ['127.0.0.1'] }),
);
const address4 = v.pipe(
  v.string(),
  v.check((s) => isIPv4(s), 'expected an IPv4 address, like 192.168.65.1'),
  v.metadata({ examples: ['192.168.65.1'] }),
);
const vsockStyle = v.picklist(['connect', 'hyperkit']);
const vsockPort = whole(0, 0xffff_ffff);

const listen: Schema<ForwardListen> = v.variant('kind', [
  v.strictObject({
    kind: v.picklist(['tcp', 'udp']),
    address,
    port: anyPort,
    count: v.exactOptional(count),
    v6Only: v.exactOptional(v.pipe(v.boolean(), v.description('false: `::` takes IPv4 clients too'))),
  }),
  v.strictObject({ kind: v.literal('unix'), path }),
  v.strictObject({ kind: v.literal('fd'), name: text, protocol: v.picklist(['tcp', 'udp']) }),
  v.strictObject({ kind: v.literal('guest'), address: address4, port, count: v.exactOptional(count) }),
  v.strictObject({
    kind: v.literal('vsock'),
    path,
    port: vsockPort,
    style: v.exactOptional(vsockStyle),
  }),
]);

const target: Schema<ForwardTarget> = v.variant('kind', [
  v.strictObject({
    kind: v.literal('guest'),
    guest: v.exactOptional(v.pipe(text, v.description('Address, MAC or host name; the only VM if not given'))),
    port,
  }),
  v.strictObject({
    kind: v.literal('vsock'),
    path,
    port: vsockPort,
    style: v.exactOptional(vsockStyle),
    cid: v.exactOptional(whole(0, 0xffff_ffff)),
  }),
  v.strictObject({ kind: v.literal('tcp'), address, port }),
  v.strictObject({ kind: v.literal('unix'), path }),
]);

const lease: Schema<ForwardLease> = v.union([
  v.picklist(['permanent', 'connection']),
  v.strictObject({
    until: v.pipe(v.string(), v.isoTimestamp('expected a time like 2027-01-31T12:00:00Z')),
  }),
]);

const labels = v.pipe(
  v.record(text, v.pipe(v.string(), v.maxLength(TEXT_MAX, `has more than ${TEXT_MAX} characters`))),
  v.maxEntries(32, 'has more than 32 labels'),
);

/** A forward as it is asked for. */
export const forwardSpec: Schema<ForwardSpec> = v.strictObject({
  key: v.exactOptional(
    v.pipe(text, v.description('For idempotency; by default what listens, like tcp:127.0.0.1:8080')),
  ),
  listen,
  target,
  client: v.exactOptional(
    v.pipe(
      v.picklist(['transparent', 'gateway', 'proxy-protocol-v1', 'proxy-protocol-v2']),
      v.description('Whom the guest sees; transparent if not given'),
    ),
  ),
  lease: v.exactOptional(v.pipe(lease, v.description('permanent if not given'))),
  owner: v.exactOptional(text),
  labels: v.exactOptional(labels),
});

/** A bulk replace. */
export interface ForwardBulk {
  readonly owner?: string | undefined;
  readonly forwards: readonly ForwardSpec[];
}
export const forwardBulk: Schema<ForwardBulk> = v.strictObject({
  owner: v.optional(
    v.pipe(text, v.description("Replace only this owner's forwards; all that the API made if not given")),
  ),
  forwards: v.pipe(v.array(forwardSpec), v.maxLength(FORWARDS_MAX, `has more than ${FORWARDS_MAX} forwards`)),
});

// --- Queries: everything is text there.

function number(min: number, max: number): v.GenericSchema<unknown, number> {
  const wrong = `expected a whole number from ${min} to ${max}`;
  return v.pipe(
    v.string(),
    v.regex(/^\d{1,15}$/, wrong),
    v.transform(Number),
    v.minValue(min, wrong),
    v.maxValue(max, wrong),
  );
}

const yesNo: Schema<boolean> = v.pipe(
  v.picklist(['true', 'false'], 'expected true or false'),
  v.transform((s) => s === 'true'),
);

/** Flows on one page at most. */
export const FLOW_PAGE_MAX = 2000;

export const flowQuery: Schema<FlowFilter> = v.strictObject({
  vm: v.optional(number(1, Number.MAX_SAFE_INTEGER)),
  protocol: v.optional(v.picklist(['tcp', 'udp'])),
  guest: v.optional(v.pipe(text, v.description('ADDRESS or ADDRESS:PORT'))),
  remote: v.optional(v.pipe(text, v.description('ADDRESS or ADDRESS:PORT'))),
  state: v.optional(v.pipe(text, v.toUpperCase(), v.description('A TCP state, like ESTABLISHED; or OPEN'))),
  offset: v.optional(number(0, 1_000_000), '0'),
  limit: v.optional(number(1, FLOW_PAGE_MAX), '500'),
});

export interface CloseQuery {
  readonly close: boolean;
}
export const closeQuery: Schema<CloseQuery> = v.strictObject({
  close: v.optional(v.pipe(yesNo, v.description('End its connections too')), 'false'),
});

export interface ReplaceQuery {
  readonly replace: boolean;
}
export const replaceQuery: Schema<ReplaceQuery> = v.strictObject({
  replace: v.optional(v.pipe(yesNo, v.description('Take the place of the forward with this key')), 'false'),
});

export interface ForwardQuery {
  readonly owner?: string | undefined;
  readonly label?: string | undefined;
  readonly state?: 'listening' | 'failed' | undefined;
}
export const forwardQuery: Schema<ForwardQuery> = v.strictObject({
  owner: v.optional(text),
  label: v.optional(v.pipe(text, v.description('NAME or NAME=VALUE'))),
  state: v.optional(v.picklist(['listening', 'failed'])),
});

/** A type, or its first part. */
function isEventType(text: string): boolean {
  return Object.keys(EVENT_TYPES).some((type) => type === text || type.startsWith(`${text}.`));
}

export interface EventQuery {
  readonly types?: readonly string[] | undefined;
}
export const eventQuery: Schema<EventQuery> = v.strictObject({
  types: v.optional(
    v.pipe(
      v.string(),
      v.regex(
        /^[a-z]+(\.[a-z]+)?(,[a-z]+(\.[a-z]+)?)*$/,
        'expected types or their first parts, like vm,forward.failed',
      ),
      v.transform((s) => s.split(',')),
      // A misspelt one would be a stream that says nothing for ever.
      v.check((types) => types.every(isEventType), `expected types out of ${Object.keys(EVENT_TYPES).join(', ')}`),
    ),
  ),
});

export interface CaptureQuery {
  readonly vm?: number | undefined;
  readonly snap: number;
}
export const captureQuery: Schema<CaptureQuery> = v.strictObject({
  vm: v.optional(number(1, Number.MAX_SAFE_INTEGER)),
  snap: v.optional(v.pipe(number(64, 262_144), v.description('Bytes kept of each frame')), '262144'),
});

// --- Parts of paths.

export interface IdParams {
  readonly id: string;
}
export const idParams: Schema<IdParams> = v.strictObject({ id: v.pipe(v.string(), v.maxLength(PATH_MAX)) });

export interface VmParams {
  readonly id: number;
}
export const vmParams: Schema<VmParams> = v.strictObject({ id: number(1, Number.MAX_SAFE_INTEGER) });

export interface AddressParams {
  readonly address: string;
}
export const addressParams: Schema<AddressParams> = v.strictObject({ address: address4 });

// --- VMs.

export interface VmPatch {
  readonly isolated: boolean;
}
export const vmPatch: Schema<VmPatch> = v.strictObject({
  isolated: v.pipe(v.boolean(), v.description('Its frames reach no other VM')),
});

// --- DNS.

const DNS_NAME = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

/** A DNS name, lower case and without its final dot. */
export const dnsName: Schema<string> = v.pipe(
  v.string(),
  v.transform((s) => s.toLowerCase().replace(/\.$/, '')),
  v.regex(DNS_NAME, 'expected a DNS name, like web.example'),
);

const ttl = v.pipe(whole(0, 604_800), v.description('Seconds that guests may keep it; 1 if not given'));
const addresses = v.pipe(v.array(address), v.minLength(1, 'is empty'), v.maxLength(64, 'has more than 64 addresses'));

const dnsRecord: Schema<DnsRecord> = v.pipe(
  v.strictObject({
    name: v.optional(
      v.union([v.literal('@'), dnsName], 'expected the part left of the zone, like www, or @ for the zone itself'),
    ),
    pattern: v.optional(v.pipe(text, v.description('RE2 expression for the part left of the zone'))),
    addresses,
    ttl: v.optional(ttl),
  }),
  v.check((r) => (r.name === undefined) !== (r.pattern === undefined), 'expected either name or pattern'),
);

const records = v.pipe(v.array(dnsRecord), v.maxLength(1024, 'has more than 1024 records'));

export const dnsZone: Schema<DnsZone> = v.strictObject({
  name: dnsName,
  records: v.optional(records, []),
  defaultAddress: v.optional(v.pipe(address, v.description('For every other name of the zone'))),
});

export type DnsZoneBody = Omit<DnsZone, 'name'>;
export const dnsZoneBody: Schema<DnsZoneBody> = v.strictObject({
  records: v.optional(records, []),
  defaultAddress: v.optional(address),
});

export const dnsNameRecord: Schema<DnsName> = v.strictObject({ name: dnsName, addresses, ttl: v.optional(ttl) });

export type DnsNameBody = Omit<DnsName, 'name'>;
export const dnsNameBody: Schema<DnsNameBody> = v.strictObject({ addresses, ttl: v.optional(ttl) });

export interface NameParams {
  readonly name: string;
}
export const nameParams: Schema<NameParams> = v.strictObject({ name: dnsName });

export interface AddressQuery {
  readonly address?: string | undefined;
}
export const addressQuery: Schema<AddressQuery> = v.strictObject({
  address: v.optional(v.pipe(address, v.description('Only this address of it'))),
});

// --- The daemon.

export interface DrainBody {
  readonly timeoutSeconds: number;
}
export const drainBody: Schema<DrainBody> = v.strictObject({
  timeoutSeconds: v.optional(v.pipe(whole(0, 86_400), v.description('The daemon ends after this at the latest')), 60),
});
