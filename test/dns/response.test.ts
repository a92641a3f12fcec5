import * as packet from 'dns-packet';
import fc from 'fast-check';
import t from 'tap';
import { ageTtls, cacheTtlSec, ResponseView } from '../../src/dns/response.ts';
import { aRecords, query, response, SOA } from './rig.ts';

function view(bytes: Uint8Array): ResponseView {
  const v = new ResponseView();
  if (!v.wrap(bytes, 0, bytes.length)) throw new Error('not a response');
  return v;
}

function fitted(bytes: Buffer, limit: number, keepOpt: boolean): packet.DecodedPacket & { length: number } {
  const copy = new Uint8Array(bytes);
  const n = view(copy).fit(limit, keepOpt);
  if (n > limit) throw new Error(`${n} > ${limit}`);
  return Object.assign(packet.decode(Buffer.from(copy.subarray(0, n))), { length: n });
}

const OPT: packet.Answer = {
  type: 'OPT',
  name: '.',
  udpPayloadSize: 1232,
  extendedRcode: 0,
  ednsVersion: 0,
  flags: 0,
  flag_do: false,
  options: [],
};

const q = query('host.example', 'A');

t.test('walks the sections', async (t) => {
  const r = response(q, {
    answers: [
      { type: 'CNAME', name: 'host.example', ttl: 50, data: 'real.example' },
      ...aRecords('real.example', 2, 300),
    ],
    authorities: [{ type: 'NS', name: 'example', ttl: 700, data: 'ns.example' }],
    additionals: [{ type: 'A', name: 'ns.example', ttl: 20, data: '1.2.3.4' }, OPT],
  });
  const v = view(Buffer.concat([r, Buffer.from('rubbish')]));
  t.equal(v.length, r.length);
  t.equal(v.ttlCount, 5, 'OPT has no TTL');
  t.equal(v.minTtlSec, 20);
  t.equal(v.optEnd, r.length);
  t.equal(v.optOff, r.length - 11);
  t.equal(v.negativeTtlSec, -1);
  t.ok(v.asks(q, 12, 14, 1, 1));
  t.notOk(v.asks(q, 12, 14, 28, 1));
  t.notOk(v.asks(query('hOst.exampla', 'A'), 12, 14, 1, 1));
  t.ok(v.asks(query('hOst.eXample', 'A'), 12, 14, 1, 1), '0x20: case does not matter');
  for (let n = 0; n < r.length; n++) t.notOk(new ResponseView().wrap(r, 0, n), `cut at ${n}`);
});

t.test('DNS-08: how long a response may be kept', async (t) => {
  const ttl = (sections: Partial<packet.Packet>, flags = 0, to = q) => cacheTtlSec(view(response(to, sections, flags)));
  t.equal(ttl({ answers: aRecords('host.example', 2, 300) }), 300);
  t.equal(ttl({ answers: aRecords('host.example', 1, 0) }), 0, 'TTL 0');
  t.equal(ttl({ answers: aRecords('host.example', 1, 2 ** 31) }), 0, 'RFC 2181 8: top bit set is 0');
  t.equal(ttl({ answers: aRecords('host.example', 1, 2 ** 31 - 1) }), 2 ** 31 - 1);
  t.equal(ttl({ authorities: [SOA] }), 60, 'RFC 2308 5: NODATA, SOA minimum');
  t.equal(ttl({ authorities: [SOA] }, 3), 60, 'NXDOMAIN');
  t.equal(ttl({ authorities: [{ ...SOA, ttl: 7 } as packet.Answer] }, 3), 7, 'SOA TTL where smaller');
  t.equal(ttl({}, 3), 0, 'no SOA');
  t.equal(ttl({}), 0, 'no SOA');
  t.equal(ttl({ authorities: [{ type: 'NS', name: 'example', ttl: 700, data: 'ns.example' }] }), 0, 'referral');
  t.equal(ttl({ answers: aRecords('host.example', 1) }, 2), 0, 'SERVFAIL');
  t.equal(ttl({ answers: aRecords('host.example', 1) }, packet.TRUNCATED_RESPONSE), 0, 'TC');
  const any = query('host.example', 'ANY');
  t.equal(ttl({ answers: aRecords('host.example', 1) }, 0, any), 0, 'meta type');
  const chaos = query('version.bind', 'TXT', { klass: 'CH' });
  t.equal(ttl({ answers: [{ type: 'TXT', name: 'version.bind', class: 'CH', ttl: 9, data: 'x' }] }, 0, chaos), 0);
});

t.test('TTLs count down and stop at 0 and at the cap', async (t) => {
  const r = response(q, { answers: aRecords('host.example', 1, 300), authorities: [SOA] });
  const v = view(r);
  const out = new Uint8Array(r);
  ageTtls(out, 0, v.ttlAt, v.ttlCount, 100, 500);
  const d = packet.decode(Buffer.from(out));
  t.equal((d.answers?.[0] as packet.StringAnswer | undefined)?.ttl, 200);
  t.equal((d.authorities?.[0] as packet.SoaAnswer | undefined)?.ttl, 400, 'capped at 500 first');
  ageTtls(out, 0, v.ttlAt, v.ttlCount, 1000, 500);
  t.equal((packet.decode(Buffer.from(out)).answers?.[0] as packet.StringAnswer | undefined)?.ttl, 0);
});

