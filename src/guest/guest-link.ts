// The VM's end of the link: a unix socket to the daemon, with its framing and, for vpnkit, the handshake. The same frame reader
// and writer as the daemon's end (link/), from the other side. It owns the socket and the packet memory of one guest.

import net from 'node:net';
import { Slab } from '../base/slab.ts';
import { FrameWriter, keptBlockBytes } from '../link/frame-writer.ts';
import { type FrameFormat, FrameReader, readBlockBytes } from '../link/framing.ts';
import { LinkCounters } from '../link/link-counters.ts';
import type { Egress } from '../stack/ports.ts';
import { VpnkitClient, type VpnkitVif } from './vpnkit-client.ts';

/** Largest IP packet of any link. */
const LINK_MTU_MAX = 65_520;

export interface GuestLinkOptions {
  /** The daemon's unix socket. */
  readonly path: string;
  readonly framing: FrameFormat;
  /** vpnkit: the VM's identity, '' for none. */
  readonly uuid: string;
  /** vpnkit: address to ask for, int32; 0 for none. */
  readonly preferred: number;
  /** Packet memory, a power of two. */
  readonly memoryBytes: number;
}

/** Who takes what the link brings. */
export interface GuestLinkOwner {
  onFrame(buf: Uint8Array, off: number, len: number): void;
  /** All frames of one read are in. */
  onReadEnd(): void;
  /** The link drains again after `reserve` refused. */
  onWritable(): void;
  /** The link is gone, once. */
  onClosed(reason: string): void;
}

/** A connected link. Set `owner` in the turn it was made in: nothing is read before. */
export class GuestLink {
  readonly counters: LinkCounters = new LinkCounters();
  readonly slab: Slab;
  /** What the handshake told; undefined on qemu links. */
  readonly vif: VpnkitVif | undefined;
  owner: GuestLinkOwner | undefined = undefined;
  readonly #socket: net.Socket;
  readonly #reader: FrameReader;
  readonly #writer: FrameWriter;
  #closed = false;

  private constructor(
    slab: Slab,
    socket: net.Socket,
    reader: FrameReader,
    options: GuestLinkOptions,
    vif: VpnkitVif | undefined,
  ) {
    this.slab = slab;
    this.#socket = socket;
    this.#reader = reader;
    this.vif = vif;
    const { framing } = options;
    const mtu = vif?.mtu ?? LINK_MTU_MAX;
    this.#writer = new FrameWriter(
      framing,
      mtu,
      slab,
      slab.alloc(keptBlockBytes(framing, mtu)),
      { write: (bytes, done) => this.#write(bytes, done) },
      this.counters,
      () => this.owner?.onWritable(),
      (reason) => this.#end(reason),
    );
  }

  /** @throws the socket's error (ENOENT, ECONNREFUSED, ...); ECONNREFUSED with the server's reason for a refused handshake. */
  static async connect(options: GuestLinkOptions): Promise<GuestLink> {
    const mem = Buffer.from(new ArrayBuffer(options.memoryBytes));
    const slab = new Slab(mem);
    const size = readBlockBytes(LINK_MTU_MAX);
    const made: { link?: GuestLink } = {};
    const reader = new FrameReader(options.framing, mem, slab.alloc(size), size, new LinkCounters(), (off, len) => {
      made.link?.owner?.onFrame(mem, off, len);
    });
    const shake = options.framing === 'vpnkit' ? new VpnkitClient(options.uuid, options.preferred) : undefined;
    let vif: VpnkitVif | undefined;
    let ready: () => void = () => {};
    let fail: (error: Error) => void = () => {};
    const onread = {
      buffer: () => mem.subarray(reader.roomOffset, reader.roomOffset + reader.room),
      callback: (n: number): boolean => {
        reader.received(n);
        if (made.link !== undefined) return made.link.#received();
        if (shake === undefined) return true;
        const answer = shake.input(mem, reader.heldOffset, reader.held);
        reader.skip(answer.used);
        reader.compact();
        vif = answer.vif;
        if (vif !== undefined) ready();
        else if (answer.refused !== undefined) fail(codedError('ECONNREFUSED', `handshake refused: ${answer.refused}`));
        // Frames may lie behind the answer: they wait until the link has an owner.
        return vif === undefined;
      },
    };
    const socket = net.connect({ path: options.path, onread });
    await new Promise<void>((resolve, reject) => {
      ready = resolve;
      fail = (error) => {
        reject(error);
        socket.destroy();
      };
      socket.once('error', reject);
      socket.once('close', () => fail(codedError('ECONNRESET', 'the daemon closed the link')));
      socket.once('connect', () => {
        if (shake === undefined) resolve();
        else socket.write(shake.hello());
      });
    });
    const link = new GuestLink(slab, socket, reader, options, vif);
    made.link = link;
    socket.removeAllListeners('error').removeAllListeners('close');
    socket.on('error', (error: NodeJS.ErrnoException) => link.#end(error.code ?? error.message));
    socket.on('close', () => link.#end('closed'));
    socket.on('end', () => link.#end('closed by the daemon'));
    // What came with the last bytes of the handshake, once the owner is there.
    setImmediate(() => {
      if (vif === undefined || link.#closed) return;
      link.#received();
      socket.resume();
    });
    return link;
  }

  /** Where frames are written. */
  get egress(): Egress {
    return this.#writer;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Bytes as they are, framing included: for tests of the framing itself. */
  writeRaw(bytes: Uint8Array): void {
    this.#writer.flush();
    this.#socket.write(bytes);
  }

  /** Ends the link at once, whatever is under way. @returns when the socket is closed. */
  close(): Promise<void> {
    const gone = this.#socket.closed ? Promise.resolve() : new Promise<void>((r) => this.#socket.once('close', r));
    this.#end('closed by the guest');
    return gone;
  }

  /** Stops and starts reading: a VM that does not drain. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  #received(): boolean {
    if (this.#closed) return false;
    if (!this.#reader.parse()) this.#end('over-long frame');
    else this.owner?.onReadEnd();
    return !this.#closed;
  }

  #write(bytes: Uint8Array, done: () => void): boolean {
    if (this.#closed) {
      queueMicrotask(done);
      return false;
    }
    let taken = false;
    this.#socket.write(bytes, () => {
      if (!taken) done();
    });
    taken = this.#socket.writableLength === 0;
    return taken;
  }

  #end(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.stop();
    this.#writer.shut();
    this.#socket.destroy();
    this.owner?.onClosed(reason);
  }
}

/** An error with a `code`, as Node's own have. */
export function codedError(code: string, message: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${message}`), { code });
}
