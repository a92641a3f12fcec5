// Hybrid vsock: how hypervisors show a guest's vsock on the host as unix sockets. Where to connect for a port of the guest and what to say first;
// which path a guest's own connection comes in on. Firecracker and cloud-hypervisor: `CONNECT PORT\n`, answered `OK PORT\n`;
// HyperKit: `CID.PORT\n`, eight hexadecimal digits each, not answered.

import net from 'node:net';
import type { VsockListen, VsockTarget } from './forward-spec.ts';

/** The longest answer that is waited for, and how long. */
const ANSWER_MAX_BYTES = 64;
const ANSWER_MS = 10_000;
/** What guests know the host as (VMADDR_CID_HOST). */
const HOST_CID = 2;
const NEWLINE = 10;

const hex = (n: number): string => n.toString(16).padStart(8, '0');

/** The unix socket on which a guest's connections to a port of the host arrive. */
export function vsockListenPath({ path, port, style }: VsockListen): string {
  return style === 'hyperkit' ? `${path}/${hex(HOST_CID)}.${hex(port)}` : `${path}_${port}`;
}

/**
 * Connects to a guest's vsock port. @param index is added to the port (ranges).
 * @returns a paused socket; the next byte of it is the guest's. Rejects when nobody listens there, or nobody answers.
 */
export function dialVsock(target: VsockTarget, index: number, signal: AbortSignal): Promise<net.Socket> {
  const port = target.port + index;
  const isHyperkit = target.style === 'hyperkit';
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path: isHyperkit ? `${target.path}/connect` : target.path, allowHalfOpen: true });
    const fail = (error: Error): void => {
      finish();
      socket.on('error', () => {});
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(new Error('aborted'));
    const onEnd = (): void => fail(new Error('refused'));
    const timer = setTimeout(() => fail(new Error('no answer')), ANSWER_MS);
    let answer: Buffer = Buffer.alloc(0);
    const onReadable = (): void => {
      for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null) {
        answer = Buffer.concat([answer, chunk]);
        const at = answer.indexOf(NEWLINE);
        if (at < 0 && answer.length <= ANSWER_MAX_BYTES) continue;
        if (at < 0 || !/^OK \d+\r?$/.test(answer.toString('latin1', 0, at)))
          return fail(new Error('no vsock answers there'));
        finish();
        // Copy: what came behind the answer is the guest's already.
        if (at + 1 < answer.length) socket.unshift(answer.subarray(at + 1));
        resolve(socket);
        return;
      }
    };
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      socket.off('error', fail).off('end', onEnd).off('readable', onReadable);
    };
    signal.addEventListener('abort', onAbort);
    socket.on('error', fail).on('end', onEnd);
    socket.once('connect', () => {
      if (isHyperkit) {
        socket.write(`${hex(target.cid ?? 3)}.${hex(port)}\n`);
        finish();
        resolve(socket);
      } else {
        socket.write(`CONNECT ${port}\n`);
        socket.on('readable', onReadable);
      }
    });
  });
}
