// The program that runs in each namespace of the laboratory: servers for the networks that the host can be on, and a client for the
// guest. `laboratory.ts` is its other end.

import { createHash, type Hash } from 'node:crypto';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer as createHttpServer, type IncomingMessage, request, type Server } from 'node:http';
import { createConnection, createServer, isIPv4, type Socket } from 'node:net';
import * as packet from 'dns-packet';
import { codeOf, serveOperations } from './agent.ts';
import { type DnsMode, LabDns, type Zone } from './lab-dns.ts';
import { ECHO_PORT, PROXY_PORT, WEB_PORT } from './lab-plan.ts';
import { hostByte, streamBytes } from './stream-pattern.ts';

/** What came back for one DNS question, without repeating it. */
export interface DnsOutcome {
  /** `NOERROR`, `NXDOMAIN`, `SERVFAIL`, …; `silence` for none, or an errno code. */
  readonly rcode: string;
  readonly addresses: readonly string[];
  readonly ms: number;
}

/** What came of one attempt to talk: the text that was read, or an errno code or `silence`. */
export interface Outcome {
  readonly result: string;
  readonly ms: number;
}

/** Both directions of an echoed stream. */
export interface StreamOutcome {
  readonly sentBytes: number;
  readonly sentHash: string;
  readonly receivedBytes: number;
  readonly receivedHash: string;
  /** '' or why it broke. */
  readonly error: string;
}

const PATIENCE_MS = 8000;

// ---- servers

const dns = new Map<string, LabDns>();

async function serveDns(address: string, zone: Zone): Promise<void> {
  const server = new LabDns(address, zone);
  dns.set(address, server);
  await server.become('answering');
}

async function dnsMode(address: string, mode: DnsMode): Promise<void> {
  await dns.get(address)!.become(mode);
}

function dnsZone(address: string, zone: Zone): void {
  dns.get(address)!.zone = zone;
}

function dnsQuestions(address: string): number {
  return dns.get(address)!.questions;
}

function listening(server: Server | ReturnType<typeof createServer>, port: number, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, address, resolve);
  });
}

/** A host: HTTP that answers with its name, echo over TCP and UDP; the UDP answer has the name in front. */
async function serveHost(address: string, name: string): Promise<void> {
  await listening(
    createHttpServer((_request, response) => response.end(name)),
    WEB_PORT,
    address,
  );
  const echo = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  await listening(echo, ECHO_PORT, address);
  const udp = createSocket('udp4', (message, peer) =>
    udp.send(`${name} ${peer.address}: ${message}`, peer.port, peer.address, () => {}),
  );
  udp.on('error', () => {});
  await new Promise<void>((resolve) => udp.bind(ECHO_PORT, address, resolve));
}

let proxied: string[] = [];

/**
 * An HTTP proxy: CONNECT, and GET of whole URLs. It finds names in its table, as a company's proxy finds the intranet's.
 * @param credentials `user:password` for Basic authentication, '' for none.
 */
async function serveProxy(address: string, names: Record<string, string>, credentials: string): Promise<void> {
  const wanted = `Basic ${Buffer.from(credentials).toString('base64')}`;
  const allowed = (r: IncomingMessage): boolean => credentials === '' || r.headers['proxy-authorization'] === wanted;
  const where = (host: string): string | undefined => (isIPv4(host) ? host : names[host.toLowerCase()]);
  const server = createHttpServer((asked, response) => {
    proxied.push(`${asked.method} ${asked.url}`);
    if (!allowed(asked)) {
      response.writeHead(407, { 'proxy-authenticate': 'Basic realm="laboratory"' }).end('who are you?');
      return;
    }
    const url = URL.canParse(asked.url ?? '') ? new URL(asked.url ?? '') : undefined;
    const host = where(url?.hostname ?? '');
    if (url === undefined || host === undefined) {
      response.writeHead(502).end('no such host');
      return;
    }
    const { pathname, search } = url;
    const options = {
      host,
      port: url.port || WEB_PORT,
      method: asked.method,
      path: `${pathname}${search}`,
      agent: false,
    };
    const onward = request({ ...options, headers: { host: url.host } }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', (error) => response.writeHead(502).end(codeOf(error)));
    asked.pipe(onward);
  });
  server.on('connect', (asked: IncomingMessage, socket: Socket, head: Buffer) => {
    proxied.push(`CONNECT ${asked.url}`);
    socket.on('error', () => socket.destroy());
    if (!allowed(asked)) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="laboratory"\r\n\r\n');
      return;
    }
    const [, name = '', port = ''] = /^(.*):(\d+)$/.exec(asked.url ?? '') ?? [];
    const host = where(name);
    const onward = createConnection({ host: host ?? '0.0.0.0', port: host === undefined ? 1 : Number(port) });
    onward.on('error', () => {
      if (socket.writable) socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
    });
    onward.once('connect', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      onward.write(head);
      onward.pipe(socket).pipe(onward);
    });
    socket.once('close', () => onward.destroy());
  });
  await listening(server, PROXY_PORT, address);
}

