// UDP sockets on node:dgram, for a Node whose handle below it is not what udp-native.ts knows. It makes dgram do its work at once: no name
// lookup, no deferred bind, failures as values. Every send is PENDING, because dgram keeps the bytes until its callback.

import { type BindOptions, createSocket, type Socket } from 'node:dgram';
import { constants } from 'node:os';
import { errnoOf } from './operator-error.ts';
import { PENDING, PortUse, type UdpHandle, type UdpHandleOwner, type UdpHandles } from './udp-handle.ts';

/** Sockets on node:dgram. */
export function dgramUdp(): UdpHandles {
  return { create: (owner, family, v6Only = true) => new DgramUdp(owner, family, v6Only), inherit: inheritDgram };
}

/** See `UdpHandles.inherit`: only dgram looks what kind of socket a descriptor is. */
export function inheritDgram(owner: UdpHandleOwner, fd: number): UdpHandle | string {
  const handle = new DgramUdp(owner, 4, true);
  const failed = handle.inherit(fd);
  return failed === '' ? handle : failed;
}

// The addresses given are literals; this keeps dgram from queueing on a DNS thread, and makes bind, connect and send synchronous.
function literal(
  address: string,
  _options: unknown,
  callback: (e: null, address: string, family: number) => void,
): void {
  callback(null, address, address.includes(':') ? 6 : 4);
}

class DgramUdp implements UdpHandle {
  readonly #owner: UdpHandleOwner;
  readonly #family: 4 | 6;
  readonly #v6Only: boolean;
  #socket: Socket | undefined = undefined;
  #closed = false;

  constructor(owner: UdpHandleOwner, family: 4 | 6, v6Only: boolean) {
    this.#owner = owner;
    this.#family = family;
    this.#v6Only = v6Only;
  }

  bind(address: string, port: number, use: PortUse): string {
    let at = port;
    if (use === PortUse.Claim) {
      // Bound for a moment without SO_REUSEADDR, so that nobody else's port is shared by accident.
      const probe = this.#make(false);
      const failed = bindNow(probe, { address, port, exclusive: true });
      if (failed === '') at = probe.address().port;
      closeNow(probe);
      if (failed !== '') return failed;
    }
    const socket = this.#make(use !== PortUse.Alone);
    return this.#take(socket, { address, port: at, exclusive: true });
  }

  /** Takes the socket of a descriptor in place of binding one. */
  inherit(fd: number): string {
    return this.#take(this.#make(false), { fd });
  }

  #take(socket: Socket, at: BindOptions): string {
    const failed = bindNow(socket, at);
    if (failed !== '') {
      closeNow(socket);
      return failed;
    }
    socket.on('error', (error) => {
      if (!this.#closed) this.#owner.onReceiveError(errnoOf(error) ?? 'EIO');
    });
    socket.on('message', (msg, from) => {
      if (!this.#closed) this.#owner.onDatagram(msg, 0, msg.length, from.address, from.port);
    });
    this.#socket = socket;
    return '';
  }

  connect(address: string, port: number): string {
    if (this.#closed || this.#socket === undefined) return 'EBADF';
    try {
      // The error event comes in the next tick; whether it worked can be read at once.
      this.#socket.connect(port, address);
      this.#socket.remoteAddress();
      return '';
    } catch (error) {
      return errnoOf(error) ?? 'EIO';
    }
  }

  send(bytes: Uint8Array): number {
    return this.#tried((done) => this.#socket!.send(bytes, done));
  }

  sendTo(bytes: Uint8Array, address: string, port: number): number {
    return this.#tried((done) => this.#socket!.send(bytes, port, address, done));
  }

  get port(): number {
    return this.#closed || this.#socket === undefined ? 0 : this.#socket.address().port;
  }

  get address(): string {
    return this.#closed || this.#socket === undefined ? '' : this.#socket.address().address;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#socket !== undefined) closeNow(this.#socket);
  }

  #make(reuseAddr: boolean): Socket {
    return createSocket({
      type: this.#family === 4 ? 'udp4' : 'udp6',
      reuseAddr,
      ipv6Only: this.#family === 6 && this.#v6Only,
      lookup: literal as never,
    });
  }

  #tried(send: (done: (error: Error | null) => void) => void): number {
    if (this.#closed || this.#socket === undefined) return -constants.errno.EBADF;
    try {
      // Callbacks come in the order of the sends: libuv sends in order, and dgram defers those done at once by a tick.
      send((error) => this.#owner.onSent(error === null ? '' : (errnoOf(error) ?? 'EIO')));
      return PENDING;
    } catch {
      return -constants.errno.EINVAL;
    }
  }
}

/** @returns the errno name, '' for none. */
function bindNow(socket: Socket, at: BindOptions): string {
  let bound = false;
  let failed = 'EIO';
  const onError = (error: Error): void => {
    failed = errnoOf(error) ?? failed;
  };
  socket.once('error', onError);
  socket.once('listening', () => {
    bound = true;
  });
  try {
    socket.bind(at);
  } catch (error) {
    onError(error as Error);
  }
  if (bound) socket.off('error', onError);
  return bound ? '' : failed;
}

function closeNow(socket: Socket): void {
  try {
    socket.close();
  } catch {
    // ERR_SOCKET_DGRAM_NOT_RUNNING: it was never open.
  }
}
