// What a guest gets from the gateway beside what the name server says: the same bytes, but for id, TTLs and the case of owner names.
// Through the whole network: an embedded guest on the daemon's socket, by UDP and TCP.

import t, { type Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import { WireServer } from '../forwarder/dns-rig.ts';
import { CHAIN, FULL_BYTES, scenarioAnswer } from '../helpers/scenario-server.ts';
import {
  comparable,
  type DigOptions,
  DirectPath,
  type DnsPath,
  digAll,
  FrameCollector,
  ttlsOf,
} from '../helpers/wire-dns.ts';
import { DNS_TYPE_VECTORS, DNS_TYPES_WITHOUT_DATA } from '../vectors/dns-types.ts';
import { GATEWAY, Rig } from './rig.ts';

const DNS_PORT = 53;

/** From a guest to the gateway. */
class GuestPath implements DnsPath {
  readonly #guest: EmbeddedGuest;

  constructor(guest: EmbeddedGuest) {
    this.#guest = guest;
  }

  async udp(query: Buffer): Promise<Buffer> {
    const socket = this.#guest.udp();
    try {
      return await socket.exchange(query, GATEWAY, DNS_PORT);
    } finally {
      socket.close();
    }
  }

  async tcp(queries: readonly Buffer[]): Promise<Buffer[]> {
    const socket = await this.#guest.connect(GATEWAY, DNS_PORT);
    const frames = new FrameCollector(queries);
    socket.write(FrameCollector.frames(queries));
    for await (const chunk of socket) if (frames.take(chunk as Buffer)) break;
    socket.destroy();
    return frames.answers;
  }
}

interface Ends {
  readonly direct: DirectPath;
  readonly server: WireServer;
  readonly through: DnsPath;
  readonly rig: Rig;
}

async function ends(t: Test, mtu?: number): Promise<Ends> {
  const server = await new WireServer(scenarioAnswer).listen();
  server.udp.setRecvBufferSize(4 << 20);
  const direct = new DirectPath(server.port);
  // First in, first out: the network ends while its server is there.
  const rig = await Rig.start(t, ['--dns', `127.0.0.1:${server.port}`]);
  const guest = await rig.guest(mtu === undefined ? {} : { mtu });
  // It knows the gateway's MAC: few packets may wait for that.
  await guest.ping(GATEWAY);
  t.teardown(async () => {
    await direct.close();
    await server.close();
  });
  return { direct, server, through: new GuestPath(guest), rig };
}

type Question = readonly [name: string, options: DigOptions];

/** Asks both ways and compares. @returns the answers through the gateway */
async function same(t: Test, { direct, through }: Ends, questions: readonly Question[], what: string) {
  const [want, got] = [await digAll(direct, questions), await digAll(through, questions)];
  const different = questions.filter((_, i) => !comparable(want[i]!).equals(comparable(got[i]!)));
  t.same(different, [], what);
  t.same(
    got.map((m) => m.readUInt16BE(0)),
    questions.map((_, i) => i + 1),
    `${what}: ids`,
  );
  return got;
}

const VARIANTS: readonly (readonly [string, DigOptions])[] = [
  ['plain', {}],
  ['+norec', { recurse: false }],
  ['+dnssec', { dnssec: true }],
  ['+dnssec +cdflag', { dnssec: true, cdFlag: true }],
  ['+noedns', { bufSize: 0 }],
  ['+noadflag', { adFlag: false }],
  ['+bufsize=512', { bufSize: 512 }],
  ['+bufsize=4096', { bufSize: 4096 }],
  ['+tcp', { tcp: true }],
  ['+tcp +dnssec +norec', { tcp: true, dnssec: true, recurse: false }],
];
const NUMBERS = [...DNS_TYPE_VECTORS, ...DNS_TYPES_WITHOUT_DATA].map(([type]) => type);
/** Meta types (RFC 6895 3.1) are no data. */
const CACHEABLE = NUMBERS.filter((n) => n !== 41 && (n < 128 || n > 255)).length;

t.test('DNS-11: RFC 3597: every record type of the registry, as the server gives it', async (t) => {
  t.equal(new Set(NUMBERS).size, NUMBERS.length);
  t.ok(NUMBERS.length > 95);
  const both = await ends(t);
  for (const [what, options] of VARIANTS) {
    const questions = NUMBERS.map((type): Question => ['rr.Types.Example', { ...options, type }]);
    const first = await same(t, both, questions, what);
    const before = both.rig.metric('dns_cache_hits_total');
    const again = questions.map(([, o]): Question => ['RR.tYPES.example', o]);
    const second = await same(t, both, again, `${what}, from the cache`);
    t.same(second.map(comparable), first.map(comparable));
    t.ok(
      second.every((m) => m.toString('latin1', 13, 29) === 'RR\x05tYPES\x07example'),
      'each in the case that was asked for',
    );
    const hits = both.rig.metric('dns_cache_hits_total') - before;
    // What is cut by UDP is asked for again by TCP, and found again.
    t.ok(hits >= CACHEABLE, `${hits} hits of at least ${CACHEABLE}`);
  }
});

t.test('DNS-11: classes other than IN', async (t) => {
  const both = await ends(t);
  const questions = [2, 3, 4, 254, 255, 65_280].flatMap((klass): Question[] => [
    ['rr.Class.example', { klass, type: 16 }],
    ['rr.Class.example', { klass, type: 1, tcp: true }],
  ]);
  await same(t, both, questions, 'classes');
});

for (const mtu of [1500, undefined]) {
  t.test(`DNS-05: long answers whole, MTU ${mtu ?? 'as leased'}`, async (t) => {
    const both = await ends(t, mtu);
    const names: Question[] = [
      ['full.example', { type: 16 }],
      ['full-40000.example', { type: 16 }],
      ['full-1232.example', { type: 16 }],
      ['full-1233.example', { type: 16 }],
      ['full-4096.example', { type: 16 }],
      ['full-4097.example', { type: 16 }],
      ['full-513.example', { type: 16 }],
      ['chain.example', { type: 1 }],
      ['chain.example', { type: 28 }],
      ['signed.example', { type: 48 }],
      ['referral.example', { type: 1 }],
    ];
    for (const [what, options] of VARIANTS) {
      const questions = names.map(([name, o]): Question => [name, { ...options, ...o }]);
      const got = await same(t, both, questions, what);
      t.equal(got[0]!.length, FULL_BYTES);
      t.equal(got[7]!.readUInt16BE(6), CHAIN + 1);
      t.equal(got[9]!.readUInt16BE(6), options.dnssec === true ? 6 : 4);
      await same(t, both, questions, `${what}, from the cache`);
    }
  });
}

t.test('DNS-04: the larger of 1,232 bytes and what the link carries, else TC', async (t) => {
  const carried = async (through: DnsPath, bytes: number, bufSize: number) => {
    const questions: Question[] = [[`full-${bytes}.example`, { type: 16, bufSize, ignoreTruncation: true }]];
    const [m] = await digAll(through, questions);
    return [(m![2]! & 2) !== 0, m!.length <= Math.max(512, bufSize)];
  };
  const [WHOLE, CUT] = [
    [false, true],
    [true, true],
  ];
  const small = await ends(t, 1500);
  t.same(await carried(small.through, 1472, 4096), WHOLE, 'a packet of 1,500');
  t.same(await carried(small.through, 1473, 4096), CUT);
  t.same(await carried(small.through, 1232, 1232), WHOLE);
  t.same(await carried(small.through, 1233, 1232), CUT);
  t.same(await carried(small.through, 600, 300), CUT, 'less than 512 is 512');
  const tiny = await ends(t, 576);
  t.same(await carried(tiny.through, 1232, 4096), WHOLE, 'in fragments');
  const large = await ends(t);
  // Nothing larger than 1,500 goes to a VM before it has shown that it takes more.
  const guest = large.rig.guests[0]!;
  await guest.ping(GATEWAY, { bytes: 60_000 });
  t.same(await carried(large.through, 4000, 4096), WHOLE, 'a large link');
  t.same(await carried(large.through, 60_000, 65_535), WHOLE);
  t.same(await carried(large.through, 65_535, 65_535), CUT, 'beyond 65,492');
});

t.test('DNS-10: rcodes, also extended ones, NODATA, referrals and EDNS errors as the server says', async (t) => {
  const both = await ends(t);
  const kinds = ['empty', 'empty-nosoa', 'nosuch', 'referral', 'plain', 'ede'];
  const rcodes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map((rcode) => `rcode-${rcode}`);
  for (const [what, options] of VARIANTS) {
    // What needs an OPT record cannot be said to who has none.
    const extended = options.bufSize === 0 ? [] : ['rcode-16', 'rcode-18', 'rcode-23'];
    const questions = [...kinds, ...rcodes, ...extended].map((name): Question => [`${name}.example`, options]);
    await same(t, both, questions, what);
    await same(t, both, questions, `${what}, again`);
  }
});

t.test('DNS-12: options for the server reach it, those of one hop do not', async (t) => {
  const both = await ends(t);
  const nsid: DigOptions = { options: [[3, Buffer.alloc(0)]] };
  const [got] = await same(t, both, [['ede.example', nsid]], 'NSID');
  t.ok(got!.includes(Buffer.from([0, 3, 0, 2, 110, 49])));
  const cookie: DigOptions = { options: [[10, Buffer.from('0102030405060708', 'hex')]] };
  await same(t, both, [['rr.example', cookie]], 'a client’s cookie is tolerated');
  await same(t, both, [['rr.example', { options: [[65_001, Buffer.from('x')]] }]], 'an unknown option');
});

t.test('DNS-08: TTLs count down, never up, and 2^31 and more is 0', async (t) => {
  const both = await ends(t);
  const ask = async (name: string) => (await digAll(both.through, [[name, {}]]))[0]!;
  t.same(ttlsOf(await ask('rr-7.example')).slice(0, 1), [7]);
  const [cached] = ttlsOf(await ask('rr-7.example'));
  t.ok(cached! === 7 || cached === 6);
  const asked = both.server.queries;
  for (const name of ['rr-0.example', `rr-${0x8000_0000}.example`]) {
    await ask(name);
    await ask(name);
  }
  t.equal(both.server.queries - asked, 4, 'neither is kept');
});