/** What the proxy was asked since the last call, e.g. `CONNECT wiki.corp.example:80`. */
function proxyLog(): string[] {
  const log = proxied;
  proxied = [];
  return log;
}

// ---- the guest's side

/** Asks once, from a port of its own. */
function ask(server: string, name: string, type: 'A' | 'AAAA' = 'A', patienceMs = PATIENCE_MS): Promise<DnsOutcome> {
  const started = performance.now();
  const id = Math.floor(Math.random() * 65_536);
  const socket = createSocket('udp4');
  return new Promise((resolve) => {
    const end = (rcode: string, addresses: readonly string[] = []): void => {
      clearTimeout(timer);
      socket.close();
      resolve({ rcode, addresses, ms: performance.now() - started });
    };
    const timer = setTimeout(() => end('silence'), patienceMs);
    socket.once('error', (error) => end(codeOf(error)));
    socket.on('message', (message) => {
      const answer = packet.decode(message) as packet.DecodedPacket & { rcode: string };
      if (answer.id !== id) return;
      const addresses = (answer.answers ?? [])
        .filter((a) => a.type === type)
        .map((a) => String((a as { data: unknown }).data));
      end(answer.rcode, addresses);
    });
    const flags = packet.RECURSION_DESIRED;
    const query = packet.encode({ type: 'query', id, flags, questions: [{ name, type }] });
    // Connected, so that an ICMP error is told.
    socket.once('connect', () => socket.send(query));
    socket.connect(53, server);
  });
}

/** Connects, sends `text`, reads until the other side ends. */
function talk(host: string, port: number, text: string): Promise<Outcome> {
  const started = performance.now();
  return new Promise((resolve) => {
    let read = '';
    const socket = createConnection({ host, port });
    const end = (result: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ result, ms: performance.now() - started });
    };
    const timer = setTimeout(() => end('silence'), PATIENCE_MS);
    socket.once('connect', () => socket.write(text));
    socket.on('data', (chunk: Buffer) => {
      read += chunk.toString();
    });
    socket.once('end', () => end(read));
    socket.once('error', (error) => end(codeOf(error)));
  });
}

/** GET / by HTTP. @returns the page, or what went wrong. */
async function web(host: string): Promise<Outcome> {
  const { result, ms } = await talk(host, WEB_PORT, `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  return { result: /^HTTP\/1.1 200/.test(result) ? (result.split('\r\n\r\n')[1] ?? '') : result, ms };
}

/** The same through a proxy: CONNECT first. @returns the page, or the proxy's status. */
function webByProxy(proxy: string, host: string, credentials: string): Promise<Outcome> {
  const started = performance.now();
  const headers =
    credentials === '' ? {} : { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` };
  return new Promise((resolve) => {
    const end = (result: string): void => resolve({ result, ms: performance.now() - started });
    const path = `${host}:${WEB_PORT}`;
    const asked = request({ host: proxy, port: PROXY_PORT, method: 'CONNECT', path, headers, agent: false });
    asked.setTimeout(PATIENCE_MS, () => asked.destroy(Object.assign(new Error(), { code: 'silence' })));
    asked.once('error', (error) => end(codeOf(error)));
    asked.once('connect', (response, socket) => {
      if (response.statusCode !== 200) {
        socket.destroy();
        end(String(response.statusCode));
        return;
      }
      let page = '';
      socket.on('data', (chunk: Buffer) => {
        page += chunk.toString();
      });
      socket.once('error', (error) => end(codeOf(error)));
      socket.once('end', () => end(page.split('\r\n\r\n')[1] ?? page));
      socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    });
    asked.end();
  });
}

