// Every type of the IANA registry "Resource Record (RR) TYPEs", meta types included, with the registry's mnemonic and record data
// of the form that its defining document gives. Written by hand for these tests; reserved and private numbers stand at the end.

import { nameFromText } from '../../src/dns/name.ts';

/** One type: its number, its mnemonic, the data of one record. */
export type TypeVector = readonly [type: number, mnemonic: string, rdata: Buffer];

const u8 = (...values: number[]): Buffer => Buffer.from(values);
const u16 = (...values: number[]): Buffer => Buffer.concat(values.map((v) => u8(v >> 8, v & 255)));
const u32 = (...values: number[]): Buffer => Buffer.concat(values.map((v) => u16(v >>> 16, v & 0xffff)));
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
const text = (...strings: string[]): Buffer =>
  Buffer.concat(strings.map((s) => Buffer.concat([u8(s.length), Buffer.from(s, 'latin1')])));
const name = (of: string): Buffer => Buffer.from(nameFromText(of)!);
const join = (...parts: Buffer[]): Buffer => Buffer.concat(parts);
/** Bytes that stand for a key, digest or signature. */
const noise = (bytes: number): Buffer => Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 167 + 13) & 255));
const ip6 = hex('2001 0db8 0000 0000 0000 0000 0000 0007');
/** RFC 4034 3.1: what stands before the signature. */
const signed = (type: number): Buffer =>
  join(u16(type), u8(13, 2), u32(3600, 1_900_000_000, 1_800_000_000), u16(4711), name('Signer.Example'), noise(64));

