import * as packet from 'dns-packet';
import fc from 'fast-check';
import t from 'tap';
import {
  KEY_AD,
  KEY_CD,
  KEY_DO,
  KEY_EDNS,
  KEY_RD,
  QueryVerdict,
  QueryView,
  udpLimit,
  upstreamQuery,
} from '../../src/dns/message.ts';
import { nameToText } from '../../src/dns/name.ts';
import { query } from './rig.ts';

function view(bytes: Uint8Array): { v: QueryView; verdict: QueryVerdict } {
  const v = new QueryView();
  return { v, verdict: v.wrap(bytes, 0, bytes.length) };
}

function patched(bytes: Buffer, at: number, ...values: number[]): Buffer {
  const b = Buffer.from(bytes);
  b.set(values, at);
  return b;
}

t.test('a plain query, at any offset', async (t) => {
  const q = query('WwW.Example.org', 'AAAA', { id: 0xbeef });
  const buf = Buffer.concat([Buffer.from([1, 2, 3]), q, Buffer.from('trailing')]);
  const v = new QueryView();
  t.equal(v.wrap(buf, 3, q.length + 8), QueryVerdict.Ok);
  t.equal(v.id, 0xbeef);
  t.equal(v.type, 28);
  t.equal(v.klass, 1);
  t.equal(nameToText(buf, v.nameOff, v.nameLen), 'WwW.Example.org');
  t.equal(v.keyFlags, KEY_RD);
  t.equal(v.end, 3 + q.length, 'bytes behind the message are not part of it');
  t.notOk(v.hasOpt);
  t.ok(v.shareable);
});

t.test('DNS-07: what cannot be a query', async (t) => {
  const q = query('example.org', 'A');
  for (let n = 0; n < 12; n++) t.equal(view(q.subarray(0, n)).verdict, QueryVerdict.Short);
  for (let n = 12; n < q.length; n++) t.equal(view(q.subarray(0, n)).verdict, QueryVerdict.FormErr);
  t.equal(view(patched(q, 2, 0x81)).verdict, QueryVerdict.NotQuery, 'QR=1');
  t.equal(view(patched(q, 2, 0x81, 0, 0, 9)).verdict, QueryVerdict.NotQuery, 'QR=1 comes first');
  for (const opcode of [1, 2, 4, 5, 15]) t.equal(view(patched(q, 2, opcode << 3)).verdict, QueryVerdict.NotImp);
  t.equal(view(patched(q, 4, 0, 0)).verdict, QueryVerdict.FormErr, 'RFC 9619: no question');
  t.equal(view(patched(q, 4, 0, 2)).verdict, QueryVerdict.FormErr, 'RFC 9619: two questions');
  t.equal(view(patched(q, 6, 0xff, 0xff)).verdict, QueryVerdict.FormErr, 'counts beyond the data');
  t.equal(view(patched(q, 12, 0xc0, 12)).verdict, QueryVerdict.FormErr, 'pointer in the question');
});

t.test('DNS-04: OPT once, at the root, in the additional section, with whole options', async (t) => {
  const q = query('example.org', 'A', { edns: { size: 4096, dnssec: true } });
  const { v, verdict } = view(q);
  t.equal(verdict, QueryVerdict.Ok);
  t.equal(v.optSize, 4096);
  t.equal(v.keyFlags, KEY_RD | KEY_EDNS | KEY_DO);
  const opt = q.subarray(q.length - 11);
  const twice = patched(Buffer.concat([q, opt]), 10, 0, 2);
  t.equal(view(twice).verdict, QueryVerdict.FormErr, 'two');
  t.equal(view(patched(q, 6, 0, 1, 0, 0, 0, 0)).verdict, QueryVerdict.FormErr, 'in the answer section');
  const named = Buffer.concat([q.subarray(0, -11), Buffer.from([1, 97]), opt]);
  t.equal(view(named).verdict, QueryVerdict.FormErr, 'with a name');
  t.equal(view(patched(q, q.length - 5, 1)).verdict, QueryVerdict.BadVers, 'version 1');
  const cutOption = patched(Buffer.concat([q, Buffer.from([0, 3, 0, 9])]), q.length - 1, 4);
  t.equal(view(cutOption).verdict, QueryVerdict.FormErr, 'option longer than the record');
  const ad = query('example.org', 'A', { flags: packet.AUTHENTIC_DATA | packet.CHECKING_DISABLED });
  t.equal(view(ad).v.keyFlags, KEY_AD | KEY_CD);
});

