// What the benchmarks of the DNS service share: the service behind the stack as the daemon wires them, an upstream that answers
// without a kernel, and a guest's questions as frames.

import { setU16 } from '../../src/base/bytes.ts';
import { finish, sumBytes } from '../../src/base/checksum.ts';
import type { Clock } from '../../src/base/clock.ts';
import { LocalNames } from '../../src/dns/local-names.ts';
import { HEADER_BYTES } from '../../src/dns/message.ts';
import { nameFromText } from '../../src/dns/name.ts';
import { AddressTexts } from '../../src/forwarder/address-texts.ts';
import { DnsService } from '../../src/forwarder/dns-service.ts';
import { HostRandom } from '../../src/host/host-random.ts';
import { createPacketMemory, type PacketMemory } from '../../src/host/packet-memory.ts';
import { SENT, type UdpHandleOwner, type UdpHandles } from '../../src/host/udp-handle.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';
import { emitIpv4Header, PROTO_UDP, pseudoHeaderSumV4 } from '../../src/ip/ipv4.ts';
import { emitUdpHeader } from '../../src/ip/udp.ts';
import { Stack } from '../../src/stack/stack.ts';
import type { VmPort } from '../../src/stack/vm-port.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { GATEWAY_MAC, GUEST_MAC } from '../wire.ts';

export const GATEWAY: IpAddress = parseAddress('192.168.65.1')!;
export const GUEST: IpAddress = parseAddress('192.168.65.3')!;
const NETWORK = Cidr4.parse('192.168.65.0/24')!;
const DNS_PORT = 53;
const GUEST_PORT = 40_000;
/** Ethernet, IPv4 and UDP. */
export const HEADERS = 42;

/** An A record of 203.0.113.7 that lives for five minutes, its owner a pointer to the question. */
const RECORD = Uint8Array.from([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 203, 0, 113, 7]);

/** A question for the A record of a name, as stub resolvers write it. */
export function question(name: string, id: number): Uint8Array {
  const wire = nameFromText(name)!;
  const out = new Uint8Array(HEADER_BYTES + wire.length + 4);
  setU16(out, 0, id);
  setU16(out, 2, 0x0100);
  setU16(out, 4, 1);
  out.set(wire, HEADER_BYTES);
  setU16(out, HEADER_BYTES + wire.length, 1);
  setU16(out, HEADER_BYTES + wire.length + 2, 1);
  return out;
}

/** The answer to a question without EDNS. */
export function answer(asked: Uint8Array): Uint8Array {
  const out = new Uint8Array(asked.length + RECORD.length);
  out.set(asked);
  setU16(out, 2, 0x8180);
  setU16(out, 6, 1);
  out.set(RECORD, asked.length);
  return out;
}

/** The frame of a guest's question, with the checksum that guests send. */
export function questionFrame(message: Uint8Array, guest: number = GUEST.v4): Uint8Array {
  const frame = new Uint8Array(HEADERS + message.length);
  frame.set(GATEWAY_MAC, 0);
  frame.set(GUEST_MAC, 6);
  frame.set([8, 0], 12);
  const length = 8 + message.length;
  emitIpv4Header(frame, 14, 20 + length, 0, 0x4000, 64, PROTO_UDP, guest, GATEWAY.v4);
  frame.set(message, HEADERS);
  const pseudo = pseudoHeaderSumV4(guest, GATEWAY.v4, PROTO_UDP, length);
  const sum = sumBytes(frame, HEADERS, message.length);
  emitUdpHeader(frame, 34, GUEST_PORT, DNS_PORT, message.length, pseudo, sum);
  return frame;
}

/** @returns what is wrong with a frame that should be a good answer, undefined if nothing is. */
export function wrongAnswer(mem: Uint8Array, at: number, len: number): string | undefined {
  if (len < HEADERS + HEADER_BYTES + RECORD.length) return `${len} bytes are no answer`;
  const udp = at + 34;
  if (((mem[udp]! << 8) | mem[udp + 1]!) !== DNS_PORT) return 'not from port 53';
  const length = len - 34;
  const sum = sumBytes(mem, udp, length) + pseudoHeaderSumV4(GATEWAY.v4, GUEST.v4, PROTO_UDP, length);
  if (finish(sum) !== 0) return 'a wrong checksum';
  const dns = at + HEADERS;
  if ((mem[dns + 2]! & 0x80) === 0 || (mem[dns + 3]! & 15) !== 0 || mem[dns + 7] !== 1) return 'not one record';
  for (let i = 1; i <= 4; i++) {
    if (mem[at + len - i] !== RECORD[RECORD.length - i]) return 'another address';
  }
  return undefined;
}

/** Sockets behind which a name server answers as soon as `answerAll` is called. */
export class AnsweringHandles implements UdpHandles {
  readonly #asked: { owner: UdpHandleOwner; query: Uint8Array }[] = [];

  create(owner: UdpHandleOwner) {
    const send = (query: Uint8Array): number => {
      // Copy: as a kernel does; what was sent is the sender's again.
      this.#asked.push({ owner, query: query.slice() });
      return SENT;
    };
    return { bind: () => '', connect: () => '', send, sendTo: send, port: 40_000, address: '', close: () => {} };
  }

  inherit(): string {
    return 'ENOTSUP';
  }

  /** @returns how many there were. */
  answerAll(): number {
    const asked = this.#asked.splice(0);
    for (const { owner, query } of asked) {
      const message = answer(query);
      owner.onDatagram(message, 0, message.length, '', 0);
    }
    return asked.length;
  }
}

/** Stack and service as the daemon wires them. */
export class DnsRig {
  readonly memory: PacketMemory;
  readonly stack: Stack;
  readonly service: DnsService;
  readonly upstream: AnsweringHandles = new AnsweringHandles();
  onTurnWanted: () => void = () => {};

  constructor(clock: Clock) {
    this.memory = createPacketMemory(16 * 1024 * 1024);
    const none = { version: 0, addressOf: () => undefined, hostOf: () => undefined };
    this.service = new DnsService({
      sender: {
        sendDatagram: (src, srcPort, dst, dstPort, buf, off, len, now) =>
          this.stack.udp.sendDatagram(src, srcPort, dst, dstPort, buf, off, len, now),
        sendUnreachable: () => {},
      },
      clock,
      random: new HostRandom(),
      sockets: { handles: this.upstream, texts: new AddressTexts() },
      names: new LocalNames({ gateway: [GATEWAY], hostAlias: [], network: NETWORK, domain: '', guests: none }),
      upstreams: ['192.0.2.1'],
      hostsPath: '',
      linkLimitBytes: (vm) => Math.max(1232, (vm as VmPort).takes - 28),
      onDeadlineChanged: () => {},
    });
    this.stack = new Stack(
      {
        network: NETWORK,
        gateway: GATEWAY.v4,
        hostAlias: undefined,
        mac: GATEWAY_MAC,
        tcp: { ...DEFAULT_TCP_LIMITS },
        kernel: this.memory.kernel,
      },
      this.memory.slab,
      new HostRandom(),
      { onSyn: () => {} },
      { onDatagram: () => false, onVmGone: () => {} },
      {
        onTurnWanted: () => this.onTurnWanted(),
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => {
          throw error;
        },
      },
    );
    this.stack.udp.serve(DNS_PORT, this.service);
    this.service.start();
  }
}
