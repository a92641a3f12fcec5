// Streams on the handles that Node's own `net` module drives: `TCP` and `Pipe` of its stream binding. It owns the life of a handle
// and knows nothing of what is read.
//
// Why: per call a `net.Socket` costs 2 to 4 us (stream state, ticks, callbacks), a handle 0.5; a connection through it costs
// 60 us to make and 20 through a handle. docs/adr/0017 has the figures, and what happens where the binding is not as we know it:
// `streamBinding` is undefined then and stream-socket serves. The shape is the same in Node 20, 24 and 26.

import net from 'node:net';
import { getSystemErrorName } from 'node:util';
import { SendRoom } from './send-room.ts';
import type { Arrival, HostStream, StreamOwner } from './stream.ts';
import { failedStream } from './stream-failed.ts';

/** A stream handle, as far as it is used. Calls return 0 or a negative errno. */
export interface StreamHandle {
  /** Called with the handle as `this` after each read; what it returns is the memory for the next one. */
  onread: (this: StreamHandle) => Uint8Array | undefined;
  readStart(): number;
  readStop(): number;
  /** Reads go to this memory from now on. Once a handle. */
  useUserBuffer(buffer: Uint8Array): void;
  writeBuffer(req: WriteRequest, bytes: Uint8Array): number;
  writev(req: WriteRequest, pieces: readonly Uint8Array[], allBuffers: true): number;
  shutdown(req: Request): number;
  close(done: (this: StreamHandle) => void): void;
  readonly fd?: number;
  /** TCP only. */
  reset?(done: (this: StreamHandle) => void): number;
  getpeername?(out: EndName): number;
  getsockname?(out: EndName): number;
  setNoDelay?(on: boolean): number;
  bind?(address: string, port: number): number;
  bind6?(address: string, port: number, flags: number): number;
  connect?(req: Request, address: string, port: number): number;
  connect6?(req: Request, address: string, port: number): number;
  [STREAM]?: HandleStream | undefined;
}

interface EndName {
  address?: string;
  port?: number;
}

interface Request {
  oncomplete?: (status: number) => void;
}

interface WriteRequest extends Request {
  /** Kept from the collector until the write is over. */
  bytes?: unknown;
}

/** What is used of Node's bindings. */
export interface StreamBinding {
  readonly TCP: new (kind: number) => StreamHandle;
  readonly socketKind: number;
  readonly ConnectRequest: new () => Request;
  readonly WriteRequest: new () => WriteRequest;
  readonly ShutdownRequest: new () => Request;
  /** Results of the last call, by the two indices. */
  readonly state: Int32Array;
  readonly bytesReadIndex: number;
  readonly wasAsyncIndex: number;
}

/** Node's bindings, or undefined where they are not as we know them. */
export const streamBinding: StreamBinding | undefined = loadBinding();

const STREAM: unique symbol = Symbol('stream');
/** UV_EOF on every system. */
const END_OF_FILE = -4095;

function loadBinding(): StreamBinding | undefined {
  try {
    const load = (process as unknown as { binding(name: string): Record<string, unknown> }).binding;
    const stream = load('stream_wrap');
    const tcp = load('tcp_wrap');
    const { TCP, TCPConnectWrap, constants } = tcp as {
      TCP: StreamBinding['TCP'];
      TCPConnectWrap: StreamBinding['ConnectRequest'];
      constants: { SOCKET: number };
    };
    const { WriteWrap, ShutdownWrap, streamBaseState, kReadBytesOrError, kLastWriteWasAsync } = stream as {
      WriteWrap: StreamBinding['WriteRequest'];
      ShutdownWrap: StreamBinding['ShutdownRequest'];
      streamBaseState: unknown;
      kReadBytesOrError: unknown;
      kLastWriteWasAsync: unknown;
    };
    const classes = [TCP, TCPConnectWrap, WriteWrap, ShutdownWrap];
    const calls = ['readStart', 'readStop', 'useUserBuffer', 'writeBuffer', 'writev', 'shutdown', 'close', 'reset'];
    const shape = TCP.prototype as unknown as Record<string, unknown>;
    if (
      !classes.every((c) => typeof c === 'function') ||
      !calls.every((name) => typeof shape[name] === 'function') ||
      !(streamBaseState instanceof Int32Array) ||
      typeof kReadBytesOrError !== 'number' ||
      typeof kLastWriteWasAsync !== 'number' ||
      typeof constants.SOCKET !== 'number'
    )
      return undefined;
    return {
      TCP,
      socketKind: constants.SOCKET,
      ConnectRequest: TCPConnectWrap,
      WriteRequest: WriteWrap,
      ShutdownRequest: ShutdownWrap,
      state: streamBaseState,
      bytesReadIndex: kReadBytesOrError,
      wasAsyncIndex: kLastWriteWasAsync,
    };
  } catch {
    // No such call, or it is forbidden (the permission model).
    return undefined;
  }
}

function errnoName(status: number): string {
  return status < 0 ? getSystemErrorName(status) : '';
}

type Holder = { _handle?: StreamHandle | null };

