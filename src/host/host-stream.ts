// A stream socket of the host as the packet path wants it: reads into our memory, writes that say at once whether the kernel took
// them, ends, resets. This file picks the way; the two ways are stream-handle (the handle under Node's own
// `net.Socket`: no stream machinery, a third of the cost for each call) and stream-socket (public API only).

import type net from 'node:net';
import type { Arrival, HostStream, StreamOwner } from './stream.ts';
import { acceptHandles, dialHandle, HandleStream, streamBinding, takeHandle } from './stream-handle.ts';
import { acceptSockets, dialSocket, SocketStream } from './stream-socket.ts';

/**
 * Dials a literal address.
 * @param local address of the host to dial from; undefined: the host chooses.
 * @returns the stream; a failure is told by `onError`, later, also one that is known at once.
 */
export function dialTcp(address: string, port: number, owner: StreamOwner, local?: string): HostStream {
  return streamBinding === undefined
    ? dialSocket({ host: address, port, ...(local === undefined ? {} : { localAddress: local }) }, owner)
    : dialHandle(streamBinding, address, port, owner, local);
}

/** Dials a unix socket; otherwise as `dialTcp`. */
export function dialPath(path: string, owner: StreamOwner): HostStream {
  return dialSocket({ path }, owner);
}

/**
 * Takes over a socket that nobody reads from any more: an accepted one (of a server with `pauseOnConnect` and `allowHalfOpen`), one
 * around a descriptor, or one from inside its 'data' event. The given socket is used up. Nothing is read before `resume`.
 */
export function adoptStream(socket: net.Socket, owner: StreamOwner): HostStream {
  const handle = streamBinding === undefined ? undefined : takeHandle(socket);
  if (handle === undefined || streamBinding === undefined) return new SocketStream(socket, owner);
  return new HandleStream(streamBinding, handle, owner);
}

/** For `acceptStreams`: the options with which its server is to be made. */
export const ACCEPT_OPTIONS: net.ServerOpts = { pauseOnConnect: true, allowHalfOpen: true, noDelay: true };

/** Hands every client of a listening server, TCP or unix, to `onArrival`. The server must have been made with `ACCEPT_OPTIONS`. */
export function acceptStreams(server: net.Server, onArrival: (arrival: Arrival) => void): void {
  if (streamBinding !== undefined && acceptHandles(streamBinding, server, onArrival)) return;
  acceptSockets(server, onArrival);
}