const udpSockets = new Map<number, UdpSocket>();

/** A UDP socket that stays. @param remote connected there, so that ICMP errors are told; '' for none. @returns its number. */
async function udpOpen(remote: string): Promise<number> {
  const socket = createSocket('udp4');
  socket.on('error', () => {});
  await new Promise<void>((resolve) => socket.bind(0, resolve));
  if (remote !== '') {
    await new Promise<void>((resolve) => {
      socket.once('connect', resolve);
      socket.connect(ECHO_PORT, remote);
    });
  }
  udpSockets.set(socket.address().port, socket);
  return socket.address().port;
}

/** Sends `text` once from such a socket to an echo port and waits for the echo. @param host '' on a connected one. */
function udpSay(port: number, host: string, text: string, patienceMs: number): Promise<Outcome> {
  const socket = udpSockets.get(port)!;
  const started = performance.now();
  return new Promise((resolve) => {
    const end = (result: string): void => {
      clearTimeout(timer);
      socket.off('message', onMessage);
      socket.off('error', onError);
      resolve({ result, ms: performance.now() - started });
    };
    // Late echoes of earlier words are not this one's.
    const onMessage = (message: Buffer): void => {
      if (message.toString().endsWith(`: ${text}`)) end(message.toString());
    };
    const onError = (error: Error): void => end(codeOf(error));
    const timer = setTimeout(() => end('silence'), patienceMs);
    socket.on('message', onMessage);
    socket.on('error', onError);
    if (host === '') socket.send(text);
    else socket.send(text, ECHO_PORT, host);
  });
}

/** A stream that goes on: the pattern is sent bit by bit, and what the echo server gives back is hashed. */
class EchoedStream {
  readonly #socket: Socket;
  readonly #sent: Hash = createHash('sha256');
  readonly #received: Hash = createHash('sha256');
  readonly #timer: NodeJS.Timeout;
  readonly #over: Promise<void>;
  #sentBytes = 0;
  #receivedBytes = 0;
  #error = '';

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received.update(chunk);
      this.#receivedBytes += chunk.length;
    });
    socket.once('error', (error) => {
      this.#error = codeOf(error);
    });
    this.#over = new Promise((resolve) => socket.once('close', () => resolve()));
    this.#timer = setInterval(() => this.#send(), 10);
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  #send(): void {
    if (this.#socket.writableNeedDrain || !this.#socket.writable) return;
    const chunk = streamBytes(hostByte, this.#sentBytes, 8192);
    this.#sentBytes += chunk.length;
    this.#sent.update(chunk);
    this.#socket.write(chunk);
  }

  async end(): Promise<StreamOutcome> {
    clearInterval(this.#timer);
    this.#socket.end();
    const patience = setTimeout(() => {
      this.#error = 'silence';
      this.#socket.destroy();
    }, PATIENCE_MS);
    await this.#over;
    clearTimeout(patience);
    return {
      sentBytes: this.#sentBytes,
      sentHash: this.#sent.digest('hex'),
      receivedBytes: this.#receivedBytes,
      receivedHash: this.#received.digest('hex'),
      error: this.#error,
    };
  }
}

const streams: EchoedStream[] = [];

/** @returns its number. */
function streamOpen(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host, port: ECHO_PORT, allowHalfOpen: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(streams.push(new EchoedStream(socket)) - 1);
    });
  });
}

/** How much has come back so far. */
function streamReceived(number: number): number {
  return streams[number]!.receivedBytes;
}

/** Sends FIN, reads the rest. */
function streamEnd(number: number): Promise<StreamOutcome> {
  return streams[number]!.end();
}

/** Everything a test can ask for. */
export const operations = {
  serveDns,
  dnsMode,
  dnsZone,
  dnsQuestions,
  serveHost,
  serveProxy,
  proxyLog,
  ask,
  web,
  webByProxy,
  udpOpen,
  udpSay,
  streamOpen,
  streamReceived,
  streamEnd,
};

/** The operations as a type, for the other end. */
export type Operations = typeof operations;

serveOperations(operations);
