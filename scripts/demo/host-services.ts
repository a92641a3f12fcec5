// The servers on the host's loopback that guests talk to in the demo and the tests: HTTP down and up, UDP echo, a server that
// answers after the client's FIN, two DNS servers that stand in for the host's resolvers, with a resolv.conf that names one of them, and a
// port where nobody listens.

import { createHash, randomBytes } from 'node:crypto';
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { chmodSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import dnsPacket from 'dns-packet';

/** The name that only the stand-in DNS server knows, and what it answers. */
export const UPSTREAM_NAME = 'demo.isthmus.test';
export const UPSTREAM_ADDRESS = '192.0.2.77';
/** What the other one answers for it. */
export const OTHER_ADDRESS = '192.0.2.78';
/** TXT data too large for a plain UDP answer, so that the answer has to come by TCP. */
export const UPSTREAM_TEXT: string = Array.from({ length: 12 }, (_, i) => `${i}-`.padEnd(100, 'isthmus.')).join('');

/** Running servers; ports are of 127.0.0.1. */
export interface HostServices {
  readonly httpPort: number;
  readonly udpPort: number;
  readonly halfClosePort: number;
  readonly dnsPort: number;
  readonly otherDnsPort: number;
  /** A file that names the first DNS server. */
  readonly resolvConf: string;
  /** Replaces that file by one that names the server at this port. */
  useDns(port: number): void;
  /** A port where nobody listens. */
  readonly refusedPort: number;
  /** SHA-256 of the first `bytes` of what `GET /download?bytes=` sends. */
  downloadHash(bytes: number): string;
  close(): Promise<void>;
}

function listening(server: Server, port = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });
}

function bound(socket: DatagramSocket, port = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, '127.0.0.1', () => resolve(socket.address().port));
  });
}

/** One MiB of noise, sent again and again with its number in front, so that a lost or repeated MiB changes the hash. */
const NOISE = randomBytes(1 << 20);

function* noise(bytes: number): Generator<Buffer> {
  for (let sent = 0, number = 0; sent < bytes; number++) {
    const chunk = Buffer.from(NOISE.subarray(0, Math.min(NOISE.length, bytes - sent)));
    if (chunk.length >= 4) chunk.writeUInt32BE(number, 0);
    sent += chunk.length;
    yield chunk;
  }
}

function httpServer(): Server {
  return createHttpServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    if (request.method === 'GET' && url.pathname === '/download') {
      const bytes = Number(url.searchParams.get('bytes') ?? '0');
      response.writeHead(200, { 'content-length': bytes, 'content-type': 'application/octet-stream' });
      const chunks = noise(bytes);
      const send = (): void => {
        for (;;) {
          const { value, done } = chunks.next();
          if (done) return void response.end();
          if (!response.write(value)) return void response.once('drain', send);
        }
      };
      return send();
    }
    if ((request.method === 'POST' || request.method === 'PUT') && url.pathname === '/upload') {
      const hash = createHash('sha256');
      let bytes = 0;
      request.on('data', (chunk: Buffer) => {
        hash.update(chunk);
        bytes += chunk.length;
      });
      request.on('end', () => response.end(`${hash.digest('hex')} ${bytes}\n`));
      return;
    }
    response.writeHead(404).end('not found\n');
  });
}

/** Reads everything, and only after the client's FIN answers with the number of bytes and their hash. */
function halfCloseServer(): Server {
  return createServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash('sha256');
    let bytes = 0;
    socket.on('data', (chunk) => {
      hash.update(chunk);
      bytes += chunk.length;
    });
    socket.on('end', () => socket.end(`${bytes} ${hash.digest('hex')}\n`));
    socket.on('error', () => socket.destroy());
  });
}

