// The SNTP server: NTP-01 and NTP-02, time in both eras, and silence for everything that could loop or leak.

import fc from 'fast-check';
import t from 'tap';
import { Drop, DropCounters } from '../../src/base/drop.ts';
import { parseAddress } from '../../src/ip/address.ts';
import { type NtpOptions, NtpService } from '../../src/services/ntp.ts';
import type { DatagramSender, DatagramService } from '../../src/stack/ports.ts';
import { ip } from './dhcp-fixture.ts';

interface Reply {
  src: string;
  srcPort: number;
  dst: string;
  dstPort: number;
  bytes: Uint8Array;
}

function make(o: Partial<NtpOptions> = {}) {
  const replies: Reply[] = [];
  const drops = new DropCounters();
  const sender: Pick<DatagramSender, 'sendDatagram'> = {
    sendDatagram: (src, srcPort, dst, dstPort, buf, off, len) => {
      replies.push({ src: `${src}`, srcPort, dst: `${dst}`, dstPort, bytes: buf.slice(off, off + len) });
      return true;
    },
  };
  const service = new NtpService(
    {
      wallClock: () => Date.UTC(2026, 0, 1) + 250,
      synchronised: () => true,
      stratum: 3,
      refId: ip('127.127.1.0'),
      broadcast: ip('192.168.65.255'),
      rootDelayMs: 1,
      rootDispersionMs: 10,
      precision: -10,
      ...o,
    },
    sender,
    drops,
  );
  const ask = (bytes: Uint8Array, dst = '192.168.65.1', src = '192.168.65.3'): Reply | undefined => {
    replies.length = 0;
    const meta = { src: parseAddress(src)!, srcPort: 40_123, dst: parseAddress(dst)!, dstPort: 123 };
    service.onDatagram(meta, bytes, 0, bytes.length, 1);
    return replies[0];
  };
  return { service, drops, ask };
}

function packet(first: number, len = 48): Uint8Array {
  const p = new Uint8Array(len);
  p[0] = first;
  p[2] = 6;
  for (let i = 40; i < Math.min(48, len); i++) p[i] = i;
  return p;
}
const CLIENT = (version: number) => (version << 3) | 3;
const view = (r: Reply | undefined) => new DataView((r ?? { bytes: new Uint8Array(48) }).bytes.buffer);

t.test('fits the border type of the stack', async (t) => {
  const service: DatagramService = make().service;
  t.type(service.onDatagram, 'function');
});

t.test('NTP-01 RFC 4330 6: mode 3 gives mode 4', async (t) => {
  const { ask } = make();
  for (const version of [1, 2, 3, 4]) {
    const r = ask(packet(CLIENT(version)));
    t.equal(r?.bytes[0], (version << 3) | 4, `version ${version} copied, LI 0`);
  }
  const r = ask(packet(CLIENT(4) | 0xc0));
  t.equal(r?.bytes.length, 48);
  t.equal(r?.bytes[0], 0x24, 'the client’s own LI means nothing');
  t.equal(r?.bytes[1], 3, 'stratum');
  t.equal(r?.bytes[2], 6, 'poll copied');
  t.equal(view(r).getInt8(3), -10);
  t.equal(view(r).getUint32(4), Math.round(65.536), 'root delay');
  t.equal(view(r).getUint32(8), Math.round(655.36), 'root dispersion');
  t.same([...(r?.bytes.slice(12, 16) ?? [])], [127, 127, 1, 0]);
  t.same([...(r?.bytes.slice(24, 32) ?? [])], [40, 41, 42, 43, 44, 45, 46, 47], 'originate is the client’s transmit');
  const seconds = Date.UTC(2026, 0, 1) / 1000 + 2_208_988_800;
  t.equal(view(r).getUint32(32), seconds);
  t.equal(view(r).getUint32(36), 0x4000_0000, 'a quarter of a second');
  const age = seconds - view(r).getUint32(16);
  t.ok(age > 0 && age <= 64, 'reference lies a little before');
  t.same([r?.src, r?.srcPort, r?.dst, r?.dstPort], ['192.168.65.1', 123, '192.168.65.3', 40_123]);
});

