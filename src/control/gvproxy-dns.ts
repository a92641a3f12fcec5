// gvproxy's `/services/dns/*`: zones as its JSON has them, on the zones of this daemon's `dns` resource. The zones that are built in are
// listed as gvproxy lists its own.

import { isIP } from 'node:net';
import { check } from './api-route.ts';
import { field, GoError, goKind } from './go-http.ts';
import type { ApiSource, DnsRecord, DnsZone } from './resources.ts';
import { dnsZone } from './schemas.ts';

/** gvproxy's own zones. */
const BUILT_IN = ['containers.internal', 'docker.internal'];

interface GvproxyRecord {
  readonly Name: string;
  readonly IP: string;
  readonly Regexp?: string;
}

/** A zone of `/services/dns/all`; keys are Go's, which has no tags there. */
export interface GvproxyZone {
  readonly Name: string;
  readonly Records: readonly GvproxyRecord[] | null;
  readonly DefaultIP: string;
}

export function allZones(source: ApiSource): GvproxyZone[] {
  const added = new Map(source.dns.info().zones.map((zone) => [zone.name, zone]));
  const { address, hostAlias } = source.gateway;
  const builtIn = BUILT_IN.map((name) => {
    const own = added.get(name);
    added.delete(name);
    const records = [
      ...recordsOf(own),
      { Name: 'gateway', IP: address },
      ...(hostAlias === null ? [] : [{ Name: 'host', IP: hostAlias }]),
    ];
    return { Name: `${name}.`, Records: records, DefaultIP: own?.defaultAddress ?? '' };
  });
  const others = [...added.values()].map((zone) => {
    const records = recordsOf(zone);
    return {
      Name: `${zone.name}.`,
      Records: records.length === 0 ? null : records,
      DefaultIP: zone.defaultAddress ?? '',
    };
  });
  return [...builtIn, ...others];
}

function recordsOf(zone: DnsZone | undefined): GvproxyRecord[] {
  return (zone?.records ?? []).flatMap((r) =>
    r.addresses.map((IP) =>
      r.pattern === undefined
        ? { Name: r.name === '@' ? '' : (r.name ?? ''), IP }
        : { Name: '', IP, Regexp: r.pattern },
    ),
  );
}

/** @throws GoError 400 */
export async function addZone(source: ApiSource, body: Readonly<Record<string, unknown>>): Promise<void> {
  const name = field(body, 'Name', 'Zone').toLowerCase().replace(/\.$/, '');
  if (!/^(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/.test(name))
    throw new GoError(400, `invalid zone name: ${name}`);
  const records = listOf(body, 'Records')
    .map(recordOf)
    .filter((r) => r !== undefined);
  const defaultIp = ipOf(field(body, 'DefaultIP', 'Zone'));
  const zone = { name, records, ...(defaultIp === '' ? {} : { defaultAddress: defaultIp }) };
  // By the same rules as a zone of /v1: it is stored, and read again by them.
  await source.dns.addZone(check(dnsZone, zone, ''));
}

function listOf(body: Readonly<Record<string, unknown>>, name: string): readonly unknown[] {
  let found: readonly unknown[] = [];
  for (const [key, value] of Object.entries(body)) {
    if (key.toLowerCase() !== name.toLowerCase() || value === null) continue;
    if (!Array.isArray(value))
      throw new GoError(
        400,
        `json: cannot unmarshal ${goKind(value)} into Go struct field Zone.${name} of type []types.Record`,
      );
    found = value;
  }
  return found;
}

/** A record without an address answers nothing, and is left out. */
function recordOf(value: unknown): DnsRecord | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new GoError(
      400,
      `json: cannot unmarshal ${goKind(value)} into Go struct field Zone.Records of type types.Record`,
    );
  const record = value as Record<string, unknown>;
  const name = field(record, 'Name', 'Record').toLowerCase();
  const pattern = field(record, 'Regexp', 'Record');
  const ip = ipOf(field(record, 'IP', 'Record'));
  if (ip === '') return undefined;
  if (pattern !== '') return { pattern, addresses: [ip] };
  return { name: name === '' ? '@' : name.replace(/\.$/, ''), addresses: [ip] };
}

function ipOf(text: string): string {
  if (text !== '' && isIP(text) === 0) throw new GoError(400, `invalid IP address: ${text}`);
  return text;
}
