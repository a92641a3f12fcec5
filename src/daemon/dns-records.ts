// The `dns` resource: names and zones that the control API adds. It keeps them in the table that guests' questions are held against,
// stores them, and compiles patterns with RE2, which takes time linear in the name that a guest asks for. Loaded when the API is.

import { ApiError } from '../control/api-error.ts';
import { shown } from '../control/api-route.ts';
import type {
  DnsExplanation,
  DnsInfo,
  DnsName,
  DnsRecord,
  DnsSource,
  DnsZone,
  ExplainQuery,
} from '../control/resources.ts';
import { RECORD_TYPES, recordType } from '../dns/explain.ts';
import { reverseName } from '../dns/reverse.ts';
import { type Matcher, ZONE_NAMES_MAX, ZONE_RECORDS_MAX, ZONES_MAX, type Zones } from '../dns/zones.ts';
import { parseAddress } from '../ip/address.ts';

/** Plain JSON values by key, kept over restarts. */
export interface DnsStore {
  entries(): Iterable<readonly [string, unknown]>;
  /** @throws the system's error when it cannot be stored. */
  set(key: string, value: unknown): void;
  delete(key: string): void;
}

export interface DnsRecordsOptions {
  readonly zones: Zones;
  /** undefined: nothing outlives the process. */
  readonly store: DnsStore | undefined;
  /** undefined: the name is none. @param type a number. */
  readonly explain: (name: string, type: number) => DnsExplanation | undefined;
  /** Upstream servers in order. */
  readonly servers: () => readonly string[];
  /** Who is asked for a name, in order. */
  readonly order: readonly string[];
  /** The change that was made, for events. */
  readonly onChange: (what: { readonly name?: string; readonly zone?: string }) => void;
  /** One line about a stored record that cannot be used. */
  readonly report: (message: string) => void;
}

