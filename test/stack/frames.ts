// Frames as tests write and read them: builders with every field open to abuse, and a strict parser. They share nothing with src/,
// so that an error there is not its own witness. Both work on whole frames and are made for clearness, not for speed.

/** Four bytes of a dotted quad. */
export function quad(text: string): number[] {
  return text.split('.').map(Number);
}

export function macBytes(text: string): number[] {
  return text.split(':').map((pair) => Number.parseInt(pair, 16));
}

export const BROADCAST = 'ff:ff:ff:ff:ff:ff';

const u16 = (v: number): number[] => [(v >>> 8) & 255, v & 255];
const u32 = (v: number): number[] => [(v >>> 24) & 255, (v >>> 16) & 255, (v >>> 8) & 255, v & 255];

type Bytes = ArrayLike<number> & Iterable<number>;

/** RFC 1071, the plain way. */
export function checksum(...parts: Bytes[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) sum += (part[i]! << 8) | (part[i + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x1_0000);
  return ~sum & 0xffff;
}

export function ethernet(dst: string, src: string, type: number, payload: Bytes): Uint8Array {
  const frame = new Uint8Array(14 + payload.length);
  frame.set([...macBytes(dst), ...macBytes(src), ...u16(type)]);
  frame.set(payload instanceof Uint8Array ? payload : [...payload], 14);
  return frame;
}

export interface ArpFields {
  op?: number;
  htype?: number;
  ptype?: number;
  hlen?: number;
  plen?: number;
  senderMac: string;
  senderIp: string;
  targetMac?: string;
  targetIp: string;
}

export function arp(f: ArpFields): number[] {
  return [
    ...[...u16(f.htype ?? 1), ...u16(f.ptype ?? 0x0800), f.hlen ?? 6, f.plen ?? 4, ...u16(f.op ?? 1)],
    ...[...macBytes(f.senderMac), ...quad(f.senderIp)],
    ...[...macBytes(f.targetMac ?? '00:00:00:00:00:00'), ...quad(f.targetIp)],
  ];
}

export interface Ipv4Fields {
  src: string;
  dst: string;
  protocol: number;
  ttl?: number;
  id?: number;
  /** DF 0x4000, MF 0x2000, offset in units of 8 bytes. */
  flags?: number;
  options?: number[];
  version?: number;
  ihl?: number;
  totalLength?: number;
  badChecksum?: boolean;
}

export function ipv4(f: Ipv4Fields, payload: Bytes): Uint8Array {
  const options = f.options ?? [];
  const ihl = f.ihl ?? 5 + options.length / 4;
  const total = f.totalLength ?? 20 + options.length + payload.length;
  const header = [((f.version ?? 4) << 4) | ihl, 0, ...u16(total), ...u16(f.id ?? 7), ...u16(f.flags ?? 0)];
  header.push(f.ttl ?? 64, f.protocol, 0, 0, ...quad(f.src), ...quad(f.dst), ...options);
  const sum = checksum(header) ^ (f.badChecksum ? 0x0100 : 0);
  header.splice(10, 2, ...u16(sum));
  const packet = new Uint8Array(header.length + payload.length);
  packet.set(header);
  packet.set(payload instanceof Uint8Array ? payload : [...payload], header.length);
  return packet;
}

function pseudo(src: string, dst: string, protocol: number, length: number): number[] {
  return [...quad(src), ...quad(dst), 0, protocol, ...u16(length)];
}

export interface UdpFields {
  src: string;
  dst: string;
  srcPort: number;
  dstPort: number;
  length?: number;
  /** Written as it is; left out: the right one. */
  checksum?: number;
}

/** A UDP datagram: the payload of an IPv4 packet. */
export function udp(f: UdpFields, payload: Bytes): Uint8Array {
  const length = f.length ?? 8 + payload.length;
  const datagram = new Uint8Array(8 + payload.length);
  datagram.set([...u16(f.srcPort), ...u16(f.dstPort), ...u16(length), 0, 0]);
  datagram.set(payload instanceof Uint8Array ? payload : [...payload], 8);
  const right = checksum(pseudo(f.src, f.dst, 17, length), datagram.subarray(0, length)) || 0xffff;
  datagram.set(u16(f.checksum ?? right), 6);
  return datagram;
}

/** An ICMP message: type, code, the second word, and what follows. */
export function icmp(type: number, code: number, rest: number, payload: Bytes, badChecksum = false): Uint8Array {
  const message = new Uint8Array(8 + payload.length);
  message.set([type, code, 0, 0, ...u32(rest)]);
  message.set(payload instanceof Uint8Array ? payload : [...payload], 8);
  message.set(u16(checksum(message) ^ (badChecksum ? 0x0100 : 0)), 2);
  return message;
}

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;

export interface TcpFields {
  src: string;
  dst: string;
  srcPort: number;
  dstPort: number;
  seq: number;
  ack?: number;
  flags: number;
  wnd?: number;
  options?: number[];
  badChecksum?: boolean;
}

/** A TCP segment: the payload of an IPv4 packet. */
export function tcp(f: TcpFields, payload: Bytes = []): Uint8Array {
  const options = f.options ?? [];
  const header = [...u16(f.srcPort), ...u16(f.dstPort), ...u32(f.seq), ...u32(f.ack ?? 0)];
  header.push(((20 + options.length) / 4) << 4, f.flags, ...u16(f.wnd ?? 0xffff), 0, 0, 0, 0, ...options);
  const segment = new Uint8Array(header.length + payload.length);
  segment.set(header);
  segment.set(payload instanceof Uint8Array ? payload : [...payload], header.length);
  const sum = checksum(pseudo(f.src, f.dst, 6, segment.length), segment) ^ (f.badChecksum ? 0x0100 : 0);
  segment.set(u16(sum), 16);
  return segment;
}

// --- Reading.

export interface ParsedArp {
  op: number;
  senderMac: string;
  senderIp: string;
  targetMac: string;
  targetIp: string;
}

export interface ParsedIp {
  src: string;
  dst: string;
  protocol: number;
  ttl: number;
  id: number;
  dontFragment: boolean;
  more: boolean;
  /** In bytes. */
  offset: number;
  payload: Uint8Array;
  /** The whole packet. */
  bytes: Uint8Array;
}

export interface Frame {
  dst: string;
  src: string;
  type: number;
  bytes: Uint8Array;
  arp?: ParsedArp;
  ip?: ParsedIp;
  udp?: { srcPort: number; dstPort: number; checksum: number; payload: Uint8Array };
  icmp?: { type: number; code: number; rest: number; payload: Uint8Array };
  tcp?: { srcPort: number; dstPort: number; seq: number; ack: number; flags: number; wnd: number; payload: Uint8Array };
}

const text = (bytes: Uint8Array, off: number): string => bytes.subarray(off, off + 4).join('.');
const macText = (bytes: Uint8Array, off: number): string =>
  [...bytes.subarray(off, off + 6)].map((b) => b.toString(16).padStart(2, '0')).join(':');
const at16 = (bytes: Uint8Array, off: number): number => (bytes[off]! << 8) | bytes[off + 1]!;
const at32 = (bytes: Uint8Array, off: number): number => (at16(bytes, off) * 0x1_0000 + at16(bytes, off + 2)) | 0;

function must(condition: boolean, what: string): void {
  if (!condition) throw new Error(`the stack sent a bad frame: ${what}`);
}

/** The header of any frame: what the switch passes on is the other VM's own, and may be rubbish. */
export function parseHeader(bytes: Uint8Array): Frame {
  must(bytes.length >= 14, 'runt');
  return { dst: macText(bytes, 0), src: macText(bytes, 6), type: at16(bytes, 12), bytes };
}

/** Reads a frame of the stack's. @throws Error for anything that a strict receiver would drop. */
export function parseFrame(bytes: Uint8Array): Frame {
  const frame = parseHeader(bytes);
  const body = bytes.subarray(14);
  if (frame.type === 0x0806) {
    must(body.length >= 28 && at32(body, 0) === 0x10800 && at16(body, 4) === 0x0604, 'ARP header');
    const [op, senderMac, senderIp] = [at16(body, 6), macText(body, 8), text(body, 14)];
    frame.arp = { op, senderMac, senderIp, targetMac: macText(body, 18), targetIp: text(body, 24) };
  } else if (frame.type === 0x0800) frame.ip = parseIp(body, frame);
  return frame;
}

function parseIp(body: Uint8Array, frame: Frame): ParsedIp {
  must(body[0] === 0x45, 'IPv4 without options');
  must(at16(body, 2) === body.length, 'total length is the frame');
  must(checksum(body.subarray(0, 20)) === 0, 'IPv4 checksum');
  const word = at16(body, 6);
  const ip: ParsedIp = {
    src: text(body, 12),
    dst: text(body, 16),
    protocol: body[9]!,
    ttl: body[8]!,
    id: at16(body, 4),
    dontFragment: (word & 0x4000) !== 0,
    more: (word & 0x2000) !== 0,
    offset: (word & 0x1fff) * 8,
    payload: body.subarray(20),
    bytes: body,
  };
  if (!ip.more && ip.offset === 0) parseTransport(ip, frame);
  return ip;
}

/** Fills in `udp`, `icmp` or `tcp` of a packet that is whole. */
export function parseTransport(
  ip: { src: string; dst: string; protocol: number; payload: Uint8Array },
  frame: Frame,
): void {
  const p = ip.payload;
  const sum = (): number => checksum(pseudo(ip.src, ip.dst, ip.protocol, p.length), p);
  if (ip.protocol === 17) {
    must(p.length >= 8 && at16(p, 4) === p.length, 'UDP length');
    must(at16(p, 6) !== 0 && sum() === 0, 'UDP checksum');
    frame.udp = { srcPort: at16(p, 0), dstPort: at16(p, 2), checksum: at16(p, 6), payload: p.subarray(8) };
  } else if (ip.protocol === 1) {
    must(p.length >= 8 && checksum(p) === 0, 'ICMP checksum');
    frame.icmp = { type: p[0]!, code: p[1]!, rest: at32(p, 4), payload: p.subarray(8) };
  } else if (ip.protocol === 6) {
    must(p.length >= 20 && sum() === 0, 'TCP checksum');
    const header = (p[12]! >>> 4) * 4;
    must(header >= 20 && header <= p.length, 'TCP data offset');
    frame.tcp = {
      srcPort: at16(p, 0),
      dstPort: at16(p, 2),
      seq: at32(p, 4),
      ack: at32(p, 8),
      flags: p[13]!,
      wnd: at16(p, 14),
      payload: p.subarray(header),
    };
  }
}

/** Fragments put together again, as a receiver would; their order must be right and nothing may overlap. */
export function reassemble(frames: Frame[]): Frame {
  const first = frames[0]!.ip!;
  const parts: number[] = [];
  frames.forEach((f, i) => {
    const ip = f.ip!;
    must(ip.id === first.id && ip.offset === parts.length, 'fragments follow one another');
    must(ip.more === i < frames.length - 1 && (!ip.more || ip.payload.length % 8 === 0), 'MF and multiples of 8');
    for (const b of ip.payload) parts.push(b);
  });
  const whole: Frame = { ...frames[0]! };
  parseTransport({ ...first, payload: Uint8Array.from(parts) }, whole);
  return whole;
}
