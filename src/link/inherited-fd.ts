// Descriptors that the launcher hands over: finds out what they are, by calls that work alike on Linux and macOS.
// It opens nothing: the listener does.
//
// A write of no bytes sends nothing, and tells a connected stream socket (0) from a listening one: ENOTCONN for unix sockets,
// EPIPE for TCP ones. EPIPE is also the answer of a connected unix socket whose peer has gone, which `listen` then
// refuses with EINVAL; trying `listen` first is no way, as Node closes the descriptor when it fails.

import { fstatSync, writeSync } from 'node:fs';
import { errnoOf } from '../host/operator-error.ts';

/** What a descriptor turned out to be; `maybe-listening` may also be a connection whose peer has gone. */
export type InheritedKind = 'connected' | 'listening' | 'maybe-listening';

const NOTHING = new Uint8Array(1);

/** @returns the kind, or a phrase that says why this descriptor cannot carry a link. */
export function inspectSocket(fd: number): { kind: InheritedKind } | { wrong: string } {
  try {
    if (!fstatSync(fd).isSocket()) return { wrong: `descriptor ${fd} is no socket` };
  } catch (error) {
    return { wrong: notOpen(fd, error) };
  }
  try {
    writeSync(fd, NOTHING, 0, 0);
    return { kind: 'connected' };
  } catch (error) {
    switch (errnoOf(error)) {
      case 'ENOTCONN':
        return { kind: 'listening' };
      case 'EPIPE':
        return { kind: 'maybe-listening' };
      case 'EAGAIN':
        return { kind: 'connected' };
      default:
        return { wrong: `descriptor ${fd} is no stream socket (${errnoOf(error)})` };
    }
  }
}

/** @returns a phrase if `fd` is neither a socket nor a pipe. */
export function pipeProblem(fd: number): string | undefined {
  try {
    const stat = fstatSync(fd);
    return stat.isSocket() || stat.isFIFO() ? undefined : `descriptor ${fd} is neither a socket nor a pipe`;
  } catch (error) {
    return notOpen(fd, error);
  }
}

function notOpen(fd: number, error: unknown): string {
  return errnoOf(error) === 'EBADF'
    ? `descriptor ${fd} is not open`
    : `descriptor ${fd} cannot be used: ${String(error)}`;
}
