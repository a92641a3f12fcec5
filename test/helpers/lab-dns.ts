// A DNS server for the laboratory, UDP and TCP on port 53 of one address: answers A records from a table, everything else with
// NXDOMAIN or NODATA, and can fall silent or be gone. Written with dns-packet, so that our codec is judged by another one.

import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import * as packet from 'dns-packet';

/** IPv4 addresses by name, in lower case; `*.x.example` stands for every name directly below. */
export type Zone = Readonly<Record<string, readonly string[]>>;

/** `silent` takes questions and says nothing; `gone` has no socket, so the kernel says that nobody is there. */
export type DnsMode = 'answering' | 'silent' | 'gone';

/** Long, both ways: a stale answer outlives every test that does not notice it. */
const TTL_SEC = 3600;
const NXDOMAIN = 3;

export class LabDns {
  readonly address: string;
  zone: Zone;
  /** Questions that came, answered or not. */
  questions = 0;
  #mode: DnsMode = 'gone';
  #udp: UdpSocket | undefined;
  #tcp: Server | undefined;
  readonly #connections = new Set<Socket>();

  constructor(address: string, zone: Zone) {
    this.address = address;
    this.zone = zone;
  }

  async become(mode: DnsMode): Promise<void> {
    const open = this.#mode !== 'gone';
    this.#mode = mode;
    if (mode === 'gone' && open) await this.#close();
    else if (mode !== 'gone' && !open) await this.#open();
  }

  async #open(): Promise<void> {
    const udp = createSocket('udp4', (message, peer) => {
      const answer = this.#answer(message);
      if (answer !== undefined) udp.send(answer, peer.port, peer.address, () => {});
    });
    const tcp = createServer((socket) => this.#serve(socket));
    this.#udp = udp;
    this.#tcp = tcp;
    await new Promise<void>((resolve, reject) => {
      udp.once('error', reject);
      udp.bind(53, this.address, resolve);
    });
    udp.on('error', () => {});
    await new Promise<void>((resolve, reject) => {
      tcp.once('error', reject);
      tcp.listen(53, this.address, resolve);
    });
  }

  async #close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    await Promise.all([
      new Promise<void>((resolve) => this.#udp!.close(() => resolve())),
      new Promise((resolve) => this.#tcp!.close(resolve)),
    ]);
  }

  #serve(socket: Socket): void {
    let held: Buffer = Buffer.alloc(0);
    this.#connections.add(socket);
    socket.on('close', () => this.#connections.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= 2 && held.length >= 2 + held.readUInt16BE(0)) {
        const length = held.readUInt16BE(0);
        const answer = this.#answer(held.subarray(2, 2 + length));
        held = held.subarray(2 + length);
        if (answer === undefined) continue;
        const head = Buffer.alloc(2);
        head.writeUInt16BE(answer.length);
        socket.write(Buffer.concat([head, answer]));
      }
    });
  }

  #answer(message: Buffer): Buffer | undefined {
    this.questions++;
    if (this.#mode !== 'answering') return undefined;
    const { id = 0, questions = [] } = packet.decode(message);
    const { name = '', type } = questions[0] ?? {};
    const lower = name.toLowerCase();
    const known = this.zone[lower] ?? this.zone[`*${lower.slice(lower.indexOf('.'))}`];
    const found = type === 'A' ? (known ?? []) : [];
    const flags = packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE | (known === undefined ? NXDOMAIN : 0);
    return packet.encode({
      type: 'response',
      id,
      flags,
      questions,
      answers: found.map((data) => ({ type: 'A', name, ttl: TTL_SEC, data })),
      authorities: found.length > 0 ? [] : [soaOf(name)],
    });
  }
}

/** With it a negative answer may be kept as long as a positive one (RFC 2308). */
function soaOf(name: string): packet.SoaAnswer {
  const zone = name.split('.').slice(-1)[0] ?? '';
  const times = { serial: 1, refresh: TTL_SEC, retry: TTL_SEC, expire: TTL_SEC, minimum: TTL_SEC };
  return { type: 'SOA', name: zone, ttl: TTL_SEC, data: { mname: `ns.${zone}`, rname: `root.${zone}`, ...times } };
}
