// What stands before every route of a control server, on node:http itself: the token of the TCP port, and all that node:http would answer in
// its own way (no Host, Expect, CONNECT, what is no HTTP). So who has no token is told 401 and nothing else, whatever it sends, and every
// error has the one shape. RFC 9110 10.1.1 (Expect), RFC 9112 3.2 (Host).

import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { errnoOf } from '../host/operator-error.ts';
import { ApiError, errorBody } from './api-error.ts';
import { answerBeforeBody } from './body-budget.ts';
import type { Token } from './token.ts';

/** Bytes of a request's headers. */
export const MAX_HEADER_BYTES: number = 8 * 1024;

/** A refused client may read its answer for so long before the connection is closed over what it still sends. */
const LINGER_MS = 1000;

const STATUS_TEXT: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
};

/**
 * Leads what passes to `serve`, and refuses the rest. The server is made with `requireHostHeader: false` and no request listener.
 * @param token undefined: everybody may ask.
 */
export function openFrontDoor(server: Server, token: Token | undefined, serve: RequestListener): void {
  /** Connections that have shown the token: they are told what is wrong with what follows. */
  const trusted = new WeakSet<Duplex>();
  const answers = new WeakMap<Duplex, ServerResponse>();

  const refusalOf = (request: IncomingMessage): ApiError | undefined => {
    if (token !== undefined) {
      if (!token.matches(request.headers.authorization)) return tokenError();
      trusted.add(request.socket);
    }
    // HTTP/1.0 knows neither.
    if (request.httpVersion !== '1.1') return undefined;
    const { host, expect } = request.headers;
    const hosts = request.rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host').length;
    if (host === undefined || hosts > 1)
      return new ApiError(400, 'ERR_BAD_REQUEST', `the header Host is ${hosts === 0 ? 'missing' : 'given twice'}`);
    if (expect !== undefined && expect.toLowerCase() !== '100-continue')
      return new ApiError(417, 'ERR_EXPECTATION', 'no expectation but 100-continue is known here');
    return undefined;
  };

  server.on('request', (request, response) => {
    answers.set(request.socket, response);
    const refusal = refusalOf(request);
    if (refusal === undefined) serve(request, response);
    else refuse(request, response, refusal);
  });
  // These come in place of `request`; left to itself node:http sends 100 or 417 without asking anybody.
  const asRequest = (request: IncomingMessage, response: ServerResponse): void => {
    server.emit('request', request, response);
  };
  server.on('checkContinue', asRequest);
  server.on('checkExpectation', asRequest);
  server.on('connect', (request, socket) => {
    const refusal = refusalOf(request) ?? new ApiError(405, 'ERR_METHOD', 'this is no proxy: CONNECT leads nowhere');
    refuseConnection(socket, refusal);
  });
  server.on('clientError', (error, socket) => {
    const begun = answers.get(socket);
    // Nothing may come between the parts of an answer that is under way, like a stream of events.
    const within = begun?.headersSent === true && !begun.writableFinished;
    if (within || !socket.writable || errnoOf(error) === 'ECONNRESET') {
      socket.destroy();
      return;
    }
    const untold = token !== undefined && !trusted.has(socket);
    refuseConnection(socket, untold ? tokenError() : clientError(errnoOf(error)));
  });
}

function tokenError(): ApiError {
  return new ApiError(401, 'ERR_TOKEN', 'a valid bearer token is needed');
}

/** What is no HTTP, too large or too slow. */
function clientError(code: string | undefined): ApiError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return new ApiError(431, 'ERR_HEADERS_TOO_LARGE', `headers have at most ${MAX_HEADER_BYTES} bytes`);
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ApiError(408, 'ERR_TIMEOUT', 'the request came too slowly');
    default:
      return new ApiError(400, 'ERR_BAD_REQUEST', 'this is not an HTTP/1.1 request');
  }
}

function refuse(request: IncomingMessage, response: ServerResponse, error: ApiError): void {
  const body = JSON.stringify(errorBody(error));
  // A body is read away by node:http; where there is none the connection has no more use.
  const { headers } = request;
  const bodyless = headers['content-length'] === undefined && headers['transfer-encoding'] === undefined;
  answerBeforeBody(request, response);
  response.writeHead(error.status, { ...headersOf(error, body), ...(bodyless ? { Connection: 'close' } : {}) });
  response.end(body);
}

/** The same without node:http, which has let go of the connection. */
function refuseConnection(socket: Duplex, error: ApiError): void {
  const body = JSON.stringify(errorBody(error));
  const headers = { ...headersOf(error, body), Connection: 'close' };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.on('error', () => socket.destroy());
  socket.resume();
  socket.end(`HTTP/1.1 ${error.status} ${STATUS_TEXT[error.status] ?? ''}\r\n${lines.join('')}\r\n${body}`);
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  timer.unref();
  socket.once('close', () => clearTimeout(timer));
}

function headersOf({ status }: ApiError, body: string): Record<string, string> {
  return {
    'Content-Type': 'application/json',
    'Content-Length': String(Buffer.byteLength(body)),
    ...(status === 401 ? { 'WWW-Authenticate': 'Bearer' } : {}),
    ...(status === 405 ? { Allow: 'GET, HEAD, POST, PUT, PATCH, DELETE' } : {}),
  };
}
