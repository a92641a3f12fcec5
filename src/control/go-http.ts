// What Go's net/http and encoding/json do when gvproxy and vpnkit-forwarder answer, as far as clients see it: content types, the form of
// errors, keys that match in any case, messages about bodies that are no JSON.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { errnoOf } from '../host/operator-error.ts';
import { ApiError } from './api-error.ts';
import { type BodyBudget, discard } from './body-budget.ts';

const BODY_MAX_BYTES = 64 * 1024;

/** An error as `http.Error` sends it. */
export class GoError extends Error {
  override readonly name = 'GoError';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** `http.Error`: plain text with a newline, and a header against guessing. */
export function sendError(response: ServerResponse, { status, message }: GoError): void {
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'X-Content-Type-Options': 'nosniff',
    'Content-Length': Buffer.byteLength(message) + 1,
  });
  response.end(`${message}\n`);
}

/** `http.NotFound`. */
export const NOT_FOUND: GoError = new GoError(404, '404 page not found');

/** `json.NewEncoder(w).Encode` without a content type: Go guesses plain text. */
export function sendJson(response: ServerResponse, value: unknown): void {
  // Go escapes what HTML could take for markup.
  const escaped = JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  const text = `${escaped}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
}

/** 200 without a body. */
export function sendEmpty(response: ServerResponse): void {
  response.writeHead(200, { 'Content-Length': 0 });
  response.end();
}

/** The object in a body. @throws GoError 400 with what Go's decoder would say. */
export async function readObject(
  incoming: IncomingMessage,
  budget: BodyBudget,
  type: string,
): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await budget.read(incoming, BODY_MAX_BYTES);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (!incoming.complete) await discard(incoming);
    throw new GoError(error.status, error.message);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new GoError(400, decodeError(text, error as Error));
  }
  if (value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value))
    throw new GoError(400, `json: cannot unmarshal ${goKind(value)} into Go value of type types.${type}`);
  return value as Record<string, unknown>;
}

/** V8's complaint in the words of encoding/json. */
function decodeError(text: string, { message }: Error): string {
  if (text.trim() === '') return 'EOF';
  const at = Number(/position (\d+)/.exec(message)?.[1] ?? Number.NaN);
  const token = /^Unexpected token '?(.)/su.exec(message)?.[1] ?? text[at];
  if (token === undefined || /^Unexpected end|^Unterminated/.test(message)) return 'unexpected EOF';
  const what = /property name|double-quoted/.test(message) ? 'object key string' : 'value';
  return `invalid character '${token}' looking for beginning of ${what}`;
}

/** The text under a key, whatever its case; '' if there is none. The last of several wins. @throws GoError 400 */
export function field(object: Readonly<Record<string, unknown>>, name: string, type: string): string {
  let found = '';
  for (const [key, value] of Object.entries(object)) {
    if (key.toLowerCase() !== name.toLowerCase() || value === null) continue;
    if (typeof value !== 'string')
      throw new GoError(
        400,
        `json: cannot unmarshal ${goKind(value)} into Go struct field ${type}.${name} of type string`,
      );
    found = value;
  }
  return found;
}

/** Go's word for a kind of JSON value. */
export function goKind(value: unknown): string {
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'boolean') return 'bool';
  return typeof value;
}

/** What is no HTTP, as net/http answers it. */
export const GO_BAD_REQUEST =
  'HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request';

/** A client whose request cannot be read is told `answer`; one that is too slow or gone, nothing, as in Go. */
export function refuseClient(error: Error, socket: Duplex, answer: string): void {
  if (!socket.writable || errnoOf(error) === 'ERR_HTTP_REQUEST_TIMEOUT') socket.destroy();
  else socket.end(answer, () => socket.destroy());
}
