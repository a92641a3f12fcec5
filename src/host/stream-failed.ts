// A stream whose dial failed in the call itself, when there is nothing yet that could fail.

import type { HostStream, StreamOwner } from './stream.ts';

/** Tells `errno`, then the close, later. */
export function failedStream(errno: string, owner: StreamOwner): HostStream {
  const stream = {
    closed: false,
    hasPeer: false,
    resume: () => {},
    wantSendBuffer: () => {},
    recall: () => {},
    write: () => false,
    writeAll: () => false,
    end: () => {},
    destroy: () => close(),
    reset: () => close(),
  };
  const close = (): void => {
    if (stream.closed) return;
    stream.closed = true;
    process.nextTick(() => owner.onClose());
  };
  process.nextTick(() => {
    if (stream.closed) return;
    owner.onError(errno);
    close();
  });
  return stream;
}
