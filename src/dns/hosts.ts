// The hosts file (hosts(5)): text to data, forward and reverse. Reading and watching the file is the shell's.

import { type IpAddress, parseAddress } from '../ip/address.ts';

/** Names of one hosts file; keys are lower-case text without trailing dot, addresses their canonical text. */
export interface Hosts {
  readonly addresses: ReadonlyMap<string, readonly IpAddress[]>;
  /** Canonical names (the first of a line) by address, in the file's order. */
  readonly names: ReadonlyMap<string, readonly string[]>;
  /** Lines that are neither blank, comment nor entry, and names beyond the limit. */
  readonly skipped: number;
}

/** Block lists of 200,000 lines exist; a million is a mistake. */
const NAMES_MAX = 1_000_000;
const NAME_TEXT = /^(?=.{1,253}$)[^.\s\\]{1,63}(\.[^.\s\\]{1,63})*$/;

export const NO_HOSTS: Hosts = { addresses: new Map(), names: new Map(), skipped: 0 };

/** Reads a hosts file. Lines that make no sense are skipped and counted, as every libc does. */
export function parseHosts(text: string): Hosts {
  const addresses = new Map<string, IpAddress[]>();
  const names = new Map<string, string[]>();
  let skipped = 0;
  for (const line of text.split(/\r\n?|\n/)) {
    const comment = line.indexOf('#');
    const fields = (comment < 0 ? line : line.slice(0, comment)).split(/\s+/).filter((f) => f !== '');
    if (fields.length === 0) continue;
    // A scoped address (fe80::1%lo0) means nothing on the guest's side of the link.
    const address = parseAddress(fields[0]!);
    if (!address || fields.length < 2 || addresses.size >= NAMES_MAX) {
      skipped++;
      continue;
    }
    let canonical = true;
    for (const field of fields.slice(1)) {
      const name = field.toLowerCase().replace(/\.$/, '');
      if (!NAME_TEXT.test(name)) {
        skipped++;
        continue;
      }
      addTo(addresses, name, address, (a) => a.equals(address));
      if (canonical) addTo(names, address.toString(), name, (n) => n === name);
      canonical = false;
    }
  }
  return { addresses, names, skipped };
}

function addTo<T>(map: Map<string, T[]>, key: string, value: T, same: (v: T) => boolean): void {
  const list = map.get(key);
  if (!list) map.set(key, [value]);
  else if (!list.some(same)) list.push(value);
}
