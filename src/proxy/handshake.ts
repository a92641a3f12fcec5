// What is said to a proxy before a tunnel stands: CONNECT (RFC 9110 9.3.6) with Basic credentials (RFC 7617), or SOCKS 5 (RFC 1928, 1929).
// Bytes in, bytes out; the socket is upstream-connect's.

import { parseAddress } from '../ip/address.ts';
import { type Refusal, RefusalCause, refusal, refusalOfStatus } from './refusal.ts';
import { hostPort, type Upstream, upstreamName } from './upstream.ts';

/** Where a tunnel is to end. */
export interface Target {
  /** Name, or address without brackets. */
  readonly host: string;
  readonly port: number;
}

export type HandshakeStep =
  | { readonly kind: 'more'; readonly send?: Buffer }
  /** The tunnel stands; `rest` came behind the proxy's answer and is the destination's. */
  | { readonly kind: 'done'; readonly rest: Buffer }
  | { readonly kind: 'refused'; readonly refusal: Refusal };

export interface Handshake {
  /** Sent first. */
  readonly hello: Buffer;
  onBytes(bytes: Buffer): HandshakeStep;
}

/** An answer's head may have so many bytes. */
const HEAD_MAX_BYTES = 16 * 1024;

/** @param headers further lines of CONNECT, name and value. */
export function handshakeFor(
  upstream: Upstream,
  target: Target,
  headers: readonly (readonly [string, string])[],
): Handshake {
  return upstream.kind === 'socks5'
    ? new SocksHandshake(upstream, target)
    : new ConnectHandshake(upstream, target, headers);
}

/** The value of `Proxy-Authorization` for a proxy with credentials. */
export function basicCredentials({ user, password }: Upstream): string | undefined {
  if (user === undefined) return undefined;
  return `Basic ${Buffer.from(`${user}:${password ?? ''}`, 'utf8').toString('base64')}`;
}

class ConnectHandshake implements Handshake {
  readonly hello: Buffer;
  readonly #upstream: Upstream;
  readonly #at: string;
  readonly #credentials: boolean;
  #head: Buffer = Buffer.alloc(0);

  constructor(upstream: Upstream, target: Target, headers: readonly (readonly [string, string])[]) {
    this.#upstream = upstream;
    this.#at = hostPort(target.host, target.port);
    const basic = basicCredentials(upstream);
    this.#credentials = basic !== undefined || headers.some(([name]) => /^proxy-authorization$/i.test(name));
    const lines = [
      `CONNECT ${this.#at} HTTP/1.1`,
      `Host: ${this.#at}`,
      ...(basic === undefined ? [] : [`Proxy-Authorization: ${basic}`]),
      ...headers.map(([name, value]) => `${name}: ${value}`),
    ];
    this.hello = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  }

