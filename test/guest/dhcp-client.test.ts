// The DHCP client against the daemon's own server and against scripted ones, on manual time.

import t from 'tap';
import { DropCounters } from '../../src/base/drop.ts';
import { DhcpClient, DhcpState } from '../../src/guest/dhcp-client.ts';
import type { DhcpLease } from '../../src/guest/dhcp-lease.ts';
import { Cidr4, formatV4, IpAddress } from '../../src/ip/address.ts';
import { DhcpBuilder } from '../../src/services/dhcp-builder.ts';
import { BOOTREPLY, DhcpMessage, DhcpOption, DhcpType } from '../../src/services/dhcp-message.ts';
import { DhcpService } from '../../src/services/dhcp-server.ts';
import { Leases } from '../../src/services/leases.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';

const MAC = Uint8Array.of(2, 0, 0, 0, 0, 7);
const GATEWAY = 0xc0a84101 | 0;
const ADDRESS = 0xc0a84103 | 0;
const HOUR_MS = 3_600_000;

/** A client whose messages are kept. */
class Bench {
  readonly sent: { dst: string; type: number; ciaddr: string; requested: string; at: number; bytes: Uint8Array }[] = [];
  readonly heard: string[] = [];
  readonly client: DhcpClient;
  now = 1000;

  constructor() {
    this.client = new DhcpClient(
      { mac: MAC, hostName: 'alpha' },
      (dst, buf, off, len, now) => {
        const bytes = buf.slice(off, off + len);
        const msg = new DhcpMessage();
        if (!msg.wrap(bytes, 0, len)) throw new Error('not a DHCP message');
        this.sent.push({
          dst: formatV4(dst),
          type: msg.messageType,
          ciaddr: formatV4(msg.ciaddr),
          requested: formatV4(msg.i32(DhcpOption.RequestedAddress) ?? 0),
          at: now,
          bytes,
        });
      },
      {
        onBound: (lease: DhcpLease) => this.heard.push(`bound ${formatV4(lease.address)}`),
        onLost: () => this.heard.push('lost'),
        onRefused: (message) => this.heard.push(`refused ${message}`),
      },
      new SeededRandom(1),
    );
  }

  /** Lets time pass, deadline by deadline. */
  pass(ms: number): void {
    const end = this.now + ms;
    while (this.client.nextDeadline() <= end) {
      this.now = Math.max(this.now, this.client.nextDeadline());
      this.client.poll(this.now);
    }
    this.now = end;
  }

  /** A server's message in answer to the last one. */
  answer(
    type: number,
    fill: (b: DhcpBuilder) => void = () => {},
    yiaddr = ADDRESS,
    change?: (m: Uint8Array) => void,
  ): void {
    const asked = new DhcpMessage();
    const last = this.sent.at(-1)!.bytes;
    asked.wrap(last, 0, last.length);
    const b = new DhcpBuilder();
    b.begin(BOOTREPLY, asked.xid, 0, 1472);
    b.addresses(0, yiaddr, 0, 0);
    b.chaddr(MAC, 0);
    b.addU8(DhcpOption.MessageType, type);
    b.addU32(DhcpOption.ServerId, GATEWAY);
    fill(b);
    const len = b.finish();
    change?.(b.buf);
    this.client.input(b.buf, 0, len, this.now);
  }

  /** OFFER and ACK of a lease of `seconds`. */
  bind(seconds: number): void {
    this.client.start(this.now);
    this.answer(DhcpType.Offer);
    this.answer(DhcpType.Ack, (b) => {
      b.addU32(DhcpOption.LeaseTime, seconds);
      b.addU32(DhcpOption.SubnetMask, 0xffffff00);
    });
  }
}

const types = (bench: Bench): number[] => bench.sent.map((m) => m.type);

