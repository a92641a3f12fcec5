// Which destinations go past the proxy: NO_PROXY as curl, Go, VPNKit, Windows and macOS write it. It resolves nothing: a name is compared
// as a name, an address as an address.
//
//   example.com .example.com *.example.com   the domain and everything below it
//   host*.example.com 10.*                   any text for each *
//   10.0.0.0/8 2001:db8::/32 192.0.2.1       addresses and networks
//   ...:8443 [2001:db8::1]:443               only this port
//   <local>                                  names without a dot
//   *                                        everything

import { BlockList } from 'node:net';
import { Cidr4, type IpAddress, parseAddress, parseV4 } from '../ip/address.ts';
import { ProxyError } from './proxy-error.ts';

const ENTRIES_MAX = 4096;
const ENTRY_MAX_CHARS = 300;
/** More of them in one entry would let a long name be compared for seconds. */
const STARS_MAX = 3;

interface Entry {
  /** Undefined: any. */
  readonly port: number | undefined;
  readonly fits: (name: string | undefined, address: IpAddress | undefined) => boolean;
}

export class BypassList {
  /** As written. */
  readonly texts: readonly string[];
  readonly #entries: readonly Entry[];

  private constructor(texts: readonly string[], entries: readonly Entry[]) {
    this.texts = texts;
    this.#entries = entries;
  }

  static readonly EMPTY: BypassList = new BypassList([], []);

  /** @param list entries, or a text of them with commas or spaces between. @throws ProxyError ERR_PROXY_EXCLUDE */
  static parse(list: string | readonly string[], key?: string): BypassList {
    const texts = BypassList.#split(list);
    if (texts.length > ENTRIES_MAX)
      throw new ProxyError('ERR_PROXY_EXCLUDE', `the list has ${texts.length} entries`, `${ENTRIES_MAX} at most`, key);
    return new BypassList(
      texts,
      texts.map((text) => parseEntry(text, key)),
    );
  }

  /** A list that was written for other programs, which pass over what they do not know: so does this. @returns what was passed over, too. */
  static parseKnown(list: string | readonly string[]): {
    readonly list: BypassList;
    readonly unknown: readonly string[];
  } {
    const unknown: string[] = [];
    const known = BypassList.#split(list)
      .slice(0, ENTRIES_MAX)
      .filter((text) => {
        try {
          parseEntry(text, undefined);
          return true;
        } catch {
          unknown.push(text.slice(0, 80));
          return false;
        }
      });
    return { list: BypassList.parse(known), unknown };
  }

  static #split(list: string | readonly string[]): string[] {
    return [list].flat().flatMap((part) => part.split(/[\s,;]+/).filter((text) => text !== ''));
  }

  /** @param name lower case, without a dot at its end; undefined where only the address is known, and the other way round. */
  includes(name: string | undefined, address: IpAddress | undefined, port: number): boolean {
    for (const entry of this.#entries) {
      if ((entry.port === undefined || entry.port === port) && entry.fits(name, address)) return true;
    }
    return false;
  }
}

function parseEntry(text: string, key: string | undefined): Entry {
  const wrong = (): ProxyError => {
    const shown = text.length > 80 ? `${text.slice(0, 80)}...` : text;
    return new ProxyError(
      'ERR_PROXY_EXCLUDE',
      `"${shown}" is no destination`,
      'a domain, an address, a network like 10.0.0.0/8, each with or without :PORT, or *',
      key,
    );
  };
  if (text.length > ENTRY_MAX_CHARS) throw wrong();
  if (text === '*') return { port: undefined, fits: () => true };
  if (text === '<local>') return { port: undefined, fits: (name) => name !== undefined && !name.includes('.') };
  const { host, port } = splitPort(text);
  if (port !== undefined && (port < 1 || port > 65_535)) throw wrong();
  const slash = host.indexOf('/');
  if (slash >= 0) {
    const fits = networkTest(host.slice(0, slash), host.slice(slash + 1));
    if (fits === undefined) throw wrong();
    return { port, fits: (_name, address) => address !== undefined && fits(address) };
  }
  const address = parseAddress(host);
  if (address !== undefined) return { port, fits: (_name, other) => other?.equals(address) ?? false };
  // Every way to write "and below" is the same.
  const domain = host
    .replace(/^\*?\./, '')
    .replace(/\.$/, '')
    .toLowerCase();
  if (!/^[\p{L}\p{N}_*.-]+$/u.test(domain)) throw wrong();
  if (domain.includes('*')) {
    if (domain.split('*').length > STARS_MAX + 1) throw wrong();
    const pattern = new RegExp(`^${domain.split('*').map(escaped).join('.*')}$`);
    return { port, fits: (name, other) => pattern.test(name ?? other?.toString() ?? '') };
  }
  const below = `.${domain}`;
  return { port, fits: (name) => name !== undefined && (name === domain || name.endsWith(below)) };
}

/** `host:port`, `[v6]:port`, `[v6]`; an IPv6 address without brackets has no port. */
function splitPort(text: string): { host: string; port: number | undefined } {
  const bracketed = /^\[([^\]]*)\](?::(\d{1,5}))?$/.exec(text);
  const plain = /^([^:]*):(\d{1,5})$/.exec(text);
  const [, host = text, port] = bracketed ?? plain ?? [];
  return { host, port: port === undefined ? undefined : Number(port) };
}

function networkTest(base: string, prefixText: string): ((address: IpAddress) => boolean) | undefined {
  if (!/^\d{1,3}$/.test(prefixText)) return undefined;
  const prefix = Number(prefixText);
  const v4 = parseV4(base);
  if (v4 !== undefined) {
    if (prefix > 32) return undefined;
    const network = new Cidr4(v4, prefix);
    return (address) => address.isV4 && network.contains(address.v4);
  }
  if (parseAddress(base) === undefined || prefix > 128) return undefined;
  const list = new BlockList();
  list.addSubnet(base, prefix, 'ipv6');
  return (address) => !address.isV4 && list.check(address.toString(), 'ipv6');
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\-]/g, '\\$&');
}
