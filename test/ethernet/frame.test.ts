import fc from 'fast-check';
import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import {
  ARP_DO_LEARN,
  ARP_DO_REPLY,
  ARP_LENGTH,
  ARP_REPLY,
  ARP_REQUEST,
  ArpView,
  emitArp,
  judgeArp,
} from '../../src/ethernet/arp.ts';
import { ETHERTYPE_ARP, emitEthernet, FrameView } from '../../src/ethernet/frame.ts';
import {
  BROADCAST_MAC,
  equalMac,
  formatMac,
  isBroadcastMac,
  isMulticastMac,
  isZeroMac,
  macHi,
  macLo,
  parseMac,
  setMac,
} from '../../src/ethernet/mac.ts';
import { parseV4 } from '../../src/ip/address.ts';

const ip = (text: string): number => parseV4(text)!;
const GATEWAY = ip('192.168.65.1');
const ALIAS = ip('192.168.65.254');
const LEASE = ip('192.168.65.3');
const OTHER = ip('192.168.65.4');
const ours = (a: number): boolean => a === GATEWAY || a === ALIAS;
const guestMac = parseMac('02:00:00:00:00:03')!;
const zero = new Uint8Array(6);

t.test('MAC text is strict and round-trips', (t) => {
  t.equal(formatMac(parseMac('AA-bb-0C-dd-EE-0f')!), 'aa:bb:0c:dd:ee:0f');
  for (const bad of [
    '',
    'aa:bb:cc:dd:ee',
    'aa:bb:cc:dd:ee:ff:00',
    'aa:bb-cc:dd:ee:ff',
    'a:b:c:d:e:f',
    'gg:bb:cc:dd:ee:ff',
  ]) {
    t.equal(parseMac(bad), undefined, bad);
  }
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (mac) => {
      const back = parseMac(formatMac(mac))!;
      const copy = new Uint8Array(8);
      setMac(copy, 1, macHi(mac, 0), macLo(mac, 0));
      return equalMac(back, 0, mac, 0) && equalMac(copy, 1, mac, 0);
    }),
  );
  t.ok(isBroadcastMac(BROADCAST_MAC, 0));
  t.ok(isMulticastMac(parseMac('01:00:5e:00:00:01')!, 0));
  t.notOk(isBroadcastMac(parseMac('01:00:5e:00:00:01')!, 0));
  t.ok(isZeroMac(zero, 0));
  t.end();
});

t.test('IP4-01 a frame under 14 bytes is a runt; group and zero sources are refused', (t) => {
  const v = new FrameView();
  const buf = new Uint8Array(64);
  const n = emitEthernet(buf, 3, BROADCAST_MAC, 0, guestMac, 0, ETHERTYPE_ARP);
  t.equal(n, 14);
  for (let len = 0; len < 14; len++) t.equal(v.wrap(buf, 3, 3 + len), Drop.LinkRunt);
  t.equal(v.wrap(buf, 3, 17), Drop.None);
  t.equal(v.etherType, ETHERTYPE_ARP);
  t.equal(v.payloadOff, 17);
  t.ok(v.toBroadcast && v.toGroup && v.isFrom(guestMac, 0) && v.isTo(BROADCAST_MAC, 0));
  t.equal(v.srcHi, macHi(guestMac, 0));
  t.equal(v.srcLo, macLo(guestMac, 0));
  t.equal(v.dstHi, 0xffff);
  t.equal(v.dstLo, -1);
  t.equal(v.srcOff, 9);
  t.equal(v.dstOff, 3);
  emitEthernet(buf, 0, guestMac, 0, BROADCAST_MAC, 0, ETHERTYPE_ARP);
  t.equal(v.wrap(buf, 0, 60), Drop.EthBadSource);
  emitEthernet(buf, 0, guestMac, 0, zero, 0, ETHERTYPE_ARP);
  t.equal(v.wrap(buf, 0, 60), Drop.EthBadSource);
  t.end();
});

/** A frame with an ARP message in it; @returns what judgeArp says, or the drop code as a negative number. */
function judge(op: number, senderIp: number, targetIp: number, lease = LEASE, senderMac = guestMac): number {
  const buf = new Uint8Array(60);
  emitEthernet(buf, 0, BROADCAST_MAC, 0, guestMac, 0, ETHERTYPE_ARP);
  emitArp(buf, 14, op, senderMac, 0, senderIp, zero, 0, targetIp);
  const arp = new ArpView();
  const drop = arp.wrap(buf, 14, 60);
  return drop === Drop.None ? judgeArp(arp, 6, ours, lease) : -drop;
}