t.test('RFC 2131 4.4.1: DISCOVER, REQUEST, bound; what is not for it is ignored', async (t) => {
  const b = new Bench();
  b.client.start(b.now);
  t.match(b.sent[0], { dst: '255.255.255.255', type: DhcpType.Discover, ciaddr: '0.0.0.0' });
  b.answer(DhcpType.Ack);
  b.answer(DhcpType.Offer, () => {}, 0);
  b.answer(DhcpType.Offer, undefined, ADDRESS, (m) => {
    m[4]! ^= 1;
  });
  b.answer(DhcpType.Offer, undefined, ADDRESS, (m) => {
    m[28 + 5]! ^= 1;
  });
  for (let cut = 0; cut < 300; cut += 7) b.client.input(b.sent[0]!.bytes, 0, cut, b.now);
  t.equal(b.client.state, DhcpState.Selecting, 'an early ACK, no address, another xid, another MAC, rubbish');
  b.answer(DhcpType.Offer);
  t.match(b.sent[1], { dst: '255.255.255.255', type: DhcpType.Request, requested: '192.168.65.3' });
  b.answer(DhcpType.Ack);
  t.equal(b.client.state, DhcpState.Requesting, 'an ACK without a lease time');
  b.answer(DhcpType.Ack, (m) => m.addU32(DhcpOption.LeaseTime, 600));
  t.equal(b.client.state, DhcpState.Bound);
  t.match(b.client.lease, { prefix: 24, router: 0, dns: [], mtu: undefined, leaseMs: 600_000 });
  t.strictSame(b.heard, ['bound 192.168.65.3']);
});

t.test('RFC 2131 4.1: 4, 8, 16, 32, 64 s between tries, one second more or less', async (t) => {
  const b = new Bench();
  b.client.start(b.now);
  b.pass(10 * 60_000);
  const gaps = b.sent.slice(1).map((m, i) => m.at - b.sent[i]!.at);
  [4, 8, 16, 32, 64, 64].forEach((s, i) => {
    t.ok(Math.abs(gaps[i]! - s * 1000) <= 1000, `${gaps[i]}`);
  });
  t.ok(types(b).every((type) => type === DhcpType.Discover));
  b.answer(DhcpType.Offer);
  b.pass(10 * 60_000);
  t.equal(types(b).filter((type) => type === DhcpType.Request).length, 4, 'a REQUEST is given up after four tries');
  t.equal(b.client.state, DhcpState.Selecting);
});

t.test('RFC 2131 4.4.5: renews at T1 by unicast, rebinds at T2 by broadcast, gives up at the end', async (t) => {
  const b = new Bench();
  b.bind(3600);
  const bound = b.now;
  b.sent.length = 0;
  b.pass(HOUR_MS / 2 - 1);
  t.equal(b.sent.length, 0);
  b.pass(1);
  t.match(b.sent[0], { dst: '192.168.65.1', type: DhcpType.Request, ciaddr: '192.168.65.3', requested: '0.0.0.0' });
  t.equal(b.sent[0]!.at, bound + HOUR_MS / 2);
  b.pass(HOUR_MS * 0.375);
  const firstBroadcast = b.sent.find((m) => m.dst === '255.255.255.255');
  t.equal(firstBroadcast?.at, bound + HOUR_MS * 0.875);
  t.strictSame(b.heard, ['bound 192.168.65.3'], 'the address is still its own');
  b.pass(HOUR_MS * 0.125);
  t.strictSame(b.heard, ['bound 192.168.65.3', 'lost']);
  t.equal(b.sent.at(-1)!.type, DhcpType.Discover);
  const spacing = b.sent.slice(1, -1).map((m, i) => m.at - b.sent[i]!.at);
  t.ok(spacing.filter((ms) => ms < 60_000).length <= 1, `no storm (T2 may come between two tries): ${spacing}`);
});

t.test('an ACK while renewing starts the lease anew, a NAK ends it', async (t) => {
  const b = new Bench();
  b.bind(600);
  b.pass(300_000);
  b.answer(DhcpType.Ack, (m) => m.addU32(DhcpOption.LeaseTime, 1200));
  t.equal(b.client.lease?.expiresAt, b.now + 1_200_000);
  b.pass(600_000);
  t.equal(b.client.state, DhcpState.Renewing);
  b.answer(DhcpType.Nak, (m) => m.addText(DhcpOption.Message, 'moved'));
  t.strictSame(b.heard.slice(2), ['lost', 'refused moved']);
  t.equal(b.client.state, DhcpState.Selecting);
});

