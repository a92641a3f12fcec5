// A larger send buffer for a stream socket. Node has the call for UDP sockets only, so a UDP handle is put beside the stream's for it:
// the option belongs to the socket, not to the handle. It never reads, writes or polls; it is there to be closed in the right moment.
//
// Why: the kernel wakes a writer on a unix socket when three quarters of its buffer are empty, and Linux gives it 208 KiB, so the
// other side runs dry while we are being woken. docs/adr/0022 has the figures.
//
// Closing a handle closes its descriptor, and the stream's own close has done that already: the number may be another file's. So the
// number is taken first, with a descriptor of ours; while that cannot be had, the handle stays.

import { closeSync, openSync } from 'node:fs';
import { devNull } from 'node:os';

interface SizingHandle {
  open(fd: number): number;
  /** @returns the size, or undefined with `errno` in `context`. */
  bufferSize(bytes: number, receive: boolean, context: { errno?: number }): number | undefined;
  close(): void;
}

const STDERR = 2;
/** Free descriptors below the wanted one that are taken to come to it. */
const HOLES_MAX = 64;

const stale = new Set<SendRoom>();

/** Node's UDP handle, or undefined where it is not as we know it. */
const Handle: (new () => SizingHandle) | undefined = loadHandle();

function loadHandle(): (new () => SizingHandle) | undefined {
  try {
    const load = (process as unknown as { binding(name: string): Record<string, unknown> }).binding;
    const { UDP } = load('udp_wrap') as { UDP: new () => SizingHandle };
    const shape = UDP.prototype as unknown as Record<string, unknown>;
    return ['open', 'bufferSize', 'close'].every((name) => typeof shape[name] === 'function') ? UDP : undefined;
  } catch {
    // No such call, or it is forbidden (the permission model).
    return undefined;
  }
}

export class SendRoom {
  readonly #handle: SizingHandle;
  readonly #fd: number;

  private constructor(handle: SizingHandle, fd: number) {
    this.#handle = handle;
    this.#fd = fd;
  }

  /** Handles whose descriptor is closed and whose number has not been had yet. */
  static get stale(): number {
    return stale.size;
  }

  /**
   * Asks for a send buffer of `bytes`; the kernel gives less where its limit is lower (Linux: net.core.wmem_max).
   * @param fd of a socket that the event loop does not watch yet; standard input and output stay as they are, libuv closes none.
   * @returns undefined if it stays as it was; otherwise `release` is due once the stream's descriptor is closed.
   */
  static widen(fd: number, bytes: number): SendRoom | undefined {
    if (Handle === undefined || fd <= STDERR) return undefined;
    const handle = new Handle();
    // No socket, or one that is watched: the handle has taken nothing and may be closed.
    if (handle.open(fd) !== 0) {
      handle.close();
      return undefined;
    }
    handle.bufferSize(bytes, false, {});
    return new SendRoom(handle, fd);
  }

  /** The stream's descriptor is closed. */
  release(): void {
    stale.add(this);
    for (const room of stale) if (room.#close()) stale.delete(room);
  }

  /** @returns false if the number is somebody else's now. */
  #close(): boolean {
    const others: number[] = [];
    let got = -1;
    try {
      // The lowest free number is given out first.
      while (got < this.#fd && others.length < HOLES_MAX) {
        got = openSync(devNull, 'r');
        if (got !== this.#fd) others.push(got);
      }
    } catch {
      // No descriptors left: later.
    }
    for (const fd of others) closeSync(fd);
    if (got !== this.#fd) return false;
    this.#handle.close();
    return true;
  }
}