t.test('NTP-01: receive <= transmit, also when the clock is set back between', async (t) => {
  for (const step of [0.5, 0, -5000]) {
    let now = Date.UTC(2026, 5, 1);
    const { ask } = make({ wallClock: () => (now += step) });
    const r = view(ask(packet(CLIENT(4))));
    t.ok(r.getBigUint64(32) <= r.getBigUint64(40), `step ${step} ms`);
  }
});

t.test('NTP-01: LI 3, stratum 0 and a kiss code while not synchronised', async (t) => {
  const r = make({ synchronised: () => false }).ask(packet(CLIENT(4)));
  t.equal(r?.bytes[0], 0xe4);
  t.equal(r?.bytes[1], 0);
  t.equal(String.fromCharCode(...(r?.bytes.slice(12, 16) ?? [])), 'INIT');
  t.equal(view(r).getBigUint64(16), 0n);
});

t.test('NTP-02: what gets no answer', async (t) => {
  const { ask, service, drops } = make();
  for (let len = 0; len < 48; len++) if (ask(packet(CLIENT(4), len)) !== undefined) t.fail(`${len} bytes`);
  t.equal(service.stats.malformed, 48);
  t.equal(drops.get(Drop.NtpMalformed), 48);
  for (let first = 0; first < 256; first++) {
    const version = (first >> 3) & 7;
    const wanted = (first & 7) === 3 && version >= 1 && version <= 4;
    if ((ask(packet(first)) !== undefined) !== wanted) t.fail(`first byte ${first}`);
  }
  for (const dst of ['255.255.255.255', '192.168.65.255', '224.0.1.1', 'ff02::101']) {
    t.equal(ask(packet(CLIENT(4)), dst), undefined, dst);
  }
  const own = ask(packet(CLIENT(4)));
  t.equal(ask(own?.bytes ?? new Uint8Array()), undefined, 'our own answer: no loop');
});

t.test('NTP-02: extension fields and MACs are not read', async (t) => {
  const { ask } = make();
  for (const len of [49, 52, 68, 72, 1400]) {
    const r = ask(packet(CLIENT(4), len).fill(0xff, 48));
    t.equal(r?.bytes.length, 48, `${len} bytes`);
  }
  t.equal(ask(packet(CLIENT(4)), 'fd65:6973:7468::1', 'fd65:6973:7468::3')?.src, 'fd65:6973:7468::1', 'IPv6 as well');
});

t.test('NTP-02 RFC 5905 6: era 1 starts at 2036-02-07T06:28:16Z', async (t) => {
  const era1 = Date.UTC(2036, 1, 7, 6, 28, 16);
  const rows: [string, number, number][] = [
    ['a second before', era1 - 1000, 0xffff_ffff],
    ['the first second', era1, 0],
    ['a minute later', era1 + 60_000, 60],
    ['2050', Date.UTC(2050, 0, 1), (Date.UTC(2050, 0, 1) - era1) / 1000],
  ];
  for (const [name, at, want] of rows) {
    const r = view(make({ wallClock: () => at }).ask(packet(CLIENT(4))));
    t.equal(r.getUint32(32), want, name);
    t.ok(r.getUint32(16) !== 0, 'reference is never 0');
    const age = (want - r.getUint32(16)) >>> 0;
    t.ok(age > 0 && age <= 64, `${name}: reference ${age} s before`);
  }
});

t.test('property: any wall clock to 32.32 within a microsecond; arbitrary bytes never throw', async () => {
  const start = Date.UTC(1990, 0, 1);
  fc.assert(
    fc.property(fc.double({ min: start, max: Date.UTC(2150, 0, 1), noNaN: true }), (at) => {
      const r = view(make({ wallClock: () => at }).ask(packet(CLIENT(3))));
      const era = Math.floor((at / 1000 + 2_208_988_800) / 2 ** 32);
      const back = (era * 2 ** 32 + r.getUint32(40) - 2_208_988_800) * 1000 + (r.getUint32(44) / 2 ** 32) * 1000;
      return Math.abs(back - at) < 0.001;
    }),
  );
  const { ask } = make();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const r = ask(bytes);
      return r === undefined || r.bytes.length === 48;
    }),
  );
});