/** Takes the handle out of a socket, which is destroyed; undefined, and the socket is as it was, if it has none. */
export function takeHandle(socket: net.Socket): StreamHandle | undefined {
  const holder = socket as unknown as Holder;
  const handle = holder._handle;
  if (typeof handle !== 'object' || handle === null || typeof handle.useUserBuffer !== 'function') return undefined;
  // One that was read from is reading still, paused or not.
  handle.readStop();
  holder._handle = null;
  socket.destroy();
  return handle;
}

/** Dials; see `dialTcp`. */
export function dialHandle(
  binding: StreamBinding,
  address: string,
  port: number,
  owner: StreamOwner,
  local?: string,
): HostStream {
  let handle: StreamHandle;
  try {
    handle = new binding.TCP(binding.socketKind);
  } catch (error) {
    return failedStream((error as { code?: string }).code ?? 'EMFILE', owner);
  }
  const stream = new HandleStream(binding, handle, owner);
  stream.connect(address, port, local);
  return stream;
}

/** Lets a listening server's handles go to `onArrival` and no `net.Socket` be made for them. @returns false if it cannot be done. */
export function acceptHandles(
  binding: StreamBinding,
  server: net.Server,
  onArrival: (arrival: Arrival) => void,
): boolean {
  const listening = (server as unknown as { _handle?: { onconnection?: unknown } | null })._handle;
  if (typeof listening !== 'object' || listening === null || typeof listening.onconnection !== 'function') return false;
  listening.onconnection = (status: number, handle: StreamHandle | undefined): void => {
    if (status !== 0 || handle === undefined) {
      server.emit('error', Object.assign(new Error(errnoName(status)), { code: errnoName(status) }));
      return;
    }
    onArrival(new HandleArrival(binding, handle));
  };
  return true;
}

/** A client on a handle that nobody has taken yet. */
class HandleArrival implements Arrival {
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly #binding: StreamBinding;
  readonly #handle: StreamHandle;
  #local: EndName | undefined;

  constructor(binding: StreamBinding, handle: StreamHandle) {
    const peer: EndName = {};
    handle.getpeername?.(peer);
    this.remoteAddress = peer.address;
    this.remotePort = peer.port;
    this.#binding = binding;
    this.#handle = handle;
  }

  get localAddress(): string | undefined {
    return this.#localEnd().address;
  }

  get localPort(): number | undefined {
    return this.#localEnd().port;
  }

  adopt(owner: StreamOwner): HostStream {
    return new HandleStream(this.#binding, this.#handle, owner);
  }

  socket(): net.Socket {
    this.#handle.setNoDelay?.(true);
    // As net.Server makes one; the type package does not know of handles.
    const options = { handle: this.#handle, allowHalfOpen: true, pauseOnCreate: true };
    return new net.Socket(options as net.SocketConstructorOpts);
  }

  refuse(): void {
    const handle = this.#handle;
    if (handle.reset === undefined || handle.reset(() => {}) !== 0) handle.close(() => {});
  }

  #localEnd(): EndName {
    if (this.#local === undefined) {
      this.#local = {};
      this.#handle.getsockname?.(this.#local);
    }
    return this.#local;
  }
}

/** One stream on a handle of its own. */
export class HandleStream implements HostStream {
  readonly #binding: StreamBinding;
  readonly #handle: StreamHandle;
  readonly #owner: StreamOwner;
  #connecting = false;
  #reading = false;
  /** The handle has been given memory to read into. */
  #prepared = false;
  #readEnded = false;
  #ending = false;
  #writeEnded = false;
  /** Writes so far, up to the second: Nagle's algorithm has nothing to hold back before that one. */
  #writes = 0;
  #sendRoom: SendRoom | undefined;
  closed = false;

  constructor(binding: StreamBinding, handle: StreamHandle, owner: StreamOwner) {
    this.#binding = binding;
    this.#handle = handle;
    this.#owner = owner;
    handle[STREAM] = this;
    handle.onread = onRead;
  }