export const DNS_TYPE_VECTORS: readonly TypeVector[] = [
  [1, 'A', u8(203, 0, 113, 7)],
  [2, 'NS', name('ns1.Name-Server.example')],
  [3, 'MD', name('md.example')],
  [4, 'MF', name('mf.example')],
  [5, 'CNAME', name('Canonical.example')],
  [6, 'SOA', join(name('ns.example'), name('hostmaster.example'), u32(2026, 7200, 3600, 1_209_600, 300))],
  [7, 'MB', name('mb.example')],
  [8, 'MG', name('mg.example')],
  [9, 'MR', name('mr.example')],
  [10, 'NULL', noise(40)],
  [11, 'WKS', join(u8(203, 0, 113, 7, 6), hex('0000 0040'))],
  [12, 'PTR', name('host.example')],
  [13, 'HINFO', text('AMD64', 'Linux')],
  [14, 'MINFO', join(name('r.example'), name('e.example'))],
  [15, 'MX', join(u16(10), name('Mail.example'))],
  [16, 'TXT', text('v=spf1 -all', '', 'a"b\\c', 'x'.repeat(255))],
  [17, 'RP', join(name('admin.example'), name('text.example'))],
  [18, 'AFSDB', join(u16(1), name('afs.example'))],
  [19, 'X25', text('311061700956')],
  [20, 'ISDN', text('150862028003217', '004')],
  [21, 'RT', join(u16(2), name('relay.example'))],
  [22, 'NSAP', hex('47 0005 80 005a00 0000 0001 e133 ffffff000161 00')],
  [23, 'NSAP-PTR', name('foo.example')],
  [24, 'SIG', signed(1)],
  [25, 'KEY', join(u16(256), u8(3, 8), noise(130))],
  [26, 'PX', join(u16(50), name('map822.example'), name('mapx400.example'))],
  [27, 'GPOS', text('-32.6882', '116.8652', '10.0')],
  [28, 'AAAA', ip6],
  [29, 'LOC', join(u8(0, 0x12, 0x16, 0x13), u32(0x89_17_2d_d0, 0x70_be_15_f0, 0x00_98_8d_20))],
  [30, 'NXT', join(name('next.example'), hex('6200 0000 0002'))],
  [31, 'EID', noise(12)],
  [32, 'NIMLOC', noise(10)],
  [33, 'SRV', join(u16(1, 2, 5060), name('Sip.example'))],
  [34, 'ATMA', join(u8(1), Buffer.from('61200123'))],
  [35, 'NAPTR', join(u16(100, 50), text('s', 'SIP+D2U', '!^.*$!sip:a@example!'), name('_sip._udp.example'))],
  [36, 'KX', join(u16(1), name('kx.example'))],
  [37, 'CERT', join(u16(1, 12_345), u8(8), noise(300))],
  [38, 'A6', join(u8(64), hex('0000000000000007'), name('subnet.example'))],
  [39, 'DNAME', name('elsewhere.example')],
  [40, 'SINK', join(u8(1, 2, 3), noise(9))],
  [42, 'APL', join(u16(1), u8(24, 3, 192, 168, 65), u16(2), u8(32, 0x84), hex('20010db8'))],
  [43, 'DS', join(u16(60_485), u8(13, 2), noise(32))],
  [44, 'SSHFP', join(u8(4, 2), noise(32))],
  [45, 'IPSECKEY', join(u8(10, 3, 2), name('gw.example'), noise(33))],
  [46, 'RRSIG', signed(1)],
  [47, 'NSEC', join(name('next.example'), hex('0006 4001 0000 0003'))],
  [48, 'DNSKEY', join(u16(257), u8(3, 13), noise(64))],
  [49, 'DHCID', join(u16(1), u8(1), noise(32))],
  [50, 'NSEC3', join(u8(1, 0), u16(0), u8(0, 20), noise(20), hex('0006 4001 0000 0003'))],
  [51, 'NSEC3PARAM', join(u8(1, 0), u16(10), u8(4), hex('aabbccdd'))],
  [52, 'TLSA', join(u8(3, 1, 1), noise(32))],
  [53, 'SMIMEA', join(u8(3, 0, 0), noise(200))],
  [55, 'HIP', join(u8(16, 2), u16(132), noise(16), noise(132), name('rvs.example'))],
  [56, 'NINFO', text('zone status')],
  [57, 'RKEY', join(u16(0), u8(3, 8), noise(64))],
  [58, 'TALINK', join(name('a.example'), name('b.example'))],
  [59, 'CDS', join(u16(60_485), u8(13, 2), noise(32))],
  [60, 'CDNSKEY', join(u16(257), u8(3, 13), noise(64))],
  [61, 'OPENPGPKEY', noise(1200)],
  [62, 'CSYNC', join(u32(66), u16(3), hex('0004 6000 0008'))],
  [63, 'ZONEMD', join(u32(2026), u8(1, 1), noise(48))],
  [64, 'SVCB', join(u16(16), name('svc.example'), u16(1, 3), text('h2'), u16(3, 2, 8443))],
  [65, 'HTTPS', join(u16(1), name('.'), u16(1, 6), text('h2', 'h3'), u16(4, 4), u8(203, 0, 113, 7), u16(6, 16), ip6)],
  [66, 'DSYNC', join(u16(59), u8(1), u16(5300), name('notify.example'))],
  [67, 'HHIT', noise(90)],
  [68, 'BRID', noise(70)],
  [99, 'SPF', text('v=spf1 +mx -all')],
  [100, 'UINFO', text('user')],
  [101, 'UID', u32(1000)],
  [102, 'GID', u32(100)],
  [103, 'UNSPEC', noise(20)],
  [104, 'NID', join(u16(10), noise(8))],
  [105, 'L32', join(u16(10), u8(10, 1, 2, 0))],
  [106, 'L64', join(u16(10), noise(8))],
  [107, 'LP', join(u16(10), name('l64.example'))],
  [108, 'EUI48', hex('00005e005310')],
  [109, 'EUI64', hex('00005eef10000010')],
  [128, 'NXNAME', u8()],
  [249, 'TKEY', join(name('gss.example'), u32(1_800_000_000, 1_800_003_600), u16(3, 0, 16), noise(16), u16(0))],
  [250, 'TSIG', join(name('hmac-sha256'), u16(0), u32(1_800_000_000), u16(300, 32), noise(32), u16(4711, 0, 0))],
  [253, 'MAILB', name('mb.example')],
  [254, 'MAILA', name('ma.example')],
  [255, 'ANY', noise(16)],
  [256, 'URI', join(u16(10, 1), Buffer.from('https://www.example/path?q=1'))],
  [257, 'CAA', join(u8(128), text('issue'), Buffer.from('ca.example; policy=ev'))],
  [258, 'AVC', text('app-name:WOLFGANG|app-class:OAM')],
  [259, 'DOA', join(u32(1, 2), u8(3), text('text/plain'), noise(40))],
  [260, 'AMTRELAY', join(u8(10, 0x83), name('amt.example'))],
  [261, 'RESINFO', text('qnamemin', 'exterr=15-17', 'infourl=https://resolver.example')],
  [262, 'WALLET', text('BTC', 'bc1qexample')],
  [263, 'CLA', text('cla')],
  [264, 'IPN', u32(0, 977_000)],
  [32_768, 'TA', join(u16(60_485), u8(13, 2), noise(32))],
  [32_769, 'DLV', join(u16(60_485), u8(13, 2), noise(32))],
  // Not assigned, reserved and private numbers are relayed as anything else (RFC 3597).
  [54, 'TYPE54', noise(3)],
  [4711, 'TYPE4711', u8()],
  [65_280, 'TYPE65280', noise(700)],
  [65_534, 'TYPE65534', noise(1)],
  [65_535, 'TYPE65535', noise(2)],
];

/** In the registry, but no data that one answer can hold: OPT belongs to one hop, the others transfer a zone. */
export const DNS_TYPES_WITHOUT_DATA: readonly (readonly [type: number, mnemonic: string])[] = [
  [0, 'reserved'],
  [41, 'OPT'],
  [251, 'IXFR'],
  [252, 'AXFR'],
];
