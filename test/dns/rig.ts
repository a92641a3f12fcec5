// What the DNS tests share: dns-packet as the oracle, a seeded random source, a transport that records, a guest that collects.

import * as packet from 'dns-packet';
import type { Random } from '../../src/base/random.ts';
import { LocalNames } from '../../src/dns/local-names.ts';
import type { Attempt, Lookup } from '../../src/dns/lookup.ts';
import { parseServer, type ServerAddress } from '../../src/dns/resolv-conf.ts';
import type { ResolverTransport } from '../../src/dns/resolver-options.ts';
import { type Asker, Responder } from '../../src/dns/responder.ts';
import { Zones } from '../../src/dns/zones.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';

export class SeededRandom implements Random {
  #s: number;
  constructor(seed = 1) {
    this.#s = seed | 0;
  }
  i32(): number {
    this.#s = (this.#s + 0x6d2b79f5) | 0;
    let x = Math.imul(this.#s ^ (this.#s >>> 15), this.#s | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) | 0;
  }
}

export function ip(text: string): IpAddress {
  const a = parseAddress(text);
  if (!a) throw new Error(text);
  return a;
}

export function server(text: string): ServerAddress {
  const s = parseServer(text);
  if (!s) throw new Error(text);
  return s;
}

export interface QueryOptions {
  id?: number;
  flags?: number;
  klass?: string;
  edns?: { size?: number; dnssec?: boolean; options?: { code: number; data: Buffer }[] };
}

/** A query as a guest sends it, written by dns-packet. */
export function query(name: string, type: string, o: QueryOptions = {}): Buffer {
  return packet.encode({
    type: 'query',
    id: o.id ?? 0x1234,
    flags: o.flags ?? packet.RECURSION_DESIRED,
    questions: [{ name, type: type as 'A', class: (o.klass ?? 'IN') as 'IN' }],
    additionals: o.edns
      ? [
          {
            type: 'OPT',
            name: '.',
            udpPayloadSize: o.edns.size ?? 1232,
            extendedRcode: 0,
            ednsVersion: 0,
            flags: o.edns.dnssec ? packet.DNSSEC_OK : 0,
            flag_do: o.edns.dnssec ?? false,
            options: (o.edns.options ?? []) as never[],
          },
        ]
      : [],
  });
}

/** A response to `q` with these sections. */
export function response(q: Uint8Array, sections: Partial<packet.Packet>, flags = 0): Buffer {
  const asked = packet.decode(Buffer.from(q));
  return packet.encode({
    type: 'response',
    id: asked.id ?? 0,
    flags: packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE | flags,
    questions: asked.questions ?? [],
    ...sections,
  });
}

export const SOA: packet.Answer = {
  type: 'SOA',
  name: 'example',
  ttl: 900,
  data: {
    mname: 'ns.example',
    rname: 'root.example',
    serial: 1,
    refresh: 1,
    retry: 1,
    expire: 1,
    minimum: 60,
  },
};

export class Transport implements ResolverTransport {
  readonly sent: Attempt[] = [];
  readonly cancelled: Attempt[] = [];
  readonly hostLookups: { lookup: Lookup; name: string }[] = [];
  hostAvailable = true;

  send(a: Attempt): void {
    a.channel = this;
    this.sent.push(a);
  }
  cancel(a: Attempt): void {
    this.cancelled.push(a);
  }
  lookupHost(lookup: Lookup, name: string): boolean {
    if (!this.hostAvailable) return false;
    this.hostLookups.push({ lookup, name });
    return true;
  }
  get last(): Attempt {
    const a = this.sent.at(-1);
    if (!a) throw new Error('nothing was sent');
    return a;
  }
}

export class Guest implements Asker {
  client = 1;
  tcp = false;
  linkLimitBytes = 1232;
  readonly raw: Buffer[] = [];
  hold(): Asker {
    return this;
  }
  deliver(buf: Uint8Array, off: number, len: number): void {
    this.raw.push(Buffer.from(buf.slice(off, off + len)));
  }
  get last(): packet.DecodedPacket {
    const b = this.raw.at(-1);
    if (!b) throw new Error('no answer');
    return packet.decode(b);
  }
  get lastRcode(): number {
    const b = this.raw.at(-1);
    return b ? (b[3] ?? 0) & 15 : -1;
  }
}

export class Guests {
  version = 1;
  readonly names = new Map<string, string>();
  addressOf(host: string): IpAddress | undefined {
    const a = this.names.get(host);
    return a === undefined ? undefined : ip(a);
  }
  hostOf(address: IpAddress): string | undefined {
    for (const [n, a] of this.names) if (a === address.toString()) return n;
    return undefined;
  }
}

export function localNames(guests: Guests, domain = 'lan.example'): LocalNames {
  return new LocalNames({
    gateway: [ip('192.168.65.1'), ip('fd65:6973:7468::1')],
    hostAlias: [ip('192.168.65.254'), ip('fd65:6973:7468::254')],
    network: Cidr4.parse('192.168.65.0/24')!,
    domain,
    guests,
  });
}

export interface Rig {
  responder: Responder;
  transport: Transport;
  guest: Guest;
  guests: Guests;
  ask(q: Uint8Array, now: number, guest?: Guest): void;
  /** The server of an attempt answers with these sections. */
  reply(a: Attempt, sections: Partial<packet.Packet>, now: number, flags?: number): boolean;
  replyRaw(a: Attempt, bytes: Uint8Array, now: number): boolean;
}

export function rig(
  options: { servers?: string[]; cacheBytes?: number; maxInFlight?: number; maxPerClient?: number; seed?: number } = {},
): Rig {
  const transport = new Transport();
  const guests = new Guests();
  const responder = new Responder({
    names: localNames(guests),
    transport,
    random: new SeededRandom(options.seed ?? 7),
    cacheBytes: options.cacheBytes ?? 1 << 20,
    maxInFlight: options.maxInFlight ?? 100,
    maxPerClient: options.maxPerClient ?? 100,
  });
  responder.setServers((options.servers ?? ['192.0.2.1']).map(server), false, 0);
  const guest = new Guest();
  const replyRaw = (a: Attempt, bytes: Uint8Array, now: number): boolean =>
    responder.resolver.onMessage(a.server, a.tcp, a.channel, bytes, 0, bytes.length, now);
  return {
    responder,
    transport,
    guest,
    guests,
    ask: (q, now, g = guest) => responder.onQuery(q, 0, q.length, g, now),
    reply: (a, sections, now, flags = 0) => replyRaw(a, response(a.wire, sections, flags), now),
    replyRaw,
  };
}

/** A responder as the daemon has it: IPv4 addresses of its own, and zones. */
export function zonedRig(): { zones: Zones; guests: Guests; transport: Transport; responder: Responder } {
  const zones = new Zones();
  const guests = new Guests();
  const transport = new Transport();
  const responder = new Responder({
    names: new LocalNames({
      gateway: [ip('192.168.65.1')],
      hostAlias: [ip('192.168.65.254')],
      network: Cidr4.parse('192.168.65.0/24')!,
      domain: 'lan.example',
      guests,
      zones,
    }),
    transport,
    random: new SeededRandom(),
    cacheBytes: 1 << 20,
    maxInFlight: 100,
    maxPerClient: 100,
  });
  return { zones, guests, transport, responder };
}

/** Addresses as dns-packet answers. */
export function aRecords(name: string, count: number, ttl = 300): packet.Answer[] {
  return Array.from({ length: count }, (_, i) => ({
    type: 'A' as const,
    name,
    ttl,
    data: `10.0.${i >> 8}.${i & 255}`,
  }));
}