  get hasPeer(): boolean {
    // A pipe has no name to ask for, and no reset.
    return !this.closed && (this.#handle.getpeername === undefined || this.#handle.getpeername({}) === 0);
  }

  connect(address: string, port: number, local?: string): void {
    const handle = this.#handle;
    const bound = local === undefined ? 0 : this.#bind(local);
    if (bound !== 0) {
      process.nextTick(HandleStream.#failLater, this, bound);
      return;
    }
    const req = new this.#binding.ConnectRequest();
    req.oncomplete = (status) => this.#onConnected(status);
    this.#connecting = true;
    const v6 = address.includes(':');
    const status = v6 ? handle.connect6?.(req, address, port) : handle.connect?.(req, address, port);
    if (status !== 0) process.nextTick(HandleStream.#failLater, this, status ?? -1);
  }

  #bind(local: string): number {
    const handle = this.#handle;
    // -1 (EPERM) is a handle that knows no such call; it has one wherever it has `connect`.
    return (local.includes(':') ? handle.bind6?.(local, 0, 0) : handle.bind?.(local, 0)) ?? -1;
  }

  /** While it dials, too: asked for in time, reading costs one call of the system less than after it. */
  resume(): void {
    if (this.#reading || this.#readEnded || this.closed) return;
    if (!this.#prepared) {
      this.#prepared = true;
      this.#handle.useUserBuffer(this.#owner.readBuffer());
    }
    this.#reading = true;
    const status = this.#handle.readStart();
    if (status !== 0) process.nextTick(HandleStream.#failLater, this, status);
  }

  wantSendBuffer(bytes: number): void {
    if (this.closed || this.#reading || this.#sendRoom !== undefined) return;
    this.#sendRoom = SendRoom.widen(this.#handle.fd ?? -1, bytes);
  }

  recall(): void {
    // Between two callbacks no read is under way: the loop asks for memory when bytes are there.
    if (this.#prepared && !this.closed) this.#handle.useUserBuffer(this.#owner.readBuffer());
  }

  write(bytes: Uint8Array, done: () => void): boolean {
    if (this.#cannotWrite(done)) return false;
    const req = this.#request();
    return this.#written(req, this.#handle.writeBuffer(req, bytes), bytes, done);
  }

  writeAll(pieces: readonly Uint8Array[], done: () => void): boolean {
    if (this.#cannotWrite(done)) return false;
    const req = this.#request();
    return this.#written(req, this.#handle.writev(req, pieces, true), pieces, done);
  }

  end(): void {
    if (this.#ending || this.closed) return;
    this.#ending = true;
    const req = new this.#binding.ShutdownRequest();
    req.oncomplete = () => this.#onShut();
    // An error says that there is no peer left to tell; what is read next says the same.
    if (this.#handle.shutdown(req) !== 0) process.nextTick(HandleStream.#shutLater, this);
  }

  destroy(): void {
    if (this.closed) return;
    this.#stop();
    this.#handle.close(onClosed);
  }

  reset(): void {
    if (this.closed) return;
    const handle = this.#handle;
    this.#stop();
    // A handle that is connecting, or whose shutdown is under way, cannot be reset.
    if (this.#connecting || handle.reset === undefined || handle.reset(onClosed) !== 0) handle.close(onClosed);
  }

  #stop(): void {
    this.closed = true;
    if (this.#reading) this.#handle.readStop();
    this.#reading = false;
  }

  #cannotWrite(done: () => void): boolean {
    if (!this.closed && !this.#ending) {
      if (this.#writes < 2 && ++this.#writes === 2) this.#handle.setNoDelay?.(true);
      return false;
    }
    process.nextTick(done);
    return true;
  }

  /** A write that completes at once leaves its request untouched: one serves them all. */
  #request(): WriteRequest {
    spareRequest ??= new this.#binding.WriteRequest();
    return spareRequest;
  }

  #written(req: WriteRequest, status: number, bytes: unknown, done: () => void): boolean {
    if (status !== 0) {
      // Whether the request was used is not known.
      spareRequest = undefined;
      process.nextTick(HandleStream.#failLater, this, status);
      process.nextTick(done);
      return false;
    }
    if (this.#binding.state[this.#binding.wasAsyncIndex] === 0) return true;
    spareRequest = undefined;
    req.bytes = bytes;
    req.oncomplete = (late) => {
      if (late < 0 && !this.closed) this.#fail(late);
      done();
    };
    return false;
  }

  #onConnected(status: number): void {
    if (this.closed) return;
    this.#connecting = false;
    if (status < 0) this.#fail(status);
    else this.#owner.onConnect();
  }

  #onShut(): void {
    this.#writeEnded = true;
    if (this.#readEnded) this.destroy();
  }

  #fail(status: number): void {
    if (this.closed) return;
    this.#owner.onError(errnoName(status));
    this.destroy();
  }

  /** For the handle: a read is over, with the bytes or error in the binding's state. @returns memory for the next one. */
  readDone(): Uint8Array | undefined {
    const status = this.#binding.state[this.#binding.bytesReadIndex] ?? 0;
    if (this.closed) return undefined;
    if (status > 0) {
      if (!this.#owner.onRead(status) && !this.closed && this.#reading) {
        this.#reading = false;
        this.#handle.readStop();
      }
      return this.closed ? undefined : this.#owner.readBuffer();
    }
    if (status === END_OF_FILE) {
      this.#reading = false;
      this.#readEnded = true;
      this.#owner.onEnd();
      if (this.#writeEnded) this.destroy();
    } else if (status < 0) this.#fail(status);
    return undefined;
  }

  /** For the handle: it is closed. */
  handleClosed(): void {
    this.#sendRoom?.release();
    this.#owner.onClose();
  }

  static #failLater(stream: HandleStream, status: number): void {
    stream.#fail(status);
  }

  static #shutLater(stream: HandleStream): void {
    stream.#onShut();
  }
}

let spareRequest: WriteRequest | undefined;

// One function each for all handles, which call them as their own methods.
function onRead(this: StreamHandle): Uint8Array | undefined {
  return this[STREAM]?.readDone();
}

function onClosed(this: StreamHandle): void {
  const stream = this[STREAM];
  this[STREAM] = undefined;
  stream?.handleClosed();
}