t.test('DNS-04: the size of an answer', async (t) => {
  const limit = (size: number | undefined, link: number) =>
    udpLimit(view(query('a', 'A', size === undefined ? {} : { edns: { size } })).v, link);
  t.equal(limit(undefined, 65_000), 512);
  t.equal(limit(100, 1472), 512, 'less than 512 means 512');
  t.equal(limit(4096, 548), 1232);
  t.equal(limit(4096, 1472), 1472);
  t.equal(limit(1400, 65_492), 1400);
  t.equal(limit(65_535, 65_492), 65_492);
});

t.test('DNS-12: OPT goes upstream with DO and resolver options, without those of one hop', async (t) => {
  const cookie = { code: 10, data: Buffer.from('0011223344556677', 'hex') };
  const nsid = { code: 3, data: Buffer.alloc(0) };
  const unknown = { code: 65_001, data: Buffer.from('x') };
  const q = query('Example.org', 'DNSKEY', { edns: { size: 4096, dnssec: true, options: [cookie, nsid, unknown] } });
  const { v } = view(q);
  t.notOk(v.shareable, 'NSID is about this guest');
  const up = upstreamQuery(v);
  const decoded = packet.decode(Buffer.from(up.wire));
  t.equal(decoded.questions?.[0]?.name, 'Example.org', 'the case is the guest’s');
  const opt = decoded.additionals?.[0] as packet.OptAnswer;
  t.same(
    opt.options.map((o) => o.code),
    [3],
  );
  t.ok(opt.flag_do);
  t.equal((up.wire[up.sizeOff]! << 8) | up.wire[up.sizeOff + 1]!, 4096);
  const plain = view(query('a', 'A', { edns: { options: [cookie] } })).v;
  t.ok(plain.shareable, 'a cookie is not');
  t.equal(upstreamQuery(plain).wire.length, plain.end - plain.off - 12);
});

t.test('a query with further records goes upstream as it is', async (t) => {
  const q = packet.encode({
    type: 'query',
    id: 1,
    flags: 0,
    questions: [{ name: 'zone.example', type: 'IXFR' as 'A' }],
    additionals: [{ type: 'A', name: 'extra.example', data: '1.2.3.4', ttl: 5 }],
  });
  const { v, verdict } = view(q);
  t.equal(verdict, QueryVerdict.Ok);
  t.ok(v.hasExtra);
  t.notOk(v.shareable);
  t.same(Buffer.from(upstreamQuery(v).wire), q);
});

t.test('property: arbitrary bytes never throw', async () => {
  const header = fc
    .tuple(fc.nat(3), fc.nat(3), fc.nat(3))
    .map(([an, ns, ar]) => [0, 1, 1, 0, 0, 1, 0, an, 0, ns, 0, ar]);
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .tuple(header, fc.uint8Array({ maxLength: 120 }))
      .map(([h, b]) => Uint8Array.from([...h, 1, 97, 0, 0, 1, 0, 1, ...b])),
  );
  const v = new QueryView();
  fc.assert(
    fc.property(bytes, (b) => {
      const canary = Uint8Array.from([...b, 0xaa, 0xaa]);
      const verdict = v.wrap(canary, 0, b.length);
      if (verdict !== QueryVerdict.Ok) return true;
      return v.end <= b.length && upstreamQuery(v).wire.length <= b.length;
    }),
    { numRuns: 3000 },
  );
});

t.test('property: every query of dns-packet is read, and goes upstream as the same question', async () => {
  const type = fc.constantFrom('A', 'AAAA', 'TXT', 'MX', 'SRV', 'CAA', 'DS', 'NAPTR', 'HINFO', 'SSHFP');
  const name = fc.array(fc.stringMatching(/^[a-z0-9-]{1,15}$/), { minLength: 1, maxLength: 5 }).map((l) => l.join('.'));
  fc.assert(
    fc.property(name, type, fc.nat(65_535), fc.boolean(), (n, ty, id, edns) => {
      const q = query(n, ty, { id, ...(edns ? { edns: { size: 1400 } } : {}) });
      const { v, verdict } = view(q);
      return verdict === QueryVerdict.Ok && Buffer.from(upstreamQuery(v).wire).equals(q);
    }),
  );
});
