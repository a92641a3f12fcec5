// A stack that records what links tell it, and can echo; and the VM's side of a link: framing, waiting, connecting.

import net from 'node:net';
import { parseVmUrl } from '../../src/daemon/vm-url.ts';
import { HostClock, HostTimers } from '../../src/host/host-clock.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';
import type { FrameFormat } from '../../src/link/framing.ts';
import type { Identities, Identity } from '../../src/link/handshake.ts';
import type { LinkUrl } from '../../src/link/link-url.ts';
import type { LinkContext } from '../../src/link/vm-link.ts';
import type { Egress, LinkHost, LinkInfo, LinkPort } from '../../src/stack/ports.ts';

export class FakePort implements LinkPort {
  readonly id: number;
  readonly egress: Egress;
  readonly info: LinkInfo;
  readonly frames: Buffer[] = [];
  turns = 0;
  writableCalls = 0;
  closes = 0;
  onFrame: ((frame: Buffer) => void) | undefined;
  onWritable: (() => void) | undefined;

  constructor(id: number, egress: Egress, info: LinkInfo) {
    this.id = id;
    this.egress = egress;
    this.info = info;
  }

  input(buf: Uint8Array, off: number, len: number): void {
    const frame = Buffer.from(buf.subarray(off, off + len));
    this.frames.push(frame);
    this.onFrame?.(frame);
  }

  endTurn(): void {
    this.turns++;
    this.egress.flush();
  }

  writable(): void {
    this.writableCalls++;
    this.onWritable?.();
  }

  close(): void {
    this.closes++;
  }
}

export class FakeHost implements LinkHost {
  readonly ports: FakePort[] = [];
  readonly mem: Uint8Array;
  echo = false;

  constructor(mem: Uint8Array) {
    this.mem = mem;
  }

  attach(egress: Egress, info: LinkInfo): LinkPort {
    const port = new FakePort(this.ports.length + 1, egress, info);
    this.ports.push(port);
    if (this.echo) this.#echoOn(port);
    return port;
  }

  /** What finds no room waits for `writable`, as the data of a TCP connection does. */
  #echoOn(port: FakePort): void {
    const waiting: Buffer[] = [];
    const pump = (): void => {
      while (waiting[0] !== undefined && this.send(port, waiting[0])) waiting.shift();
    };
    port.onFrame = (frame) => {
      waiting.push(frame);
      if (waiting.length === 1) pump();
    };
    port.onWritable = pump;
  }

  send(port: FakePort, frame: Uint8Array): boolean {
    const off = port.egress.reserve(frame.length);
    if (off < 0) return false;
    this.mem.set(frame, off);
    port.egress.commit(off, frame.length);
    return true;
  }
}

export const INVENTED_UUID = '00000000-1111-4222-8333-444444444444';

/** Gives every UUID the MAC 02:00:00:00:00:NN by order of arrival; refuses the preferred address 1.1.1.1. */
export class FakeIdentities implements Identities {
  readonly known: Map<string, number> = new Map();
  readonly asked: { uuid: string; preferred: number | undefined }[] = [];
  readonly gone: string[] = [];

  identify(text: string, preferred?: number): Identity {
    this.asked.push({ uuid: text, preferred });
    const uuid = text === '\0'.repeat(36) ? INVENTED_UUID : text.toLowerCase();
    if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid))
      return { ok: false, invalid: true, reason: 'no UUID' };
    if (preferred === 0x01010101) {
      return { ok: false, invalid: false, reason: 'address 1.1.1.1 is outside of the network' };
    }
    const number = this.known.get(uuid) ?? this.known.size + 1;
    this.known.set(uuid, number);
    return { ok: true, uuid, mac: Uint8Array.of(2, 0, 0, 0, 0, number) };
  }

  disconnected(uuid: string): void {
    this.gone.push(uuid);
  }
}

export interface LogLine {
  level: 'info' | 'warn';
  event: string;
  fields: Record<string, unknown>;
  message: string;
}

export interface World extends LinkContext {
  readonly host: FakeHost;
  readonly identities: FakeIdentities;
  readonly lines: LogLine[];
}

export function makeWorld(bytes = 16 * 1024 * 1024): World {
  const memory = createPacketMemory(bytes);
  const lines: LogLine[] = [];
  const write = (level: LogLine['level']) => (fields: object, message: string) => {
    const entry = fields as Record<string, unknown>;
    lines.push({ level, event: String(entry.event), fields: entry, message });
  };
  return {
    memory,
    host: new FakeHost(memory.mem),
    clock: new HostClock(),
    timers: new HostTimers(),
    identities: new FakeIdentities(),
    log: { info: write('info'), warn: write('warn') },
    lines,
  };
}

/** Waits for a condition that other parties bring about; fails after 5 s. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited 5 s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A frame as it is on the wire. */
export function framed(format: FrameFormat, frame: Uint8Array): Buffer {
  const head = Buffer.alloc(format === 'qemu' ? 4 : 2);
  if (format === 'qemu') head.writeUInt32BE(frame.length);
  else head.writeUInt16LE(frame.length);
  return Buffer.concat([head, frame]);
}

/** All whole frames of a stream, and what is left. */
export function unframe(format: FrameFormat, bytes: Buffer): { frames: Buffer[]; rest: Buffer } {
  const frames: Buffer[] = [];
  const prefix = format === 'qemu' ? 4 : 2;
  let at = 0;
  while (bytes.length - at >= prefix) {
    const len = format === 'qemu' ? bytes.readUInt32BE(at) : bytes.readUInt16LE(at);
    if (bytes.length - at - prefix < len) break;
    frames.push(bytes.subarray(at + prefix, at + prefix + len));
    at += prefix + len;
  }
  return { frames, rest: bytes.subarray(at) };
}

/** `len` bytes that differ from frame to frame. */
export function pattern(len: number, seed: number): Buffer {
  const out = Buffer.alloc(len);
  for (let i = 0; i < len; i++) out[i] = (i * 31 + seed * 17 + (i >>> 8)) & 0xff;
  return out;
}

/** The VM's end of a link. */
export class Vm {
  readonly socket: net.Socket;
  received: Buffer = Buffer.alloc(0);
  closed = false;

  constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.received = Buffer.concat([this.received, chunk]);
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
    });
  }

  static async connect(path: string): Promise<Vm> {
    const vm = new Vm(net.connect(path));
    await new Promise<void>((resolve, reject) => {
      vm.socket.once('connect', resolve);
      vm.socket.once('error', reject);
    });
    return vm;
  }

  frames(format: FrameFormat): Buffer[] {
    return unframe(format, this.received).frames;
  }
}

export const UUID_A = '9a8b7c6d-0001-4002-8003-0123456789ab';

export function initMessage(version = 22): Buffer {
  const out = Buffer.alloc(49);
  out.write('VMN3T', 0, 'latin1');
  out.writeUInt32LE(version, 5);
  return out;
}

export function ethernetCommand(uuid: string): Buffer {
  const out = Buffer.alloc(41);
  out[0] = 1;
  out.write(uuid, 1, 'latin1');
  return out;
}

export function preferredCommand(uuid: string, address: number): Buffer {
  const out = ethernetCommand(uuid);
  out[0] = 8;
  out.writeInt32LE(address | 0, 37);
  return out;
}

/** `qemu:/path`, `vpnkit:fd:3` and the like, as the listener wants it. */
export function linkUrl(text: string): LinkUrl {
  const { framing, transport } = parseVmUrl(text);
  return {
    text,
    format: framing,
    place: transport.kind === 'listen' ? { kind: 'path', path: transport.path } : transport,
  };
}