  onBytes(bytes: Buffer): HandshakeStep {
    this.#head = this.#head.length === 0 ? bytes : Buffer.concat([this.#head, bytes]);
    const proxy = upstreamName(this.#upstream);
    for (;;) {
      const end = this.#head.indexOf('\r\n\r\n');
      const text = this.#head.toString('latin1', 0, end < 0 ? Math.min(this.#head.length, 64) : end);
      if (!'HTTP/1.'.startsWith(text.slice(0, 7)))
        return refused(RefusalCause.Proxy, 502, `${proxy} does not speak HTTP: it is no HTTP proxy`);
      if (end < 0) {
        if (this.#head.length <= HEAD_MAX_BYTES) return { kind: 'more' };
        return refused(RefusalCause.Proxy, 502, `the proxy ${proxy} sent an answer without end`);
      }
      const [statusLine = '', ...lines] = text.split('\r\n');
      const [, statusText, reason = ''] = /^HTTP\/1\.\d (\d{3})(?: (.*))?$/.exec(statusLine) ?? [];
      if (statusText === undefined)
        return refused(RefusalCause.Proxy, 502, `the proxy ${proxy} sent an answer that is not HTTP`);
      const status = Number(statusText);
      const rest = this.#head.subarray(end + 4);
      if (status >= 200 && status < 300) return { kind: 'done', rest };
      if (status >= 100 && status < 200) {
        // An interim answer: the real one follows.
        this.#head = rest;
        if (rest.length > 0) continue;
        return { kind: 'more' };
      }
      const challenges = lines.flatMap((line) => /^proxy-authenticate:\s*(.*)$/i.exec(line)?.[1]?.trim() ?? []);
      const said = printable(reason);
      return {
        kind: 'refused',
        refusal: refusalOfStatus(proxy, status, said, this.#at, challenges, this.#credentials),
      };
    }
  }
}

const SOCKS_VERSION = 5;
const AUTH_NONE = 0;
const AUTH_PASSWORD = 2;
const AUTH_NO_METHOD = 0xff;
const ADDRESS_V4 = 1;
const ADDRESS_NAME = 3;
const ADDRESS_V6 = 4;

/** RFC 1928 6. */
const SOCKS_REPLIES: Readonly<Record<number, readonly [cause: RefusalCause, status: number, text: string]>> = {
  1: [RefusalCause.Destination, 502, 'general failure'],
  2: [RefusalCause.Forbidden, 403, 'not allowed by its rules'],
  3: [RefusalCause.Destination, 502, 'network unreachable'],
  4: [RefusalCause.Destination, 502, 'host unreachable'],
  5: [RefusalCause.Destination, 502, 'connection refused'],
  6: [RefusalCause.Destination, 504, 'time to live expired'],
  7: [RefusalCause.Proxy, 502, 'command not supported'],
  8: [RefusalCause.Proxy, 502, 'address type not supported'],
};

class SocksHandshake implements Handshake {
  readonly hello: Buffer;
  readonly #upstream: Upstream;
  readonly #target: Target;
  #state: 'method' | 'password' | 'reply' = 'method';
  #got: Buffer = Buffer.alloc(0);

  constructor(upstream: Upstream, target: Target) {
    this.#upstream = upstream;
    this.#target = target;
    const methods = upstream.user === undefined ? [AUTH_NONE] : [AUTH_NONE, AUTH_PASSWORD];
    this.hello = Buffer.from([SOCKS_VERSION, methods.length, ...methods]);
  }

  onBytes(bytes: Buffer): HandshakeStep {
    this.#got = this.#got.length === 0 ? bytes : Buffer.concat([this.#got, bytes]);
    switch (this.#state) {
      case 'method':
        return this.#onMethod();
      case 'password':
        return this.#onPassword();
      case 'reply':
        return this.#onReply();
    }
  }

  #onMethod(): HandshakeStep {
    if (this.#got[0] !== SOCKS_VERSION) return this.#noSocks();
    const method = this.#take(2)?.[1];
    if (method === undefined) return { kind: 'more' };
    const { user, password = '' } = this.#upstream;
    if (method === AUTH_NONE) return this.#ask();
    if (method === AUTH_PASSWORD && user !== undefined) {
      this.#state = 'password';
      const [name, secret] = [Buffer.from(user), Buffer.from(password)];
      return {
        kind: 'more',
        send: Buffer.concat([Buffer.from([1, name.length]), name, Buffer.from([secret.length]), secret]),
      };
    }
    if (method === AUTH_NO_METHOD || method === AUTH_PASSWORD) return this.#badCredentials();
    return this.#noSocks();
  }

  #onPassword(): HandshakeStep {
    const status = this.#take(2)?.[1];
    if (status === undefined) return { kind: 'more' };
    return status === 0 ? this.#ask() : this.#badCredentials();
  }

  #ask(): HandshakeStep {
    this.#state = 'reply';
    const { host, port } = this.#target;
    const end = Buffer.from([port >>> 8, port & 255]);
    return { kind: 'more', send: Buffer.concat([Buffer.from([SOCKS_VERSION, 1, 0]), addressOf(host), end]) };
  }

  #onReply(): HandshakeStep {
    const got = this.#got;
    const proxy = upstreamName(this.#upstream);
    if (got.length < 5) return { kind: 'more' };
    if (got[0] !== SOCKS_VERSION) return this.#noSocks();
    const reply = got[1]!;
    if (reply !== 0) {
      const [cause, status, text] = SOCKS_REPLIES[reply] ?? [RefusalCause.Proxy, 502, `code ${reply}`];
      const at = hostPort(this.#target.host, this.#target.port);
      return refused(cause, status, `the SOCKS proxy ${proxy} refused ${at}: ${text}`);
    }
    const addressBytes = got[3] === ADDRESS_V4 ? 4 : got[3] === ADDRESS_V6 ? 16 : 1 + got[4]!;
    const whole = 4 + addressBytes + 2;
    return got.length < whole ? { kind: 'more' } : { kind: 'done', rest: got.subarray(whole) };
  }

  #take(length: number): Buffer | undefined {
    if (this.#got.length < length) return undefined;
    const taken = this.#got.subarray(0, length);
    this.#got = this.#got.subarray(length);
    return taken;
  }

  #badCredentials(): HandshakeStep {
    const given = this.#upstream.user !== undefined;
    const what = given ? 'did not take the user name and password' : 'wants a user name and password';
    const advice = '(--proxy socks5://USER:PASSWORD@HOST:PORT)';
    return refused(RefusalCause.Credentials, 407, `the SOCKS proxy ${upstreamName(this.#upstream)} ${what} ${advice}`);
  }

  #noSocks(): HandshakeStep {
    const proxy = upstreamName(this.#upstream);
    return refused(RefusalCause.Proxy, 502, `${proxy} does not speak SOCKS 5 with a method that isthmus has`);
  }
}

function addressOf(host: string): Buffer {
  const address = parseAddress(host);
  if (address === undefined) {
    const name = Buffer.from(host, 'latin1');
    return Buffer.concat([Buffer.from([ADDRESS_NAME, name.length]), name]);
  }
  const { isV4, v4, w0, w1, w2, w3 } = address;
  const words = isV4 ? [v4] : [w0, w1, w2, w3];
  const out = Buffer.alloc(1 + 4 * words.length, isV4 ? ADDRESS_V4 : ADDRESS_V6);
  for (const [i, word] of words.entries()) out.writeInt32BE(word, 1 + 4 * i);
  return out;
}

function refused(cause: RefusalCause, status: number, message: string): HandshakeStep {
  return { kind: 'refused', refusal: refusal(cause, status, message) };
}

/** Somebody else's text in a message of ours. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?').slice(0, 100);
}