export class DnsRecords implements DnsSource {
  readonly #options: DnsRecordsOptions;
  readonly #zones: Zones;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: DnsRecordsOptions) {
    this.#options = options;
    this.#zones = options.zones;
  }

  /** Takes in what is stored; before readiness is told. Never rejects. */
  async restore(): Promise<void> {
    for (const [key, value] of this.#options.store?.entries() ?? []) {
      try {
        const record = await this.#checked(key, value);
        if ('records' in record) this.#zones.setZone(record, await matchersOf(record.records));
        else this.#zones.setName(record);
      } catch (error) {
        this.#options.report(`DNS ${key} of the state file is not restored: ${(error as Error).message}`);
      }
    }
  }

  info(): DnsInfo {
    const { servers, order } = this.#options;
    return { names: this.#zones.names, zones: this.#zones.zones, servers: servers(), order };
  }

  explain({ name, type }: ExplainQuery): DnsExplanation {
    const address = parseAddress(name);
    const text = type ?? (address === undefined ? 'A' : 'PTR');
    const number = recordType(text);
    if (number === undefined)
      throw new ApiError(
        400,
        'ERR_DNS_QUESTION',
        `"${shown(text)}" is no record type; expected one of ${Object.keys(RECORD_TYPES).join(', ')}, or TYPE and a number`,
        'query.type',
      );
    const asked = address !== undefined && number === RECORD_TYPES.PTR ? reverseName(address) : name;
    const explanation = this.#options.explain(asked, number);
    if (explanation !== undefined) return explanation;
    const right = 'expected labels of 1 to 63 bytes, 255 in all';
    throw new ApiError(400, 'ERR_DNS_QUESTION', `"${shown(name)}" is no domain name; ${right}`, 'query.name');
  }

  zone(name: string): DnsZone | undefined {
    return this.#zones.zone(name);
  }

  name(name: string): DnsName | undefined {
    return this.#zones.name(name);
  }

  addZone(zone: DnsZone): Promise<DnsZone> {
    return this.#change(async () => {
      const old = this.#zones.zone(zone.name);
      const added = new Set(zone.records.map((r) => JSON.stringify(keyed(r))));
      // One that is added again is not kept twice.
      const kept = (old?.records ?? []).filter((r) => !added.has(JSON.stringify(keyed(r))));
      const defaultAddress = zone.defaultAddress ?? old?.defaultAddress;
      const whole = { name: zone.name, records: [...zone.records, ...kept] };
      return this.#storeZone(defaultAddress === undefined ? whole : { ...whole, defaultAddress });
    });
  }

  putZone(zone: DnsZone): Promise<{ zone: DnsZone; created: boolean }> {
    return this.#change(async () => {
      const created = this.#zones.zone(zone.name) === undefined;
      return { zone: await this.#storeZone(zone), created };
    });
  }

  removeZone(name: string): Promise<boolean> {
    return this.#change(async () => {
      if (this.#zones.zone(name) === undefined) return false;
      this.#options.store?.delete(`zone:${name}`);
      this.#zones.deleteZone(name);
      this.#options.onChange({ zone: name });
      return true;
    });
  }

  addName(record: DnsName): Promise<DnsName> {
    return this.#change(async () => {
      const old = this.#zones.name(record.name);
      const addresses = [...new Set([...(old?.addresses ?? []), ...record.addresses])];
      const ttl = record.ttl ?? old?.ttl;
      const whole = { name: record.name, addresses };
      return this.#storeName(ttl === undefined ? whole : { ...whole, ttl });
    });
  }

  putName(record: DnsName): Promise<{ record: DnsName; created: boolean }> {
    return this.#change(async () => {
      const created = this.#zones.name(record.name) === undefined;
      return { record: this.#storeName(record), created };
    });
  }

  removeName(name: string, address?: string): Promise<boolean> {
    return this.#change(async () => {
      const old = this.#zones.name(name);
      if (old === undefined || (address !== undefined && !old.addresses.includes(address))) return false;
      const left = address === undefined ? [] : old.addresses.filter((a) => a !== address);
      if (left.length > 0) {
        this.#storeName({ ...old, addresses: left });
        return true;
      }
      this.#options.store?.delete(`name:${name}`);
      this.#zones.deleteName(name);
      this.#options.onChange({ name });
      return true;
    });
  }

  /** Changes come one after the other: adding reads what is there. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }

  async #storeZone(given: DnsZone): Promise<DnsZone> {
    const zone = { ...given, records: given.records.map(keyed) };
    if (zone.records.length > ZONE_RECORDS_MAX)
      throw new ApiError(429, 'ERR_DNS_LIMIT', `a zone has at most ${ZONE_RECORDS_MAX} records`, 'records');
    if (this.#zones.zone(zone.name) === undefined && this.#zones.zones.length >= ZONES_MAX)
      throw new ApiError(429, 'ERR_DNS_LIMIT', `there are ${ZONES_MAX} zones, the most there may be`);
    const matchers = await matchersOf(zone.records);
    this.#keep(`zone:${zone.name}`, zone);
    this.#zones.setZone(zone, matchers);
    this.#options.onChange({ zone: zone.name });
    return zone;
  }

  #storeName(record: DnsName): DnsName {
    if (record.addresses.length > 64)
      throw new ApiError(429, 'ERR_DNS_LIMIT', 'a name has at most 64 addresses', 'addresses');
    if (this.#zones.name(record.name) === undefined && this.#zones.names.length >= ZONE_NAMES_MAX)
      throw new ApiError(429, 'ERR_DNS_LIMIT', `there are ${ZONE_NAMES_MAX} names, the most there may be`);
    this.#keep(`name:${record.name}`, record);
    this.#zones.setName(record);
    this.#options.onChange({ name: record.name });
    return record;
  }

  #keep(key: string, value: unknown): void {
    try {
      this.#options.store?.set(key, value);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new ApiError(500, 'ERR_STATE', `it cannot be stored, so it would not outlive a restart: ${why}`);
    }
  }

  /** A stored value, held against the schema of requests again: the file may be of another hand. */
  async #checked(key: string, value: unknown): Promise<DnsZone | DnsName> {
    const { check } = await import('../control/api-route.ts');
    const { dnsNameRecord, dnsZone } = await import('../control/schemas.ts');
    return key.startsWith('zone:') ? check(dnsZone, value, '') : check(dnsNameRecord, value, '');
  }
}

/** Members in one order and without absent ones, for comparing and storing. */
function keyed({ name, pattern, addresses, ttl }: DnsRecord): DnsRecord {
  return {
    ...(name === undefined ? {} : { name }),
    ...(pattern === undefined ? {} : { pattern }),
    addresses,
    ...(ttl === undefined ? {} : { ttl }),
  };
}

/** One matcher for each record with a pattern. @throws ApiError ERR_DNS_PATTERN */
async function matchersOf(records: readonly DnsRecord[]): Promise<Matcher[]> {
  if (records.every((r) => r.pattern === undefined)) return [];
  const { RE2JS } = await import('re2js');
  const matchers: Matcher[] = [];
  records.forEach(({ pattern }, i) => {
    if (pattern === undefined) return;
    try {
      const compiled = RE2JS.compile(pattern);
      matchers.push((text) => compiled.matcher(text).find());
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new ApiError(
        400,
        'ERR_DNS_PATTERN',
        `pattern is no RE2 expression: ${shown(why)}`,
        `records[${i}].pattern`,
      );
    }
  });
  return matchers;
}
