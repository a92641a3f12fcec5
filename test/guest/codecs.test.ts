// The embedded guest's codecs: DNS and NTP from the client's side, the VPNKit handshake's client half.

import { createRequire } from 'node:module';
import fc from 'fast-check';
import t from 'tap';
import { DNS_TYPES, decodeDnsReply, encodeDnsQuery } from '../../src/guest/dns-codec.ts';
import { decodeNtpReply, encodeNtpRequest } from '../../src/guest/ntp-codec.ts';
import { VpnkitClient } from '../../src/guest/vpnkit-client.ts';

const dnsPacket = createRequire(import.meta.url)('dns-packet') as typeof import('dns-packet');

t.test('DNS: a query reads the same to another implementation', async (t) => {
  const query = encodeDnsQuery(0x1234, 'www.example.org', DNS_TYPES.AAAA, 1232)!;
  t.match(dnsPacket.decode(Buffer.from(query)), {
    id: 0x1234,
    type: 'query',
    flag_rd: true,
    questions: [{ name: 'www.example.org', type: 'AAAA', class: 'IN' }],
    additionals: [{ type: 'OPT', udpPayloadSize: 1232 }],
  });
  t.equal(encodeDnsQuery(1, 'a..b', 1, 0), undefined);
  t.equal(encodeDnsQuery(1, 'a'.repeat(64), 1, 0), undefined);
});

t.test('DNS: records of another implementation, and only of the reply that was asked for', async (t) => {
  const query = encodeDnsQuery(7, 'X.example', DNS_TYPES.ANY, 0)!;
  const reply = dnsPacket.encode({
    type: 'response',
    id: 7,
    flags: 0x180,
    questions: [{ type: 'ANY' as 'A', name: 'x.example' }],
    answers: [
      { type: 'A', name: 'x.example', ttl: 60, data: '192.0.2.1' },
      { type: 'AAAA', name: 'x.example', ttl: 61, data: '2001:db8::1' },
      { type: 'CNAME', name: 'y.example', ttl: 62, data: 'x.example' },
      { type: 'TXT', name: 'x.example', ttl: 63, data: ['one ', 'two'] },
      { type: 'MX', name: 'x.example', ttl: 64, data: { preference: 10, exchange: 'm.example' } },
    ],
    authorities: [{ type: 'NS', name: 'example', ttl: 65, data: 'ns.example' }],
    additionals: [{ type: 'OPT', name: '.', udpPayloadSize: 4096, flags: 0, options: [] } as never],
  });
  const got = decodeDnsReply(query, reply, 0, reply.length)!;
  t.strictSame(
    got.answers.slice(0, 4).map((r) => [r.name, r.ttlSec, r.data]),
    [
      ['x.example', 60, '192.0.2.1'],
      ['x.example', 61, '2001:db8::1'],
      ['y.example', 62, 'x.example'],
      ['x.example', 63, 'one two'],
    ],
  );
  t.match(got.answers[4]?.data, /^000a/);
  t.match(got, { rcode: 0, truncated: false, ednsBytes: 4096, authority: [{ data: 'ns.example' }], additional: [] });
  const other = (id: number, name: string, type: number): unknown =>
    decodeDnsReply(encodeDnsQuery(id, name, type, 0)!, reply, 0, reply.length);
  t.equal(other(8, 'x.example', 255), undefined, 'another id');
  t.equal(other(7, 'z.example', 255), undefined, 'another name');
  t.equal(other(7, 'x.example', 1), undefined, 'another type');
  t.equal(decodeDnsReply(query, query, 0, query.length), undefined, 'a query is no reply');
});

t.test('DNS: arbitrary bytes never throw', async () => {
  const query = encodeDnsQuery(7, 'x.example', 1, 0)!;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
      const reply = new Uint8Array(query.length + noise.length);
      reply.set(query);
      reply.set(noise, query.length);
      reply[2] = 0x81;
      for (let i = 6; i < 12; i++) reply[i] = (noise[i] ?? 0) & 3;
      decodeDnsReply(query, reply, 0, reply.length);
      decodeDnsReply(query, noise, 0, noise.length);
    }),
  );
});

t.test('NTP-02: only the answer to this request counts; eras', async (t) => {
  const request = encodeNtpRequest(0x11223344, 0x55667788);
  const answer = (sec: number, change: (m: Uint8Array) => void = () => {}): Uint8Array => {
    const m = new Uint8Array(48);
    const view = new DataView(m.buffer);
    m[0] = (4 << 3) | 4;
    m[1] = 3;
    m.set(request.subarray(40), 24);
    for (const at of [32, 40]) {
      view.setUint32(at, sec);
      view.setUint32(at + 4, 0x8000_0000);
    }
    change(m);
    return m;
  };
  const now = Date.UTC(2030, 0, 1);
  const seconds = now / 1000 + 2_208_988_800;
  const reply = decodeNtpReply(request, answer(seconds), 0, 48, now, now + 100)!;
  t.match(reply, { serverMs: now + 500, stratum: 3, leap: 0, offsetMs: 450, roundTripMs: 100 });
  const later = Date.UTC(2040, 0, 1);
  const wrapped = (later / 1000 + 2_208_988_800) % 2 ** 32;
  t.equal(decodeNtpReply(request, answer(wrapped), 0, 48, later, later)!.serverMs, later + 500, 'the second era');
  const rubbish: ((m: Uint8Array) => void)[] = [(m) => m.fill(0, 24, 32), (m) => m.fill((4 << 3) | 3, 0, 1)];
  for (const change of rubbish) t.equal(decodeNtpReply(request, answer(seconds, change), 0, 48, now, now), undefined);
  t.equal(decodeNtpReply(request, answer(seconds), 0, 47, now, now), undefined);
});

t.test('VPNKit: hello, answer split at every byte, refusals', async (t) => {
  const uuid = '0123abcd-0000-4000-8000-000000000001';
  const hello = Buffer.from(new VpnkitClient(uuid, 0xc0a841fa | 0).hello());
  t.equal(hello.length, 49 + 41);
  t.equal(hello.toString('latin1', 0, 5), 'VMN3T');
  t.equal(hello[49], 8);
  t.equal(hello.toString('latin1', 50, 86), uuid);
  t.equal(hello.toString('hex', 86), 'fa41a8c0', 'the address is little endian');
  t.equal(new VpnkitClient('', 0).hello()[49], 1);

  const server = Buffer.alloc(49 + 258);
  server.write('VMN3T');
  server[5] = 22;
  server[49] = 1;
  server.writeUInt16LE(1500, 50);
  server.writeUInt16LE(1550, 52);
  server.set([2, 0x50, 0, 0, 0, 1], 54);
  for (let cut = 0; cut <= server.length; cut++) {
    const client = new VpnkitClient(uuid, 0);
    const first = client.input(server, 0, cut);
    const vif = first.vif ?? client.input(server, first.used, server.length - first.used).vif;
    if (vif?.mtu !== 1500 || vif.maxPacketBytes !== 1550 || vif.mac[5] !== 1) t.fail(`cut at ${cut}`);
  }
  const refusal = Buffer.from(server);
  refusal[49] = 2;
  refusal[50] = 4;
  refusal.write('busy', 51);
  t.equal(new VpnkitClient(uuid, 0).input(refusal, 0, refusal.length).refused, 'busy');
  server[5] = 21;
  t.match(new VpnkitClient(uuid, 0).input(server, 0, 49).refused, /version 21/);
});
