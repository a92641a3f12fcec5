// A simple VM: one address, ARP, and TCP by simple-connection. It owns its connections and what an address without one answers
// (RFC 9293 3.10.7.1). Frames in and out are bytes.

import {
  ACK,
  FIN,
  type FrameError,
  ipv4Frame,
  RST,
  readIpv4,
  readTcp,
  type Segment,
  SYN,
  tcpOptions,
  tcpSegment,
} from '../helpers/peer-frame.ts';
import { fail, type Pair, type SimEnd } from './ends.ts';
import type { SimGuest } from './guest.ts';
import { SimpleConnection } from './simple-connection.ts';
import type { PeerMachine, PeerTcpOptions, SegmentFields } from './simple-tcp.ts';
import type { Timeline } from './timeline.ts';

const NONE = new Uint8Array(0);

export class SimplePeer implements SimGuest, PeerMachine {
  readonly name: string;
  readonly ip: number;
  readonly timeline: Timeline;
  /** Frames that did not parse: what corruption left of them. */
  unreadable = 0;
  resetsSent = 0;
  readonly #mac: Uint8Array;
  readonly #gatewayMac: Uint8Array;
  readonly #mtu: number;
  readonly #options: PeerTcpOptions;
  readonly #send: (frame: Uint8Array) => void;
  readonly #connections = new Map<string, SimpleConnection>();
  readonly #listeners = new Map<number, { pair: Pair; isn: number; onAccept: (end: SimEnd) => void }>();
  #gone = false;

  constructor(
    name: string,
    timeline: Timeline,
    ip: number,
    mac: Uint8Array,
    gatewayMac: Uint8Array,
    mtu: number,
    options: PeerTcpOptions,
    send: (frame: Uint8Array) => void,
  ) {
    this.name = name;
    this.timeline = timeline;
    this.ip = ip >>> 0;
    this.#mac = mac;
    this.#gatewayMac = gatewayMac;
    this.#mtu = mtu;
    this.#options = options;
    this.#send = send;
  }

  /** Gratuitous ARP: the network learns the address. */
  start(): void {
    this.#send(this.#arp(1, this.ip, NONE));
  }

