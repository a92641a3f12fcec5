// Names and zones that the operator adds while the daemon runs: plain names, and zones that answer for all below them. It decides only
// what is known of a name; where that stands among the other sources is local-names'. Patterns are compiled by whoever hands them in.
//
// A zone's records are in order, and the first that fits answers. The most specific zone answers for a name. The zone's own name is
// asked upstream unless a record `@` has it.

import { type IpAddress, parseAddress } from '../ip/address.ts';
import type { LocalAnswer, LocalZones } from './local-names.ts';
import { CHANGING_TTL_SEC, Source } from './local-names.ts';

/** A record: a label path left of the zone (`@`: the zone itself) or a pattern for it, and addresses in text. */
export interface ZoneRecord {
  readonly name?: string | undefined;
  readonly pattern?: string | undefined;
  readonly addresses: readonly string[];
  readonly ttl?: number | undefined;
}

export interface Zone {
  /** Lower case, without the final dot. */
  readonly name: string;
  readonly records: readonly ZoneRecord[];
  readonly defaultAddress?: string | undefined;
}

/** A name outside of any zone. */
export interface ZoneName {
  readonly name: string;
  readonly addresses: readonly string[];
  readonly ttl?: number | undefined;
}

/** Says whether a text has what the pattern describes. Must take time linear in the text: guests choose it. */
export type Matcher = (text: string) => boolean;

interface Compiled {
  readonly zone: Zone;
  readonly records: readonly {
    readonly name: string | undefined;
    readonly matches: Matcher | undefined;
    readonly answer: LocalAnswer;
  }[];
  readonly fallback: LocalAnswer;
}

export const ZONES_MAX = 256;
export const ZONE_NAMES_MAX = 4096;
export const ZONE_RECORDS_MAX = 1024;

export class Zones implements LocalZones {
  /** Changes whenever an answer may have changed. */
  version = 0;
  readonly #zones = new Map<string, Compiled>();
  readonly #names = new Map<string, { readonly record: ZoneName; readonly answer: LocalAnswer }>();
  /** Names by address, for reverse questions; made when first asked after a change. */
  #reverse: Map<string, string[]> | undefined;

  get zones(): readonly Zone[] {
    return [...this.#zones.values()].map((c) => c.zone);
  }

  get names(): readonly ZoneName[] {
    return [...this.#names.values()].map((n) => n.record);
  }

  zone(name: string): Zone | undefined {
    return this.#zones.get(name)?.zone;
  }

  name(name: string): ZoneName | undefined {
    return this.#names.get(name)?.record;
  }

  /** Makes or replaces a zone, which keeps its place. @param matchers one for each record with a pattern, in order. */
  setZone(zone: Zone, matchers: readonly Matcher[]): void {
    let next = 0;
    const records = zone.records.map((r) => ({
      name: r.pattern === undefined ? (r.name ?? '@').toLowerCase() : undefined,
      matches: r.pattern === undefined ? undefined : matchers[next++],
      answer: answerOf(r.addresses, r.ttl),
    }));
    const fallback = zone.defaultAddress === undefined ? MISSING : answerOf([zone.defaultAddress], undefined);
    this.#zones.set(zone.name, { zone, records, fallback });
    this.#changed();
  }

  deleteZone(name: string): boolean {
    const there = this.#zones.delete(name);
    if (there) this.#changed();
    return there;
  }

  setName(record: ZoneName): void {
    this.#names.set(record.name, { record, answer: answerOf(record.addresses, record.ttl) });
    this.#changed();
  }

  deleteName(name: string): boolean {
    const there = this.#names.delete(name);
    if (there) this.#changed();
    return there;
  }

  /** What a record says of a name; undefined where none does. @param name lower case, without the final dot. */
  lookup(name: string): LocalAnswer | undefined {
    const own = this.#names.get(name);
    if (own !== undefined) return own.answer;
    if (this.#zones.size === 0) return undefined;
    const apex = this.#zones.get(name)?.records.find((r) => r.name === '@');
    if (apex !== undefined) return apex.answer;
    const zone = this.#zoneOf(name);
    if (zone === undefined) return undefined;
    const left = name.slice(0, name.length - zone.zone.name.length - 1);
    return zone.records.find((r) => (r.matches === undefined ? r.name === left : r.matches(left)))?.answer;
  }

  /** What a zone says of a name below it that nothing else knows. */
  fallback(name: string): LocalAnswer | undefined {
    return this.#zones.size === 0 ? undefined : this.#zoneOf(name)?.fallback;
  }

  /** Which name, record or default answers for a name, in words. @param name as of `lookup`, or a reverse name. */
  ruleOf(name: string): string {
    if (this.#names.has(name)) return `the name ${name}`;
    const apex = this.#zones.get(name);
    const zone = apex?.records.some((r) => r.name === '@') === true ? apex : this.#zoneOf(name);
    if (zone === undefined) return 'names and records, backwards';
    const left = zone === apex ? '@' : name.slice(0, name.length - zone.zone.name.length - 1);
    const at = zone.records.findIndex((r) => (r.matches === undefined ? r.name === left : r.matches(left)));
    const record = zone.zone.records[at];
    const which =
      record === undefined
        ? zone.zone.defaultAddress === undefined
          ? 'nothing of it fits'
          : 'its default address'
        : record.pattern === undefined
          ? `record ${at + 1}`
          : `record ${at + 1}, pattern ${record.pattern}`;
    return `the zone ${zone.zone.name}: ${which}`;
  }

  namesOf(address: IpAddress): readonly string[] {
    if (this.#zones.size === 0 && this.#names.size === 0) return NO_NAMES;
    this.#reverse ??= this.#makeReverse();
    return this.#reverse.get(address.toString()) ?? NO_NAMES;
  }

  /** The most specific zone that a name lies below. */
  #zoneOf(name: string): Compiled | undefined {
    for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
      const found = this.#zones.get(name.slice(dot + 1));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #makeReverse(): Map<string, string[]> {
    const out = new Map<string, string[]>();
    const add = (name: string, addresses: readonly IpAddress[]): void => {
      for (const a of addresses) {
        const names = out.get(a.toString());
        if (names === undefined) out.set(a.toString(), [name]);
        // A reverse question wants a name, not a list of hundreds.
        else if (names.length < 8) names.push(name);
      }
    };
    for (const { record, answer } of this.#names.values()) add(record.name, answer.addresses);
    for (const { zone, records } of this.#zones.values()) {
      for (const { name, answer } of records) {
        if (name !== undefined) add(name === '@' ? zone.name : `${name}.${zone.name}`, answer.addresses);
      }
    }
    return out;
  }

  #changed(): void {
    this.version++;
    this.#reverse = undefined;
  }
}

const NO_NAMES: readonly string[] = [];
const MISSING: LocalAnswer = { source: Source.Zone, addresses: [], names: [], ttlSec: CHANGING_TTL_SEC, exists: false };

function answerOf(texts: readonly string[], ttlSec: number | undefined): LocalAnswer {
  const addresses = texts.map(parseAddress).filter((a) => a !== undefined);
  return { source: Source.Zone, addresses, names: [], ttlSec: ttlSec ?? CHANGING_TTL_SEC, exists: true };
}
