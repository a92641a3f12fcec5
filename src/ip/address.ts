// IP addresses of both families as four int32 words; IPv4 is kept v4-mapped (::ffff:a.b.c.d), so that every key and every
// border carries both families, and the IPv4 fast path is one word (`v4`). Parsing is strict: no octal, no short forms.

/** An immutable IP address. Compare with `equals`, key maps with `toString()` off the packet path. */
export class IpAddress {
  readonly w0: number;
  readonly w1: number;
  readonly w2: number;
  readonly w3: number;

  constructor(w0: number, w1: number, w2: number, w3: number) {
    this.w0 = w0 | 0;
    this.w1 = w1 | 0;
    this.w2 = w2 | 0;
    this.w3 = w3 | 0;
  }

  /** @param v int32, network order: 192.168.65.1 is 0xc0a84101 | 0. */
  static v4(v: number): IpAddress {
    return new IpAddress(0, 0, 0xffff, v);
  }

  get isV4(): boolean {
    return this.w2 === 0xffff && this.w1 === 0 && this.w0 === 0;
  }

  /** The IPv4 address as int32; meaningful only if `isV4`. */
  get v4(): number {
    return this.w3;
  }

  get family(): 4 | 6 {
    return this.isV4 ? 4 : 6;
  }

  equals(o: IpAddress): boolean {
    return this.w3 === o.w3 && this.w2 === o.w2 && this.w1 === o.w1 && this.w0 === o.w0;
  }

  /** Canonical text: dotted quad, or RFC 5952. */
  toString(): string {
    return this.isV4 ? formatV4(this.w3) : formatV6(this);
  }
}

/** A power of two. */
const CACHED = 256;

/** IPv4 addresses as objects without making one for each packet. What was asked for lately is kept; one takes another's place. */
export class AddressCache {
  readonly #slots: (IpAddress | undefined)[] = new Array<IpAddress | undefined>(CACHED).fill(undefined);

  /** @param v int32. */
  v4(v: number): IpAddress {
    const at = Math.imul(v, 0x9e3779b1) >>> 24;
    const known = this.#slots[at];
    if (known !== undefined && known.w3 === v) return known;
    const made = IpAddress.v4(v);
    this.#slots[at] = made;
    return made;
  }
}

/** Dotted quad of an int32. */
export function formatV4(v: number): string {
  return `${v >>> 24}.${(v >>> 16) & 255}.${(v >>> 8) & 255}.${v & 255}`;
}

function formatV6(a: IpAddress): string {
  const groups: number[] = [];
  for (const w of [a.w0, a.w1, a.w2, a.w3]) groups.push(w >>> 16, w & 0xffff);
  // RFC 5952 4.2: the longest run of zero groups (two or more, first wins) becomes "::".
  let best = -1;
  let bestLen = 1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && groups[i + n] === 0) n++;
    if (n > bestLen) {
      best = i;
      bestLen = n;
    }
  }
  const hex = (from: number, to: number) =>
    groups
      .slice(from, to)
      .map((g) => g.toString(16))
      .join(':');
  return best < 0 ? hex(0, 8) : `${hex(0, best)}::${hex(best + bestLen, 8)}`;
}

/** Strict dotted quad to int32, or undefined. */
export function parseV4(text: string): number | undefined {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (!m) return undefined;
  let v = 0;
  for (let i = 1; i <= 4; i++) {
    const part = m[i]!;
    if (Number(part) > 255 || (part.length > 1 && part.startsWith('0'))) return undefined;
    v = (v << 8) | Number(part);
  }
  return v;
}

/** Either family, without brackets, zone or prefix length; undefined if it is not an address. */
export function parseAddress(text: string): IpAddress | undefined {
  if (!text.includes(':')) {
    const v = parseV4(text);
    return v === undefined ? undefined : IpAddress.v4(v);
  }
  let rest = text;
  const tail: number[] = [];
  const dot = rest.lastIndexOf(':');
  if (rest.includes('.')) {
    const v = parseV4(rest.slice(dot + 1));
    if (v === undefined) return undefined;
    tail.push(v >>> 16, v & 0xffff);
    rest = rest.slice(0, dot);
    if (rest.endsWith(':')) rest += ':';
  }
  const halves = rest.split('::');
  if (halves.length > 2) return undefined;
  const parse = (s: string): number[] | undefined => {
    if (s === '') return [];
    const out: number[] = [];
    for (const g of s.replace(/:$/, '').split(':')) {
      if (!/^[0-9a-fA-F]{1,4}$/.test(g)) return undefined;
      out.push(Number.parseInt(g, 16));
    }
    return out;
  };
  const a = parse(halves[0]!);
  const b = halves.length === 2 ? parse(halves[1]!) : [];
  if (!a || !b) return undefined;
  const low = [...b, ...tail];
  const given = a.length + low.length;
  if (halves.length === 2 ? given > 7 : given !== 8) return undefined;
  if (halves.length === 1 && rest.endsWith(':')) return undefined;
  const g = [...a, ...new Array<number>(8 - given).fill(0), ...low];
  const word = (i: number) => (g[i]! << 16) | g[i + 1]!;
  return new IpAddress(word(0), word(2), word(4), word(6));
}

/** An IPv4 network. */
export class Cidr4 {
  /** Network address, int32. */
  readonly network: number;
  readonly mask: number;
  readonly prefix: number;

  constructor(address: number, prefix: number) {
    this.prefix = prefix;
    this.mask = prefix === 0 ? 0 : (-1 << (32 - prefix)) | 0;
    this.network = (address & this.mask) | 0;
  }

  /** `a.b.c.d/n`; host bits may be set and are cut off. */
  static parse(text: string): Cidr4 | undefined {
    const m = /^([^/]+)\/(\d{1,2})$/.exec(text);
    const v = m ? parseV4(m[1]!) : undefined;
    if (!m || v === undefined || Number(m[2]) > 32) return undefined;
    return new Cidr4(v, Number(m[2]));
  }

  contains(v: number): boolean {
    return ((v & this.mask) | 0) === this.network;
  }

  get broadcast(): number {
    return this.network | ~this.mask;
  }

  toString(): string {
    return `${formatV4(this.network)}/${this.prefix}`;
  }
}

/** 127/8. */
export function isLoopbackV4(v: number): boolean {
  return v >>> 24 === 127;
}

/** 169.254/16. */
export function isLinkLocalV4(v: number): boolean {
  return v >>> 16 === 0xa9fe;
}

/** 224/4. */
export function isMulticastV4(v: number): boolean {
  return v >>> 28 === 14;
}

/** Never a valid unicast source or destination: 0/8, 127/8, 224/4, 240/4 (and so 255.255.255.255). */
export function isMartianV4(v: number): boolean {
  const a = v >>> 24;
  return a === 0 || a === 127 || a >= 224;
}