t.test('DNS-05: additional data goes silently, OPT stays', async (t) => {
  const r = response(q, {
    answers: aRecords('host.example', 10),
    additionals: [...aRecords('ns.example', 30), OPT],
  });
  const d = fitted(r, 512, true);
  t.equal(d.answers?.length, 10);
  t.same(
    d.additionals?.map((a) => a.type),
    ['OPT'],
  );
  t.notOk(d.flag_tc);
});

t.test('DNS-05: authority that does not fit sets TC', async (t) => {
  const r = response(q, {
    answers: aRecords('host.example', 2),
    authorities: Array.from({ length: 60 }, (_, i) => ({
      type: 'NS' as const,
      name: 'example',
      ttl: 1,
      data: `n${i}.example`,
    })),
  });
  const d = fitted(r, 512, false);
  t.ok(d.flag_tc);
  t.equal(d.answers?.length, 2);
  t.equal(d.authorities?.length, 0);
});

t.test('DNS-05: RFC 2181 9: only whole RRsets', async (t) => {
  const r = response(q, {
    answers: [
      { type: 'CNAME', name: 'host.example', ttl: 50, data: 'a.example' },
      ...aRecords('a.example', 5),
      ...Array.from({ length: 40 }, (_, i) => ({ type: 'TXT' as const, name: 'a.example', ttl: 1, data: `text ${i}` })),
    ],
    additionals: [OPT],
  });
  const d = fitted(r, 512, true);
  t.ok(d.flag_tc);
  t.equal(d.answers?.length, 6, 'CNAME and all five addresses, none of the texts');
  t.equal(d.additionals?.length, 1);
  const one = fitted(response(q, { answers: aRecords('host.example', 64) }), 512, false);
  t.ok(one.flag_tc);
  t.equal(one.answers?.length, 0, 'a set that does not fit is left out whole');
});

t.test('DNS-04: OPT is taken out for a guest without EDNS', async (t) => {
  const last = fitted(
    response(q, { answers: aRecords('host.example', 1), additionals: [...aRecords('x.example', 1), OPT] }),
    512,
    false,
  );
  t.same(
    last.additionals?.map((a) => a.type),
    ['A'],
  );
  const first = fitted(
    response(q, { answers: aRecords('host.example', 1), additionals: [OPT, ...aRecords('x.example', 1)] }),
    512,
    false,
  );
  t.equal(first.additionals?.length, 0);
  t.equal(first.answers?.length, 1);
});

t.test('options that alone fill the limit are cut', async (t) => {
  const fat = { ...OPT, options: [{ code: 65_001, data: Buffer.alloc(600) }] } as unknown as packet.Answer;
  const d = fitted(response(q, { answers: aRecords('host.example', 9), additionals: [fat] }), 512, true);
  t.equal(d.additionals?.length, 1);
  t.equal(d.answers?.length, 9);
});

t.test('property: arbitrary bytes never throw, and what is fitted is a response again', async () => {
  const section = fc.tuple(fc.nat(4), fc.nat(4), fc.nat(4));
  const record = fc.tuple(
    fc.constantFrom([0], [0xc0, 12], [1, 98, 0], [1, 98, 0xc0, 12], [0xc0, 40]),
    fc.constantFrom(1, 2, 5, 6, 28, 41, 65_280),
    fc.uint8Array({ maxLength: 60 }),
  );
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc
      .tuple(section, fc.array(record, { maxLength: 12 }))
      .map(([[an, ns, ar], records]) =>
        Uint8Array.from([
          ...[0, 1, 0x81, 0x80, 0, 1, 0, an, 0, ns, 0, ar, 1, 97, 0, 0, 1, 0, 1],
          ...records.flatMap(([n, ty, rd]) => [...n, ty >> 8, ty & 255, 0, 1, 0, 0, 0, 9, 0, rd.length, ...rd]),
        ]),
      ),
  );
  const v = new ResponseView();
  fc.assert(
    fc.property(bytes, fc.integer({ min: 290, max: 700 }), fc.boolean(), (b, limit, keepOpt) => {
      const copy = Uint8Array.from([...b, 0xaa, 0xbb]);
      if (!v.wrap(copy, 0, b.length)) return true;
      cacheTtlSec(v);
      const before = v.length;
      const n = v.fit(limit, keepOpt);
      if (n > Math.max(limit, 0) && n !== before) return false;
      if (copy[b.length] !== 0xaa || copy[b.length + 1] !== 0xbb) return false;
      return v.wrap(copy, 0, n) && v.length === n && n <= limit && (keepOpt || v.optOff < 0);
    }),
    { numRuns: 5000 },
  );
});