function dnsAnswer(message: Buffer, limit: number, address: string): Buffer {
  const query = dnsPacket.decode(message);
  const question = query.questions?.[0];
  const known = question?.name.toLowerCase() === UPSTREAM_NAME;
  const answers: dnsPacket.Answer[] = [];
  if (known && question?.type === 'A') {
    answers.push({ type: 'A', name: question.name, ttl: 60, data: address });
  }
  if (known && question?.type === 'TXT') {
    for (let at = 0; at < UPSTREAM_TEXT.length; at += 1200) {
      const data = UPSTREAM_TEXT.slice(at, at + 1200).match(/.{1,250}/g) ?? [];
      answers.push({ type: 'TXT', name: question.name, ttl: 60, data });
    }
  }
  const packet: dnsPacket.Packet = { type: 'response', id: query.id ?? 0, questions: query.questions ?? [] };
  const NXDOMAIN = 3;
  const flags = dnsPacket.RECURSION_DESIRED | dnsPacket.RECURSION_AVAILABLE | (known ? 0 : NXDOMAIN);
  const whole = dnsPacket.encode({ ...packet, flags, answers });
  if (whole.length <= limit) return whole;
  return dnsPacket.encode({ ...packet, flags: flags | dnsPacket.TRUNCATED_RESPONSE });
}

function dnsOverTcp(address: string): Server {
  return createServer((socket) => {
    let buffered = Buffer.alloc(0);
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      buffered = Buffer.concat([buffered, chunk]);
      while (buffered.length >= 2 && buffered.length >= 2 + buffered.readUInt16BE(0)) {
        const length = buffered.readUInt16BE(0);
        const reply = dnsAnswer(buffered.subarray(2, 2 + length), 65_535, address);
        buffered = buffered.subarray(2 + length);
        const head = Buffer.alloc(2);
        head.writeUInt16BE(reply.length);
        socket.write(Buffer.concat([head, reply]));
      }
    });
  });
}

/** The same free port for UDP and TCP. */
async function dnsPair(address: string): Promise<{ udp: DatagramSocket; tcp: Server; port: number }> {
  for (let attempt = 0; ; attempt++) {
    const udp = createSocket('udp4', (message, peer) => {
      udp.send(dnsAnswer(message, 512, address), peer.port, peer.address);
    });
    const port = await bound(udp);
    const tcp = dnsOverTcp(address);
    try {
      await listening(tcp, port);
      return { udp, tcp, port };
    } catch (error) {
      udp.close();
      if (attempt > 20) throw error;
    }
  }
}

/** A resolv.conf in a folder that anybody may read. */
class ResolvConf {
  readonly folder = mkdtempSync(join(tmpdir(), 'isthmus-resolv-'));
  readonly path = join(this.folder, 'resolv.conf');

  constructor() {
    chmodSync(this.folder, 0o755);
  }

  /** As NetworkManager and VPN clients do it: a new file takes the name. */
  use(port: number): void {
    const next = join(this.folder, 'next');
    writeFileSync(next, `nameserver 127.0.0.1:${port}\n`);
    chmodSync(next, 0o644);
    renameSync(next, this.path);
  }
}

/** Starts all of them on free ports. */
export async function startHostServices(): Promise<HostServices> {
  const http = httpServer();
  const halfClose = halfCloseServer();
  const echo = createSocket('udp4', (message, peer) => {
    echo.send(message, peer.port, peer.address);
  });
  const refused = createServer();
  const refusedPort = await listening(refused);
  await new Promise((resolve) => refused.close(resolve));
  const [httpPort, halfClosePort, udpPort, dns, otherDns] = await Promise.all([
    listening(http),
    listening(halfClose),
    bound(echo),
    dnsPair(UPSTREAM_ADDRESS),
    dnsPair(OTHER_ADDRESS),
  ]);
  const resolvConf = new ResolvConf();
  resolvConf.use(dns.port);
  return {
    httpPort,
    halfClosePort,
    udpPort,
    dnsPort: dns.port,
    otherDnsPort: otherDns.port,
    resolvConf: resolvConf.path,
    useDns: (port) => resolvConf.use(port),
    refusedPort,
    downloadHash(bytes) {
      const hash = createHash('sha256');
      for (const chunk of noise(bytes)) hash.update(chunk);
      return hash.digest('hex');
    },
    async close() {
      echo.close();
      dns.udp.close();
      otherDns.udp.close();
      rmSync(resolvConf.folder, { recursive: true, force: true });
      const closing = [http, halfClose, dns.tcp, otherDns.tcp].map(
        (server) => new Promise((resolve) => server.close(resolve)),
      );
      (http as ReturnType<typeof createHttpServer>).closeAllConnections();
      await Promise.race([Promise.all(closing), new Promise((resolve) => setTimeout(resolve, 1000).unref())]);
    },
  };
}