t.test('a lease without end never renews', async (t) => {
  const b = new Bench();
  b.bind(0xffffffff);
  t.equal(b.client.nextDeadline(), Number.POSITIVE_INFINITY);
  b.client.renew(b.now);
  t.equal(b.client.state, DhcpState.Renewing, 'unless it is told to');
  b.client.release(b.now);
  t.match(b.sent.at(-1), { type: DhcpType.Release, dst: '192.168.65.1', ciaddr: '192.168.65.3' });
  t.equal(b.client.state, DhcpState.Stopped);
  const count = b.sent.length;
  b.client.release(b.now);
  b.client.renew(b.now);
  b.client.decline(b.now);
  t.equal(b.sent.length, count, 'without a lease there is nothing to say');
});

t.test('options of the lease: split, compressed, of a wrong length', async (t) => {
  const b = new Bench();
  const bind = (fill: (m: DhcpBuilder) => void): DhcpLease => {
    b.client.start(b.now);
    b.answer(DhcpType.Offer);
    b.answer(DhcpType.Ack, (m) => {
      m.addU32(DhcpOption.LeaseTime, 600);
      fill(m);
    });
    return b.client.lease!;
  };
  const bytes = (m: DhcpBuilder, code: number, ...list: number[]): boolean =>
    m.addBytes(code, Uint8Array.from(list), 0, list.length);
  // RFC 3397 section 2's own shape: eng.example.org, then marketing by pointer.
  const search = [...'\x03eng\x07example\x03org\0\x09marketing'].map((c) => c.charCodeAt(0)).concat(0xc0, 4);
  t.strictSame(bind((m) => bytes(m, DhcpOption.DomainSearch, ...search)).search, [
    'eng.example.org',
    'marketing.example.org',
  ]);
  for (const bad of [[0xc0, 0], [5, 1], [0xc0], [1, 97, 0xc0, 0], [64, 1, 1]]) {
    t.strictSame(bind((m) => bytes(m, DhcpOption.DomainSearch, ...bad)).search, [], `search list ${bad}`);
  }
  t.match(
    bind((m) => {
      bytes(m, DhcpOption.Router, 1, 2, 3);
      bytes(m, DhcpOption.DnsServers, 1, 2, 3, 4, 5, 6, 7, 8);
      bytes(m, DhcpOption.InterfaceMtu, 0, 60);
      bytes(m, DhcpOption.SubnetMask, 255, 255, 0, 0);
      m.addText(DhcpOption.DomainName, 'vm.example\0');
    }),
    { router: 0, dns: [0x01020304, 0x05060708], mtu: undefined, prefix: 16, domain: 'vm.example' },
  );
});

t.test("with the daemon's own server", async (t) => {
  const b = new Bench();
  const leases = new Leases({
    network: new Cidr4(GATEWAY, 24),
    gateway: GATEWAY,
    hostAlias: undefined,
    fixed: [],
    leaseMs: 600_000,
  });
  const server = new DhcpService(
    { gateway: GATEWAY, dns: [GATEWAY], ntp: [GATEWAY], domain: 'd', search: ['s.d'], routes: [], mtuOf: () => 9000 },
    leases,
    { sendDhcp: (_vm, _mac, _ip, _port, buf, off, len) => b.client.input(buf, off, len, b.now) },
    new DropCounters(),
    { onLease: () => {}, onRelease: () => {} },
  );
  const none = IpAddress.v4(0);
  const meta = { vm: { id: 1 }, macBuf: MAC, macOff: 0, src: none, srcPort: 68, dst: none, dstPort: 67 };
  const serve = (from: number): void => {
    for (const m of b.sent.slice(from)) server.onDatagram(meta as never, m.bytes, 0, m.bytes.length, b.now);
  };
  b.client.start(b.now);
  serve(0);
  serve(1);
  t.equal(b.client.state, DhcpState.Bound);
  t.match(b.client.lease, { router: GATEWAY, dns: [GATEWAY], ntp: [GATEWAY], domain: 'd', search: ['s.d'], mtu: 9000 });
  t.equal(b.client.lease?.leaseMs, 600_000);
});
