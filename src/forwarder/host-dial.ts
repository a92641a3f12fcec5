// Connects to a target on the host's side: a TCP port, or a unix socket.

import net from 'node:net';
import type { ForwardTarget, HostTcpTarget, HostUnixTarget } from './forward-spec.ts';

/** What `net.connect` is to be told. @param index is added to the port (ranges). */
function hostTarget(target: HostTcpTarget | HostUnixTarget, index: number): net.NetConnectOpts {
  return target.kind === 'unix' ? { path: target.path } : { host: target.address, port: target.port + index };
}

export function isHostTarget(target: ForwardTarget): target is HostTcpTarget | HostUnixTarget {
  return target.kind === 'unix' || target.kind === 'tcp';
}

/** Resolves with the connected socket. */
export function dialHost(
  target: HostTcpTarget | HostUnixTarget,
  index: number,
  signal: AbortSignal,
): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ ...hostTarget(target, index), allowHalfOpen: true, noDelay: true });
    const fail = (error: Error): void => {
      finish();
      socket.on('error', () => {});
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(new Error('aborted'));
    const finish = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('error', fail);
    };
    signal.addEventListener('abort', onAbort);
    socket.on('error', fail);
    socket.once('connect', () => {
      finish();
      resolve(socket);
    });
  });
}