t.test('ARP-01 requests for our addresses are answered, for the own and for unknown ones not', (t) => {
  t.equal(judge(ARP_REQUEST, LEASE, GATEWAY), ARP_DO_REPLY | ARP_DO_LEARN);
  t.equal(judge(ARP_REQUEST, LEASE, ALIAS), ARP_DO_REPLY | ARP_DO_LEARN);
  t.equal(judge(ARP_REQUEST, LEASE, OTHER), ARP_DO_LEARN);
  t.equal(judge(ARP_REQUEST, LEASE, LEASE), ARP_DO_LEARN, 'announcement');
  t.equal(judge(ARP_REPLY, LEASE, GATEWAY), ARP_DO_LEARN);
  t.equal(judge(ARP_REQUEST, LEASE, GATEWAY, GATEWAY), ARP_DO_LEARN, 'a lease is never answered for');
  t.end();
});

t.test('ARP-02 RFC 5227 probes: none for the own lease, a reply for ours, nothing learned', (t) => {
  t.equal(judge(ARP_REQUEST, 0, LEASE), 0);
  t.equal(judge(ARP_REQUEST, 0, GATEWAY), ARP_DO_REPLY);
  t.equal(judge(ARP_REQUEST, 0, OTHER), 0);
  t.equal(judge(ARP_REQUEST, 0, 0, 0), 0);
  t.end();
});

t.test('ARP-03 malformed messages are dropped; nobody poisons our own addresses or speaks for another MAC', (t) => {
  t.equal(judge(ARP_REQUEST, GATEWAY, ALIAS), 0);
  t.equal(judge(ARP_REPLY, GATEWAY, GATEWAY), 0);
  for (const bad of ['127.0.0.1', '224.0.0.1', '255.255.255.255', '0.0.0.7', '240.0.0.1']) {
    t.equal(judge(ARP_REQUEST, ip(bad), GATEWAY), 0, bad);
  }
  t.equal(
    judge(ARP_REQUEST, OTHER, GATEWAY, LEASE, parseMac('02:00:00:00:00:04')!),
    ARP_DO_REPLY,
    'sender MAC differs',
  );
  t.equal(judge(ARP_REQUEST, LEASE, GATEWAY, LEASE, BROADCAST_MAC), -Drop.ArpMalformed);
  t.equal(judge(ARP_REQUEST, LEASE, GATEWAY, LEASE, zero), -Drop.ArpMalformed);
  t.equal(judge(0, LEASE, GATEWAY), -Drop.ArpMalformed);
  t.equal(judge(3, LEASE, GATEWAY), -Drop.ArpMalformed);
  const arp = new ArpView();
  const buf = new Uint8Array(ARP_LENGTH);
  emitArp(buf, 0, ARP_REQUEST, guestMac, 0, LEASE, zero, 0, GATEWAY);
  t.equal(arp.wrap(buf, 0, ARP_LENGTH), Drop.None);
  for (let len = 0; len < ARP_LENGTH; len++) t.equal(arp.wrap(buf, 0, len), Drop.ArpMalformed);
  for (const at of [1, 2, 4, 5]) {
    const bad = buf.slice();
    bad[at]! ^= 3;
    t.equal(arp.wrap(bad, 0, ARP_LENGTH), Drop.ArpMalformed, `byte ${at}`);
  }
  t.end();
});

t.test('any bytes: no throw, nothing read outside the frame', (t) => {
  const frame = new FrameView();
  const arp = new ArpView();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.boolean(), (bytes, looksLikeArp) => {
      if (looksLikeArp && bytes.length >= 8) bytes.set([0, 1, 8, 0, 6, 4, 0, 1]);
      const run = (canary: number): string => {
        const buf = new Uint8Array(bytes.length + 128).fill(canary);
        buf.set(bytes, 64);
        let s = '';
        if (frame.wrap(buf, 64, 64 + bytes.length) === Drop.None)
          s += `${frame.etherType} ${frame.srcLo} ${frame.dstHi}`;
        if (arp.wrap(buf, 64, 64 + bytes.length) === Drop.None)
          s += `${judgeArp(arp, 64, ours, LEASE)} ${arp.targetIp}`;
        return s;
      };
      return run(0x00) === run(0xff);
    }),
  );
  t.end();
});