  vanish(): void {
    this.#gone = true;
    for (const c of this.#connections.values()) c.vanish();
  }

  open(pair: Pair, localPort: number, remoteIp: number, remotePort: number, isn: number): number {
    const label = `flow ${pair.id} guest`;
    const c = new SimpleConnection(label, pair, this, this.#options, localPort, remoteIp, remotePort, isn, true);
    this.#connections.set(key(localPort, remoteIp, remotePort), c);
    pair.guest = c;
    c.open();
    return localPort;
  }

  listen(pair: Pair, port: number, isn: number, onAccept: (end: SimEnd) => void): void {
    this.#listeners.set(port, { pair, isn, onAccept });
  }

  receive(frames: Uint8Array[]): void {
    if (this.#gone) return;
    for (const frame of frames) this.#receive(frame);
  }

  get live(): number {
    let n = 0;
    for (const c of this.#connections.values()) if (!c.finished) n++;
    return n;
  }

  #receive(frame: Uint8Array): void {
    const type = (frame[12]! << 8) | frame[13]!;
    if (frame.length >= 42 && type === 0x0806) return this.#onArp(frame);
    if (type !== 0x0800) return;
    let segment: Segment;
    try {
      const ip = readIpv4(frame, this.#mtu);
      if (ip.dst !== this.ip) return;
      if (ip.protocol === 1) return this.#onIcmp(ip.payload);
      if (ip.protocol !== 6) return;
      segment = readTcp(frame, this.#mtu, this.timeline.now);
    } catch (error) {
      // Damaged on the way (what the stack sends is checked where it leaves).
      if ((error as FrameError) instanceof Error) this.unreadable++;
      return;
    }
    const id = key(segment.dstPort, segment.src, segment.srcPort);
    const c = this.#connections.get(id);
    if (c !== undefined && (c.outcome === 'vanished' || c.outcome === 'clean' || !c.finished))
      return c.onSegment(segment);
    const bare = (segment.flags & (SYN | ACK | RST | FIN)) === SYN;
    const listener = this.#listeners.get(segment.dstPort);
    // A second attempt where the first came to nothing; else it is an old copy of the SYN.
    if (bare && listener !== undefined && c?.established !== true) {
      const { pair, isn } = listener;
      const label = `flow ${pair.id} guest`;
      const { dstPort, src, srcPort } = segment;
      const end = new SimpleConnection(label, pair, this, this.#options, dstPort, src, srcPort, isn, false);
      this.#connections.set(id, end);
      pair.guest = end;
      listener.onAccept(end);
      end.onSegment(segment);
      return;
    }
    this.#refuse(segment);
  }

  /** RFC 9293 3.10.7.1: a segment for nobody. */
  #refuse(s: Segment): void {
    if (s.flags & RST) return;
    this.resetsSent++;
    const { dstPort, src, srcPort } = s;
    const len = s.payload.length + (s.flags & (SYN | FIN) ? 1 : 0);
    if (s.flags & ACK) this.#tcp(dstPort, src, srcPort, RST, s.ack, 0, { win: 0 });
    else this.#tcp(dstPort, src, srcPort, RST | ACK, 0, s.seq + len, { win: 0 });
  }

  #onIcmp(message: Uint8Array): void {
    if (message.length < 36 || message[0] !== 3) return;
    const view = new DataView(message.buffer, message.byteOffset, message.length);
    const localPort = view.getUint16(28);
    const remotePort = view.getUint16(30);
    this.#connections.get(key(localPort, view.getUint32(24), remotePort))?.unreachable();
  }

  #onArp(frame: Uint8Array): void {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    if (view.getUint16(20) === 1 && view.getUint32(38) === this.ip) {
      this.#send(this.#arp(2, view.getUint32(28), frame.slice(22, 28)));
    }
  }

  /** RFC 826. @param targetMac empty: to everybody. */
  #arp(op: number, targetIp: number, targetMac: Uint8Array): Uint8Array {
    const frame = new Uint8Array(42);
    const view = new DataView(frame.buffer);
    if (targetMac.length === 0) frame.fill(0xff, 0, 6);
    else frame.set(targetMac, 0);
    frame.set(this.#mac, 6);
    view.setUint16(12, 0x0806);
    view.setUint16(14, 1);
    view.setUint16(16, 0x0800);
    view.setUint16(18, 0x0604);
    view.setUint16(20, op);
    frame.set(this.#mac, 22);
    view.setUint32(28, this.ip);
    frame.set(targetMac, 32);
    view.setUint32(38, targetIp);
    return frame;
  }

  transmit(c: SimpleConnection, flags: number, seq: number, ack: number, fields: SegmentFields): void {
    this.#tcp(c.localPort, c.remoteIp, c.remotePort, flags, seq, ack, fields);
  }

  #tcp(srcPort: number, dst: number, dstPort: number, flags: number, seq: number, ack: number, f: SegmentFields): void {
    if (this.#gone) return;
    const options = tcpOptions(f);
    const payload = f.payload ?? NONE;
    const segment = tcpSegment({ src: this.ip, dst, srcPort, dstPort, seq, ack, flags, win: f.win, options, payload });
    if (segment.length + 20 > this.#mtu) fail(`${this.name}: a packet of ${segment.length + 20} bytes`);
    const addresses = { dstMac: this.#gatewayMac, srcMac: this.#mac, src: this.ip, dst };
    this.#send(ipv4Frame({ ...addresses, protocol: 6, payload: segment }));
  }
}

function key(localPort: number, remoteIp: number, remotePort: number): string {
  return `${localPort} ${remoteIp >>> 0}:${remotePort}`;
}
