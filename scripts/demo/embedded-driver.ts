// The embedded guest as a guest of the demo: the same requests as of the VM, made by its own TCP, UDP, DHCP client and resolver
// in this process. HTTP is written by hand, because Node's client wants a socket of the host.

import { createHash, type Hash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { GuestSocket } from '../../src/guest/guest-socket.ts';
import type { GuestDriver, GuestLease, GuestQuery, GuestTransfer } from './guest-driver.ts';

const CHUNK_BYTES = 256 * 1024;
const HEAD_END = '\r\n\r\n';

/** Sends all of `body`, not faster than the socket takes it. */
async function send(socket: GuestSocket, body: Buffer, hash: Hash): Promise<void> {
  for (let at = 0; at < body.length; at += CHUNK_BYTES) {
    const chunk = body.subarray(at, at + CHUNK_BYTES);
    hash.update(chunk);
    if (!socket.write(chunk)) await once(socket, 'drain');
  }
}

/** Reads an HTTP/1.0 answer to its end; the body goes to `onBody`. @throws for a status other than 200. */
async function readAnswer(socket: GuestSocket, onBody: (chunk: Buffer) => void): Promise<void> {
  let head: Buffer | undefined = Buffer.alloc(0);
  for await (const chunk of socket) {
    if (head === undefined) {
      onBody(chunk as Buffer);
      continue;
    }
    head = Buffer.concat([head, chunk as Buffer]);
    const end = head.indexOf(HEAD_END);
    if (end < 0) continue;
    const status = head.toString('latin1', 0, head.indexOf('\r\n'));
    if (!/^HTTP\/1\.\d 200 /.test(status)) throw new Error(`the server answered: ${status}`);
    onBody(head.subarray(end + HEAD_END.length));
    head = undefined;
  }
  if (head !== undefined) throw new Error('the server ended before its answer');
}

/** Drives an embedded guest. */
export class EmbeddedDriver implements GuestDriver {
  readonly description = 'embedded guest (in this process)';
  readonly #guest: EmbeddedGuest;

  private constructor(guest: EmbeddedGuest) {
    this.#guest = guest;
  }

  /** Plugs a new guest into the daemon's socket. */
  static async connect(socket: string, mac: string, hostName: string): Promise<EmbeddedDriver> {
    return new EmbeddedDriver(await EmbeddedGuest.connect({ path: socket, mac, hostName }));
  }

  async lease(): Promise<GuestLease> {
    const lease = await this.#guest.dhcp();
    const { address, prefix, router, dns, ntp, domain, leaseSeconds } = lease;
    return { address, prefix, router, dns, ntp, domain, leaseSeconds, mtu: lease.mtu ?? 1500 };
  }

  async ping(address: string, bytes: number): Promise<number> {
    const { intact, rttMs } = await this.#guest.ping(address, { bytes });
    if (!intact) throw new Error(`the echo of ${address} was not what was sent`);
    return rttMs;
  }

  async resolve(query: GuestQuery): Promise<string[]> {
    const { rcode, answers, truncated } = await this.#guest.resolve(query.name, query.type, {
      server: query.server,
      tcp: query.transport === 'tcp',
      keepTruncated: true,
    });
    if (rcode !== 0) throw new Error(`${query.name}: rcode ${rcode}`);
    if (truncated) throw new Error(`${query.name}: the answer is truncated`);
    return answers.map((answer) => answer.data);
  }

  async ntp(server: string): Promise<{ serverMs: number; stratum: number }> {
    return this.#guest.ntp(server);
  }

  async download(url: string): Promise<GuestTransfer> {
    const started = performance.now();
    const hash = createHash('sha256');
    let bytes = 0;
    await this.#request(
      url,
      'GET',
      async () => {},
      (chunk) => {
        hash.update(chunk);
        bytes += chunk.length;
      },
    );
    return { bytes, sha256: hash.digest('hex'), ms: performance.now() - started };
  }

  async upload(url: string, bytes: number): Promise<GuestTransfer & { answer: string }> {
    const body = randomBytes(bytes);
    const started = performance.now();
    const hash = createHash('sha256');
    let answer = '';
    await this.#request(
      url,
      'POST',
      (socket) => send(socket, body, hash),
      (chunk) => {
        answer += chunk.toString();
      },
      `Content-Length: ${bytes}\r\n`,
    );
    return { bytes, sha256: hash.digest('hex'), ms: performance.now() - started, answer: answer.trim() };
  }

  async #request(
    url: string,
    method: string,
    sendBody: (socket: GuestSocket) => Promise<void>,
    onBody: (chunk: Buffer) => void,
    headers = '',
  ): Promise<void> {
    const { host, hostname, port, pathname, search } = new URL(url);
    const socket = await this.#guest.connect(hostname, Number(port || 80));
    socket.write(`${method} ${pathname}${search} HTTP/1.0\r\nHost: ${host}\r\n${headers}\r\n`);
    await Promise.all([sendBody(socket), readAnswer(socket, onBody)]);
    socket.end();
  }

  async udpExchange(address: string, port: number, payload: string): Promise<string> {
    const socket = this.#guest.udp();
    try {
      return (await socket.exchange(Buffer.from(payload), address, port)).toString();
    } finally {
      socket.close();
    }
  }

  async sendThenRead(address: string, port: number, payload: string): Promise<string> {
    const socket = await this.#guest.connect(address, port);
    socket.end(payload);
    let answer = '';
    for await (const chunk of socket) answer += (chunk as Buffer).toString();
    return answer;
  }

  async connectRefused(address: string, port: number): Promise<{ refused: boolean; ms: number }> {
    const started = performance.now();
    try {
      (await this.#guest.connect(address, port)).destroy();
      return { refused: false, ms: performance.now() - started };
    } catch (error) {
      const refused = (error as NodeJS.ErrnoException).code === 'ECONNREFUSED';
      return { refused, ms: performance.now() - started };
    }
  }

  async serveHttp(port: number, body: string): Promise<void> {
    this.#guest.listen(port, (socket) => {
      let request = '';
      socket.on('error', () => socket.destroy());
      socket.on('data', (chunk: Buffer) => {
        request += chunk.toString('latin1');
        if (request.includes(HEAD_END)) {
          socket.end(
            `HTTP/1.0 200 OK\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
          );
        }
      });
    });
  }

  close(): Promise<void> {
    return this.#guest.close();
  }
}
