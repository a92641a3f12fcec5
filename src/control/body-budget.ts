// Reads request bodies within limits: of one body, and of all that are being read at the same time, so that many clients with large
// bodies cannot make the daemon grow.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { ApiError } from './api-error.ts';

/** Bytes of all bodies that are being read. */
const ALL_BODIES_BYTES = 16 * 1024 * 1024;

/** What is read of a refused body before the answer. */
const DISCARD_MS = 1000;
const DISCARD_MAX_BYTES = 64 * 1024 * 1024;

/** One for each server. */
export class BodyBudget {
  /** Bytes held now. */
  held = 0;
  readonly #max: number;

  constructor(maxBytes: number = ALL_BODIES_BYTES) {
    this.#max = maxBytes;
  }

  /**
   * @param outgoing a client that waits for 100 Continue is told to go on.
   * @returns the body as text, '' for none.
   * @throws ApiError 413, 503, 400 (not UTF-8, or the client has gone); the rest of the body is unread then.
   */
  async read(incoming: IncomingMessage, maxBytes: number, outgoing?: ServerResponse): Promise<string> {
    const length = incoming.headers['content-length'];
    if (length === undefined && incoming.headers['transfer-encoding'] === undefined) return '';
    if (length !== undefined && Number(length) > maxBytes) throw tooLarge(maxBytes);
    if (outgoing !== undefined && incoming.headers.expect !== undefined && incoming.httpVersion === '1.1')
      outgoing.writeContinue();
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      await new Promise<void>((resolve, reject) => {
        const stop = (): void => {
          incoming.off('data', onData);
          incoming.off('end', resolve);
          incoming.off('error', gone);
          incoming.off('close', gone);
          incoming.pause();
        };
        const onData = (chunk: Buffer): void => {
          bytes += chunk.length;
          this.held += chunk.length;
          if (bytes > maxBytes) {
            stop();
            reject(tooLarge(maxBytes));
          } else if (this.held > this.#max) {
            stop();
            reject(new ApiError(503, 'ERR_BUSY', 'too many request bodies at once; try again'));
          } else chunks.push(chunk);
        };
        const gone = (): void => {
          stop();
          reject(new ApiError(400, 'ERR_BAD_REQUEST', 'the request ended within its body'));
        };
        incoming.on('data', onData);
        incoming.once('end', resolve);
        incoming.once('error', gone);
        incoming.once('close', gone);
      });
    } finally {
      this.held -= bytes;
    }
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
    } catch {
      throw new ApiError(400, 'ERR_BAD_JSON', 'the body is not UTF-8');
    }
  }
}

/**
 * Call it before an answer that does not wait for the request's body. A connection that is closed over unread bytes is reset, and the
 * answer lost, so for a client that wants it closed it stays open until the body was read away behind the answer.
 */
export function answerBeforeBody(incoming: IncomingMessage, outgoing: ServerResponse): void {
  const { headers, socket } = incoming;
  const hasBody = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
  if (!hasBody || incoming.complete || outgoing.shouldKeepAlive) return;
  outgoing.shouldKeepAlive = true;
  const close = (): void => {
    if (incoming.complete && outgoing.writableFinished) socket.destroySoon();
  };
  outgoing.once('finish', close);
  incoming.once('end', close);
}

/**
 * Reads on for a moment without keeping anything, before a connection is closed: one that is closed over unread bytes is reset, and the
 * client would never see why it was refused.
 */
export function discard(incoming: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytes = 0;
    const done = (): void => {
      clearTimeout(timer);
      incoming.off('data', onData);
      incoming.pause();
      resolve();
    };
    const onData = (chunk: Buffer): void => {
      bytes += chunk.length;
      if (bytes > DISCARD_MAX_BYTES) done();
    };
    const timer = setTimeout(done, DISCARD_MS);
    incoming.on('data', onData);
    incoming.on('error', done);
    incoming.once('end', done);
    incoming.once('close', done);
    incoming.resume();
  });
}

function tooLarge(maxBytes: number): ApiError {
  return new ApiError(413, 'ERR_BODY_TOO_LARGE', `a request body has at most ${maxBytes} bytes here`);
}
