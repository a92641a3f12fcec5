// What the first bytes of a guest's flow say about where it wants to go: the server name of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3),
// or the host of an HTTP request (RFC 9112 3.2). It reads bytes where they lie and keeps none of them.

import { getU16 } from '../base/bytes.ts';

/** More than this is not looked at: a ClientHello with everything in it has 2 KiB, a request head rarely 8. */
export const FIRST_BYTES_MAX: number = 32 * 1024;

export type FirstBytes =
  /** Not all there yet. */
  | { readonly kind: 'more' }
  /** A TLS client; it may name nobody. */
  | { readonly kind: 'tls'; readonly name: string | undefined }
  /** An HTTP/1 request; `path` as in the request line. */
  | { readonly kind: 'http'; readonly host: string | undefined; readonly path: string }
  /** Something else. */
  | { readonly kind: 'other' };

const MORE: FirstBytes = { kind: 'more' };
const OTHER: FirstBytes = { kind: 'other' };
const RECORD_HANDSHAKE = 22;
const RECORD_MAX_BYTES = 16_384 + 2048;
const CLIENT_HELLO = 1;
const EXTENSION_SERVER_NAME = 0;

/** Looks at what has come so far. @param ended nothing more will come. */
export function readFirstBytes(buf: Uint8Array, off: number, len: number, ended: boolean): FirstBytes {
  const found = len === 0 ? MORE : buf[off] === RECORD_HANDSHAKE ? clientHello(buf, off, len) : request(buf, off, len);
  if (found.kind !== 'more' || (!ended && len < FIRST_BYTES_MAX)) return found;
  // As much as will be known of it.
  if (len === 0) return OTHER;
  if (buf[off] === RECORD_HANDSHAKE) return { kind: 'tls', name: undefined };
  return request(buf, off, len, true);
}

function clientHello(buf: Uint8Array, off: number, len: number): FirstBytes {
  const end = off + len;
  const first = recordLength(buf, off, end);
  if (first === undefined) return MORE;
  if (first <= 0) return OTHER;
  // Mostly the whole message is in the first record; else the pieces are put together.
  let message = buf.subarray(off + 5, Math.min(end, off + 5 + first));
  let at = off + 5 + first;
  while (message.length < 4 || message.length < 4 + u24(message, 1)) {
    const more = recordLength(buf, at, end);
    if (more === undefined || at >= end) return MORE;
    if (more <= 0 || buf[at] !== RECORD_HANDSHAKE) return OTHER;
    // Copy: a message that is spread over records.
    message = Buffer.concat([message, buf.subarray(at + 5, Math.min(end, at + 5 + more))]);
    at += 5 + more;
  }
  if (message[0] !== CLIENT_HELLO) return OTHER;
  return { kind: 'tls', name: serverName(message.subarray(4, 4 + u24(message, 1))) };
}

/** Bytes of the record's body; undefined: its header is not there yet; 0: it is no TLS record. */
function recordLength(buf: Uint8Array, at: number, end: number): number | undefined {
  if (at + 5 > end) return undefined;
  const length = getU16(buf, at + 3);
  return buf[at + 1] === 3 && length > 0 && length <= RECORD_MAX_BYTES ? length : 0;
}

/** @param hello the body of a ClientHello. @returns undefined where it names no host. */
function serverName(hello: Uint8Array): string | undefined {
  // Version, random; session id; cipher suites; compression methods.
  let at = 34;
  at += 1 + (hello[at] ?? 0);
  if (at + 2 > hello.length) return undefined;
  at += 2 + getU16(hello, at);
  at += 1 + (hello[at] ?? 0);
  if (at + 2 > hello.length) return undefined;
  const end = Math.min(hello.length, at + 2 + getU16(hello, at));
  at += 2;
  while (at + 4 <= end) {
    const type = getU16(hello, at);
    const next = at + 4 + getU16(hello, at + 2);
    if (next > end) return undefined;
    if (type === EXTENSION_SERVER_NAME) return hostName(hello.subarray(at + 4, next));
    at = next;
  }
  return undefined;
}

/** The first host_name of a server name list. */
function hostName(list: Uint8Array): string | undefined {
  if (list.length < 5 || list[2] !== 0) return undefined;
  const length = getU16(list, 3);
  if (5 + length > list.length) return undefined;
  return plainName(Buffer.from(list.subarray(5, 5 + length)).toString('latin1'));
}

/** @param cut no more will be known of it: a head whose first line is there is that of a request, however long the rest of it is. */
function request(buf: Uint8Array, off: number, len: number, cut = false): FirstBytes {
  const view = Buffer.from(buf.buffer, buf.byteOffset + off, Math.min(len, FIRST_BYTES_MAX));
  const lineEnd = view.indexOf('\n');
  const line = view.toString('latin1', 0, lineEnd < 0 ? Math.min(view.length, 4096) : lineEnd);
  // A method, then a space: nothing else that speaks first looks so.
  if (!/^[A-Z]{1,20}($| )/.test(line)) return OTHER;
  if (lineEnd < 0) return cut ? OTHER : MORE;
  const [, path] = /^[A-Z]+ (\S+) HTTP\/1\.[01]\r?$/.exec(line) ?? [];
  if (path === undefined) return OTHER;
  const crlf = view.indexOf('\r\n\r\n', lineEnd - 1);
  const bare = crlf < 0 ? view.indexOf('\n\n', lineEnd) : -1;
  const found = crlf < 0 ? bare : crlf;
  if (found < 0 && !cut) return MORE;
  // Of a head that is cut only whole lines count.
  const headEnd = found < 0 ? Math.max(lineEnd, view.lastIndexOf('\n')) : found;
  const [, host] = /\nhost:[ \t]*([^\r\n]*?)[ \t]*(?:\r?\n|$)/i.exec(view.toString('latin1', lineEnd, headEnd)) ?? [];
  return { kind: 'http', host: host === undefined ? undefined : plainHost(host), path };
}

/** The name without port, or undefined for what is none. */
function plainHost(text: string): string | undefined {
  const bracketed = /^\[([0-9a-f:.]+)\](?::\d*)?$/i.exec(text);
  if (bracketed !== null) return bracketed[1]!.toLowerCase();
  return plainName(text.replace(/:\d*$/, ''));
}

function plainName(text: string): string | undefined {
  const name = text.toLowerCase().replace(/\.$/, '');
  return name.length <= 253 && /^[a-z0-9_]([a-z0-9._-]*)$/.test(name) ? name : undefined;
}

function u24(buf: Uint8Array, off: number): number {
  return ((buf[off] ?? 0) << 16) | ((buf[off + 1] ?? 0) << 8) | (buf[off + 2] ?? 0);
}
