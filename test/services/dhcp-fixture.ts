// A DHCP service with a recording output, and messages of clients, for the tests of this folder.

import { DropCounters } from '../../src/base/drop.ts';
import { Cidr4, IpAddress, parseV4 } from '../../src/ip/address.ts';
import { DhcpBuilder } from '../../src/services/dhcp-builder.ts';
import { DhcpMessage, DhcpOption } from '../../src/services/dhcp-message.ts';
import type { DhcpOptions } from '../../src/services/dhcp-parameters.ts';
import { DhcpService } from '../../src/services/dhcp-server.ts';
import { Leases, type LeasesOptions } from '../../src/services/leases.ts';

export const ip = (text: string): number => parseV4(text) ?? 0;
export const mac = (n: number): Uint8Array => Uint8Array.of(0x52, 0x54, 0, 0, n >> 8, n);
export const BROADCAST = -1;

export interface Sent {
  readonly vmId: number;
  readonly mac: Uint8Array | undefined;
  readonly ip: number;
  readonly port: number;
  readonly bytes: Uint8Array;
  readonly msg: DhcpMessage;
}

export interface Request {
  type?: number;
  xid?: number;
  flags?: number;
  ciaddr?: string;
  giaddr?: string;
  mac?: Uint8Array;
  /** Options in order; text values are addresses. */
  options?: readonly (readonly [number, number[] | string])[];
}

/** Bytes of a client's message. */
export function request(r: Request): Uint8Array {
  const b = new DhcpBuilder();
  b.begin(1, r.xid ?? 0x12345678, r.flags ?? 0, 1472);
  b.addresses(ip(r.ciaddr ?? ''), 0, 0, ip(r.giaddr ?? ''));
  b.chaddr(r.mac ?? mac(1), 0);
  if (r.type !== undefined) b.addU8(DhcpOption.MessageType, r.type);
  for (const [code, value] of r.options ?? []) {
    if (typeof value === 'string') b.addU32(code, ip(value));
    else b.addBytes(code, Uint8Array.from(value), 0, value.length);
  }
  return b.buf.slice(0, b.finish());
}

export class Net {
  readonly leases: Leases;
  readonly drops = new DropCounters();
  readonly service: DhcpService;
  readonly sent: Sent[] = [];
  readonly events: string[] = [];
  now = 1000;

  constructor(leases: Partial<LeasesOptions> = {}, options: Partial<DhcpOptions> = {}) {
    this.leases = new Leases({
      network: new Cidr4(ip('192.168.65.0'), 24),
      gateway: ip('192.168.65.1'),
      hostAlias: ip('192.168.65.254'),
      fixed: [],
      leaseMs: 3_600_000,
      ...leases,
    });
    this.service = new DhcpService(
      {
        gateway: ip('192.168.65.1'),
        dns: [ip('192.168.65.1')],
        ntp: [ip('192.168.65.1')],
        domain: 'isthmus.internal',
        search: ['corp.example', 'lab.corp.example'],
        routes: [],
        mtuOf: (vmId) => (vmId === 2 ? 1500 : 65_520),
        ...options,
      },
      this.leases,
      {
        sendDhcp: (vmId, dstMac, dstIp, port, buf, off, len) => {
          const bytes = buf.slice(off, off + len);
          const msg = new DhcpMessage();
          if (!msg.wrap(bytes, 0, len)) throw new Error('the service sent a malformed message');
          this.sent.push({ vmId, mac: dstMac?.slice(), ip: dstIp, port, bytes, msg });
        },
      },
      this.drops,
      {
        onLease: (m, address, name) => this.events.push(`lease ${m.join('.')} ${address >>> 0} ${name}`),
        onRelease: (m, address) => this.events.push(`release ${m.join('.')} ${address >>> 0}`),
      },
    );
  }

  /** Hands bytes in. @returns the one reply, or undefined. */
  bytes(buf: Uint8Array, vmId = 1, src = 0, frameMac: Uint8Array = mac(1)): Sent | undefined {
    this.sent.length = 0;
    const meta = { vm: { id: vmId }, macBuf: frameMac, macOff: 0, src: IpAddress.v4(src) };
    this.service.onDatagram(meta, buf, 0, buf.length, this.now);
    if (this.sent.length > 1) throw new Error('more than one reply');
    return this.sent[0];
  }

  say(r: Request, vmId = 1, src = '', frameMac?: Uint8Array): Sent | undefined {
    return this.bytes(request(r), vmId, ip(src), frameMac ?? r.mac);
  }

  /** DISCOVER, REQUEST, ACK. @returns the address, or undefined. */
  lease(m: Uint8Array, vmId = 1, options: Request['options'] = []): number | undefined {
    const offer = this.say({ type: 1, mac: m, options }, vmId);
    if (offer === undefined) return undefined;
    const ack = this.say(
      {
        type: 3,
        mac: m,
        options: [...options, [50, bytesOf(offer.msg.yiaddr)], [54, '192.168.65.1']],
      },
      vmId,
    );
    return ack?.msg.messageType === 5 ? ack.msg.yiaddr : undefined;
  }
}

export function bytesOf(v: number): number[] {
  return [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255];
}

/** Codes of the main options area in order, without padding. */
export function codes(bytes: Uint8Array): number[] {
  const out: number[] = [];
  let at = 240;
  while (at < bytes.length && bytes[at] !== 255) {
    if (bytes[at] === 0) at++;
    else {
      out.push(bytes[at] ?? 0);
      at += 2 + (bytes[at + 1] ?? 0);
    }
  }
  if (bytes[at] === 255) out.push(255);
  return out;
}

export function option(msg: DhcpMessage, code: number): number[] | undefined {
  const len = msg.optionLen(code);
  return len < 0 ? undefined : [...msg.options.slice(msg.optionOff(code), msg.optionOff(code) + len)];
}
