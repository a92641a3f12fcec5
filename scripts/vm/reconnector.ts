// A plug that holds the VM's end of the cable while the daemon is away, for QEMU before 8.0, which cannot reconnect by itself.
// QEMU connects here; frames go on to the daemon's socket, which is dialled again for as long as nobody answers. Frames of the
// meantime are lost, whole ones only: the 4-byte length framing stays in step on both sides.

import { createConnection, createServer, type Server, type Socket } from 'node:net';

const RETRY_MS = 100;
const PREFIX_BYTES = 4;

/** Where in a frame a stream stands. */
class FramePosition {
  #header = 0;
  #headerBytes = 0;
  /** Bytes of the frame still to come, behind its length. */
  #left = 0;

  get atBoundary(): boolean {
    return this.#headerBytes === 0 && this.#left === 0;
  }

  /** Moves over `chunk` from `from` to the next boundary or the chunk's end. @returns where it stopped. */
  advance(chunk: Buffer, from: number): number {
    let at = from;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, chunk.length - at);
        this.#left -= step;
        at += step;
      } else {
        this.#header = (this.#header << 8) | chunk[at++]!;
        if (++this.#headerBytes < PREFIX_BYTES) continue;
        this.#left = this.#header >>> 0;
        this.#header = 0;
        this.#headerBytes = 0;
      }
      if (this.atBoundary) return at;
    }
    return at;
  }

  /** What is missing of the frame begun, as zeros: the receiver drops it as noise and stays in step. */
  rest(): Buffer {
    if (this.atBoundary) return Buffer.alloc(0);
    if (this.#headerBytes > 0) {
      const missing = PREFIX_BYTES - this.#headerBytes;
      return Buffer.alloc(missing + (this.#header << (8 * missing)));
    }
    return Buffer.alloc(this.#left);
  }
}

/** The plug of one VM. */
export class Reconnector {
  readonly #server: Server;
  readonly #target: string;
  #vm: Socket | undefined;
  #daemon: Socket | undefined;
  #fromVm = new FramePosition();
  #fromDaemon = new FramePosition();
  /** Set while frames of the VM go to the daemon: it begins at a boundary. */
  #inStep = false;
  #closed = false;

  private constructor(server: Server, target: string) {
    this.#server = server;
    this.#target = target;
    server.on('connection', (socket) => this.#onVm(socket));
  }

  /** Listens on `path` for QEMU, and dials `target` as soon as QEMU is there. */
  static listen(path: string, target: string): Promise<Reconnector> {
    return new Promise((resolve, reject) => {
      const server = createServer();
      server.once('error', reject);
      server.listen(path, () => resolve(new Reconnector(server, target)));
    });
  }

  #onVm(socket: Socket): void {
    this.#vm?.destroy();
    this.#vm = socket;
    this.#fromVm = new FramePosition();
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.#vm === socket) this.#vm = undefined;
      this.#daemon?.destroy();
    });
    socket.on('data', (chunk: Buffer) => this.#toDaemon(chunk));
    this.#dial();
  }

  #dial(): void {
    if (this.#closed || this.#vm === undefined) return;
    const socket = createConnection(this.#target);
    socket.once('connect', () => {
      this.#daemon = socket;
      this.#inStep = this.#fromVm.atBoundary;
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.#daemon === socket) {
        this.#daemon = undefined;
        this.#vm?.write(this.#fromDaemon.rest());
        this.#vm?.resume();
      }
      this.#fromDaemon = new FramePosition();
      setTimeout(() => this.#dial(), RETRY_MS).unref();
    });
    socket.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length; ) at = this.#fromDaemon.advance(chunk, at);
      this.#forward(socket, this.#vm, chunk);
    });
  }

  #toDaemon(chunk: Buffer): void {
    let start = 0;
    if (!this.#inStep) {
      start = this.#fromVm.advance(chunk, 0);
      if (this.#daemon !== undefined && this.#fromVm.atBoundary) this.#inStep = true;
    }
    for (let at = start; at < chunk.length; ) at = this.#fromVm.advance(chunk, at);
    if (this.#daemon === undefined) this.#inStep = false;
    if (this.#inStep) this.#forward(this.#vm, this.#daemon, chunk.subarray(start));
  }

  #forward(from: Socket | undefined, to: Socket | undefined, chunk: Buffer): void {
    if (to === undefined || chunk.length === 0 || to.write(chunk)) return;
    from?.pause();
    to.once('drain', () => from?.resume());
  }

  /** Unplugs for good. */
  close(): void {
    this.#closed = true;
    this.#server.close();
    this.#vm?.destroy();
    this.#daemon?.destroy();
  }
}
