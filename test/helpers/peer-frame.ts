// Frames as the guest builds and reads them, written apart from src/ so that a mistake there is not repeated here. It can build
// what no sane peer sends: every field may be set, every check broken. IPv4 over Ethernet; RFC 791, 792, 9293.

export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const PSH = 0x08;
export const ACK = 0x10;
export const URG = 0x20;
export const ECE = 0x40;
export const CWR = 0x80;

export const ETHERNET_BYTES = 14;
export const IPV4_BYTES = 20;
export const TCP_BYTES = 20;

/** One's-complement checksum (RFC 1071) the slow and obvious way. */
export function checksum(...parts: Uint8Array[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) sum += (part[i]! << 8) | (part[i + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}

export interface Ipv4Fields {
  dstMac: Uint8Array;
  srcMac: Uint8Array;
  /** uint32. */
  src: number;
  dst: number;
  protocol: number;
  payload: Uint8Array;
  id?: number;
  ttl?: number;
  /** Ethernet padding behind the packet. */
  padding?: number;
}

/** An Ethernet frame with one whole IPv4 packet. */
export function ipv4Frame(f: Ipv4Fields): Uint8Array {
  const frame = new Uint8Array(ETHERNET_BYTES + IPV4_BYTES + f.payload.length + (f.padding ?? 0));
  const view = new DataView(frame.buffer);
  frame.set(f.dstMac, 0);
  frame.set(f.srcMac, 6);
  view.setUint16(12, 0x0800);
  view.setUint8(14, 0x45);
  view.setUint16(16, IPV4_BYTES + f.payload.length);
  view.setUint16(18, f.id ?? 0);
  view.setUint16(20, 0x4000);
  view.setUint8(22, f.ttl ?? 64);
  view.setUint8(23, f.protocol);
  view.setUint32(26, f.src);
  view.setUint32(30, f.dst);
  view.setUint16(24, checksum(frame.subarray(14, 34)));
  frame.set(f.payload, ETHERNET_BYTES + IPV4_BYTES);
  frame.fill(0xee, ETHERNET_BYTES + IPV4_BYTES + f.payload.length);
  return frame;
}

function pseudoHeader(src: number, dst: number, protocol: number, length: number): Uint8Array {
  const p = new Uint8Array(12);
  const view = new DataView(p.buffer);
  view.setUint32(0, src);
  view.setUint32(4, dst);
  view.setUint8(9, protocol);
  view.setUint16(10, length);
  return p;
}

export interface TcpFields {
  src: number;
  dst: number;
  srcPort: number;
  dstPort: number;
  /** Any integer; taken modulo 2^32. */
  seq: number;
  ack: number;
  flags: number;
  win: number;
  /** Padded with EOL to a multiple of four. */
  options: Uint8Array;
  payload: Uint8Array;
  urgent?: number;
  /** In words; the true one by default. */
  dataOffset?: number;
  reserved?: number;
}

/** A TCP segment with its checksum. */
export function tcpSegment(f: TcpFields): Uint8Array {
  const optionBytes = (f.options.length + 3) & ~3;
  const segment = new Uint8Array(TCP_BYTES + optionBytes + f.payload.length);
  const view = new DataView(segment.buffer);
  view.setUint16(0, f.srcPort);
  view.setUint16(2, f.dstPort);
  view.setUint32(4, f.seq);
  view.setUint32(8, f.ack);
  view.setUint8(12, ((f.dataOffset ?? (TCP_BYTES + optionBytes) / 4) << 4) | (f.reserved ?? 0));
  view.setUint8(13, f.flags);
  view.setUint16(14, f.win);
  view.setUint16(18, f.urgent ?? 0);
  segment.set(f.options, TCP_BYTES);
  segment.set(f.payload, TCP_BYTES + optionBytes);
  view.setUint16(16, checksum(pseudoHeader(f.src, f.dst, 6, segment.length), segment));
  return segment;
}

/** A TCP segment that arrived, decoded. Numbers as on the wire (uint32). */
export interface Segment {
  /** Virtual time it was sent at. */
  at: number;
  src: number;
  dst: number;
  srcPort: number;
  dstPort: number;
  seq: number;
  ack: number;
  flags: number;
  win: number;
  urgent: number;
  mss?: number;
  ws?: number;
  sackOk: boolean;
  ts?: [number, number];
  /** Edges as on the wire. */
  sack: [number, number][];
  optionBytes: number;
  payload: Uint8Array;
  /** The whole frame. */
  frame: Uint8Array;
}

/** An ICMP message that arrived. */
export interface IcmpMessage {
  at: number;
  src: number;
  type: number;
  code: number;
  mtu: number;
  /** The quoted packet. */
  quote: Uint8Array;
}

export class FrameError extends Error {}

function need(condition: boolean, what: string): asserts condition {
  if (!condition) throw new FrameError(what);
}

/** Checks Ethernet and IPv4 and hands out the payload. @throws FrameError naming what is wrong. */
export function readIpv4(
  frame: Uint8Array,
  mtu: number,
): { src: number; dst: number; protocol: number; df: boolean; ttl: number; payload: Uint8Array } {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  need(frame.length >= ETHERNET_BYTES + IPV4_BYTES, 'frame too short for IPv4');
  need(frame.length <= mtu + ETHERNET_BYTES, `frame of ${frame.length} bytes exceeds MTU ${mtu}`);
  need(view.getUint8(14) === 0x45, 'IPv4 header has options or another version');
  need(view.getUint16(16) === frame.length - ETHERNET_BYTES, 'IPv4 total length differs from the frame');
  need(checksum(frame.subarray(14, 34)) === 0, 'IPv4 header checksum is wrong');
  return {
    src: view.getUint32(26),
    dst: view.getUint32(30),
    protocol: view.getUint8(23),
    df: (view.getUint16(20) & 0x4000) !== 0,
    ttl: view.getUint8(22),
    payload: frame.subarray(ETHERNET_BYTES + IPV4_BYTES),
  };
}

/** Decodes and checks a frame that carries TCP. @throws FrameError naming what is wrong. */
export function readTcp(frame: Uint8Array, mtu: number, at: number): Segment {
  const ip = readIpv4(frame, mtu);
  need(ip.df, 'DF is not set');
  need(ip.ttl === 64, `TTL is ${ip.ttl}`);
  const p = ip.payload;
  const view = new DataView(p.buffer, p.byteOffset, p.length);
  need(p.length >= TCP_BYTES, 'TCP header cut');
  need(checksum(pseudoHeader(ip.src, ip.dst, 6, p.length), p) === 0, 'TCP checksum is wrong');
  const header = (view.getUint8(12) >>> 4) * 4;
  need(header >= TCP_BYTES && header <= p.length, 'TCP data offset is wrong');
  need((view.getUint8(12) & 15) === 0, 'TCP reserved bits are set');
  const segment: Segment = {
    at,
    src: ip.src,
    dst: ip.dst,
    srcPort: view.getUint16(0),
    dstPort: view.getUint16(2),
    seq: view.getUint32(4),
    ack: view.getUint32(8),
    flags: view.getUint8(13),
    win: view.getUint16(14),
    urgent: view.getUint16(18),
    sackOk: false,
    sack: [],
    optionBytes: header - TCP_BYTES,
    payload: p.slice(header),
    frame: frame.slice(),
  };
  let i = TCP_BYTES;
  while (i < header) {
    const kind = view.getUint8(i);
    if (kind === 0) break;
    if (kind === 1) {
      i++;
      continue;
    }
    need(i + 1 < header, 'TCP option cut');
    const len = view.getUint8(i + 1);
    need(len >= 2 && i + len <= header, `TCP option ${kind} has length ${len}`);
    if (kind === 2) segment.mss = view.getUint16(i + 2);
    else if (kind === 3) segment.ws = view.getUint8(i + 2);
    else if (kind === 4) segment.sackOk = true;
    else if (kind === 8) segment.ts = [view.getUint32(i + 2), view.getUint32(i + 6)];
    else if (kind === 5) {
      need((len - 2) % 8 === 0, `SACK option of length ${len}`);
      for (let b = i + 2; b < i + len; b += 8) segment.sack.push([view.getUint32(b), view.getUint32(b + 4)]);
    } else need(false, `unknown TCP option ${kind} sent`);
    i += len;
  }
  return segment;
}

export interface OptionFields {
  mss?: number;
  ws?: number;
  sackOk?: boolean;
  ts?: readonly [number, number];
  /** Edges as on the wire. */
  sack?: readonly (readonly [number, number])[];
  /** Raw bytes, in front of the others. */
  raw?: readonly number[];
}

/** TCP options in the order of a usual peer. */
export function tcpOptions(o: OptionFields): Uint8Array {
  const out: number[] = [...(o.raw ?? [])];
  const u32 = (v: number): void => {
    out.push((v >>> 24) & 255, (v >>> 16) & 255, (v >>> 8) & 255, v & 255);
  };
  if (o.mss !== undefined) out.push(2, 4, o.mss >>> 8, o.mss & 255);
  if (o.sackOk) out.push(4, 2);
  if (o.ts) {
    if (!o.sackOk) out.push(1, 1);
    out.push(8, 10);
    u32(o.ts[0]);
    u32(o.ts[1]);
  } else if (o.sackOk) out.push(1, 1);
  if (o.ws !== undefined) out.push(1, 3, 3, o.ws);
  if (o.sack && o.sack.length > 0) {
    out.push(1, 1, 5, 2 + 8 * o.sack.length);
    for (const [l, r] of o.sack) {
      u32(l);
      u32(r);
    }
  }
  return Uint8Array.from(out);
}

/** `S`, `S.`, `FP.` and so on. */
export function flagText(flags: number): string {
  let s = '';
  if (flags & SYN) s += 'S';
  if (flags & FIN) s += 'F';
  if (flags & RST) s += 'R';
  if (flags & PSH) s += 'P';
  if (flags & URG) s += 'U';
  if (flags & ECE) s += 'E';
  if (flags & CWR) s += 'W';
  if (flags & ACK) s += '.';
  return s === '' ? 'none' : s;
}

/** One line in the manner of tcpdump; sequence numbers relative to `seqBase` and `ackBase`. */
export function segmentText(
  s: Pick<Segment, 'seq' | 'ack' | 'flags' | 'win' | 'mss' | 'ws' | 'sackOk' | 'ts' | 'sack' | 'payload'>,
  seqBase: number,
  ackBase: number,
): string {
  const from = (s.seq - seqBase) | 0;
  const parts = [`${flagText(s.flags)} ${from}:${from + s.payload.length}(${s.payload.length})`];
  if (s.flags & ACK) parts.push(`ack ${(s.ack - ackBase) | 0}`);
  parts.push(`win ${s.win}`);
  const options: string[] = [];
  if (s.mss !== undefined) options.push(`mss ${s.mss}`);
  if (s.sackOk) options.push('sackOK');
  if (s.ts) options.push(`TS ${s.ts[0]} ${s.ts[1]}`);
  if (s.ws !== undefined) options.push(`ws ${s.ws}`);
  for (const [l, r] of s.sack) options.push(`sack ${(l - ackBase) | 0}:${(r - ackBase) | 0}`);
  if (options.length > 0) parts.push(`<${options.join(', ')}>`);
  return parts.join(' ');
}

export interface IcmpErrorFields {
  type: number;
  code: number;
  mtu: number;
  /** Of the quoted segment. */
  src: number;
  dst: number;
  srcPort: number;
  dstPort: number;
  seq: number;
  /** Total length of the quoted packet. */
  totalLength?: number;
}

/** An ICMP error that quotes the IPv4 header and first eight bytes of a TCP segment (RFC 792). */
export function icmpError(o: IcmpErrorFields): Uint8Array {
  const p = new Uint8Array(8 + IPV4_BYTES + 8);
  const view = new DataView(p.buffer);
  view.setUint8(0, o.type);
  view.setUint8(1, o.code);
  view.setUint16(6, o.mtu);
  view.setUint8(8, 0x45);
  view.setUint16(10, o.totalLength ?? 1500);
  view.setUint16(14, 0x4000);
  view.setUint8(16, 63);
  view.setUint8(17, 6);
  view.setUint32(20, o.src);
  view.setUint32(24, o.dst);
  view.setUint16(18, checksum(p.subarray(8, 28)));
  view.setUint16(28, o.srcPort);
  view.setUint16(30, o.dstPort);
  view.setUint32(32, o.seq);
  view.setUint16(2, checksum(p));
  return p;
}

/** A broadcast ARP request (RFC 826). */
export function arpRequest(mac: Uint8Array, ip: number, target: number): Uint8Array {
  const arp = new Uint8Array(42);
  const view = new DataView(arp.buffer);
  arp.fill(0xff, 0, 6);
  arp.set(mac, 6);
  view.setUint16(12, 0x0806);
  view.setUint16(14, 1);
  view.setUint16(16, 0x0800);
  view.setUint16(18, 0x0604);
  view.setUint16(20, 1);
  arp.set(mac, 22);
  view.setUint32(28, ip);
  view.setUint32(38, target);
  return arp;
}
