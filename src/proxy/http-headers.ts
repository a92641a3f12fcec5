// Header fields on their way through an HTTP proxy: which belong to one connection only and stay behind (RFC 9110 7.6.1), how the others
// are handed on, and the Via field (7.6.3) by which a loop is seen.

import type { IncomingMessage } from 'node:http';

/** Of one connection, whether `Connection` says so or not. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
]);
/** Never dropped because `Connection` names it: requests would be taken apart at another place than they were put together. */
const END_TO_END = new Set(['host', 'content-length', 'via', 'trailer']);

/** Name and value, alternating, as node:http has raw headers. */
export type RawHeaders = readonly string[];

/** The fields that go on, in their order and spelling. */
export function endToEnd(raw: RawHeaders): string[] {
  const named = new Set<string>();
  for (let i = 0; i + 1 < raw.length; i += 2) {
    if (raw[i]!.toLowerCase() !== 'connection') continue;
    for (const token of raw[i + 1]!.split(',')) named.add(token.trim().toLowerCase());
  }
  const out: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase();
    if (HOP_BY_HOP.has(name) || (named.has(name) && !END_TO_END.has(name))) continue;
    out.push(raw[i]!, raw[i + 1]!);
  }
  return out;
}

/** Fields of the same name together, as `http.request` wants them. */
export function grouped(flat: RawHeaders): Record<string, string | string[]> {
  const byName = new Map<string, { name: string; values: string[] }>();
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const key = flat[i]!.toLowerCase();
    const known = byName.get(key);
    if (known === undefined) byName.set(key, { name: flat[i]!, values: [flat[i + 1]!] });
    else known.values.push(flat[i + 1]!);
  }
  return Object.fromEntries(
    [...byName.values()].map(({ name, values }) => [name, values.length === 1 ? values[0]! : values]),
  );
}

/** Every value of a field, by its name in lower case. */
export function valuesOf(raw: RawHeaders, name: string): string[] {
  const out: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) if (raw[i]!.toLowerCase() === name) out.push(raw[i + 1]!);
  return out;
}

/** Whether a request has been through the proxy of this pseudonym. */
export function hasPassed({ rawHeaders }: IncomingMessage, pseudonym: string): boolean {
  return valuesOf(rawHeaders, 'via').some((value) =>
    value.split(',').some((entry) => entry.trim().split(/\s+/)[1] === pseudonym),
  );
}

/** The protocol that a request wants to change to, as far as it is handed on. HTTP/2 in clear is not: requests are read one by one. */
export function upgradeOf({ headers }: IncomingMessage): string | undefined {
  const { upgrade, connection = '' } = headers;
  if (upgrade === undefined || /^h2c?$/i.test(upgrade.trim())) return undefined;
  return /(^|,)\s*upgrade\s*(,|$)/i.test(connection) ? upgrade : undefined;
}
