// The UDP of the forwarder with a made-up stack and real host sockets on loopback: what a guest gets is noted and can be waited for.

import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { AddressTexts } from '../../src/forwarder/address-texts.ts';
import { Destinations } from '../../src/forwarder/destination.ts';
import { SendArena } from '../../src/forwarder/send-arena.ts';
import { UdpForwarder, type UdpForwarderOptions } from '../../src/forwarder/udp-forwarder.ts';
import type { UdpSocketContext } from '../../src/forwarder/udp-socket.ts';
import { dgramUdp } from '../../src/host/udp-dgram.ts';
import type { UdpHandles } from '../../src/host/udp-handle.ts';
import { nativeUdp } from '../../src/host/udp-native.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';
import type { DatagramMeta, LinkPort } from '../../src/stack/ports.ts';

export const ip = (text: string): IpAddress => parseAddress(text)!;
export const GUEST = ip('192.168.65.3');
export const GATEWAY = ip('192.168.65.1');
export const ALIAS = ip('192.168.65.254');
export const LOOPBACK = ip('127.0.0.1');
export const destinations = new Destinations({
  network: Cidr4.parse('192.168.65.0/24')!,
  gateway: GATEWAY,
  hostAlias: ALIAS,
});

/** Each test over the handles that this Node has, and over node:dgram. */
export const overBoth = {
  test(name: string, run: (t: Test, handles: UdpHandles) => Promise<void>): void {
    const native = nativeUdp();
    t.test(`${name} [handle]`, { skip: native ? false : 'this Node has no such handle' }, (t) => run(t, native!));
    t.test(`${name} [dgram]`, (t) => run(t, dgramUdp()));
  },
};

/** What sockets share. */
export function context(handles: UdpHandles): UdpSocketContext {
  return { handles, arena: new SendArena(), texts: new AddressTexts() };
}

export interface Got {
  what: 'datagram' | 'unreachable';
  from: string;
  to: string;
  body: string;
  len: number;
  code: number;
  mtu: number;
}

export class World {
  time = 0;
  deadlines = 0;
  readonly got: Got[] = [];
  accept = true;
  readonly sockets: UdpSocketContext;
  readonly #waiters: (() => void)[] = [];

  constructor(handles: UdpHandles) {
    this.sockets = context(handles);
  }

  readonly sender = {
    sendDatagram: (
      src: IpAddress,
      sp: number,
      dst: IpAddress,
      dp: number,
      buf: Uint8Array,
      off: number,
      len: number,
    ) => {
      if (!this.accept) return false;
      const body = Buffer.from(buf.subarray(off, off + Math.min(len, 40))).toString('latin1');
      this.push({ what: 'datagram', from: `${src}:${sp}`, to: `${dst}:${dp}`, body, len, code: -1, mtu: 0 });
      return true;
    },
    sendUnreachable: (code: number, mtu: number, g: IpAddress, gp: number, r: IpAddress, rp: number, len: number) => {
      this.push({ what: 'unreachable', from: `${r}:${rp}`, to: `${g}:${gp}`, body: '', len, code, mtu });
    },
  };

  push(g: Got): void {
    this.got.push(g);
    for (const w of this.#waiters.splice(0)) w();
  }

  /** The next thing that a guest gets. */
  async next(): Promise<Got> {
    while (this.got.length === 0) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    return this.got.shift()!;
  }

  forwarder(options: Partial<UdpForwarderOptions> = {}): UdpForwarder {
    return new UdpForwarder({
      destinations,
      sender: this.sender,
      clock: { now: () => this.time },
      onDeadlineChanged: () => this.deadlines++,
      sockets: this.sockets,
      ...options,
    });
  }
}

export const vm = (id: number): LinkPort => ({ id }) as LinkPort;

export function meta(srcPort: number, dst: IpAddress, dstPort: number, vmId = 1, src = GUEST): DatagramMeta {
  return { vm: vm(vmId), macBuf: new Uint8Array(6), macOff: 0, src, srcPort, dst, dstPort };
}

export function send(
  f: UdpForwarder,
  w: World,
  srcPort: number,
  dst: IpAddress,
  dstPort: number,
  body: string | Uint8Array,
  vmId = 1,
): boolean {
  const bytes = typeof body === 'string' ? Buffer.from(` ${body} `, 'latin1').subarray(1, -1) : body;
  const copy = Uint8Array.from(bytes);
  const taken = f.onDatagram(meta(srcPort, dst, dstPort, vmId), copy, 0, copy.length, w.time);
  // The packet memory is somebody else's as soon as the call returns.
  copy.fill(0x21);
  return taken;
}

/** A host-side server on loopback that answers `name:body` and remembers who asked. */
export async function server(t: { teardown(fn: () => unknown): unknown }, name: string) {
  const socket = createSocket('udp4');
  const seen: RemoteInfo[] = [];
  socket.on('message', (msg, from) => {
    seen.push(from);
    socket.send(Buffer.concat([Buffer.from(name), msg]), from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.teardown(() => close(socket));
  return { socket, seen, port: socket.address().port };
}

export function close(socket: Socket): Promise<unknown> {
  const done = once(socket, 'close');
  socket.close();
  return done;
}

/** A loopback port that nobody listens on. */
export async function deadPort(): Promise<number> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  await close(socket);
  return port;
}

export const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
