// DNS as bytes, for tests that compare messages: queries with the switches that `dig` has, a client that goes over to TCP as `dig`
// does, and the form in which two messages are compared. Independent of src/dns but for the text form of names.

import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect } from 'node:net';
import { nameFromText } from '../../src/dns/name.ts';

export interface DigOptions {
  readonly type?: number;
  readonly klass?: number;
  /** RD; default true. */
  readonly recurse?: boolean;
  /** AD; `dig` sets it. Default true. */
  readonly adFlag?: boolean;
  readonly cdFlag?: boolean;
  /** UDP size of the OPT record, 0 for none. Default 1,232. */
  readonly bufSize?: number;
  /** DO. */
  readonly dnssec?: boolean;
  /** EDNS options, code and data. */
  readonly options?: readonly (readonly [code: number, data: Buffer])[];
  readonly tcp?: boolean;
  /** Take a cut answer as it is. */
  readonly ignoreTruncation?: boolean;
}

function u16(value: number): Buffer {
  return Buffer.from([value >> 8, value & 255]);
}

/** A query as `dig` writes it. */
export function digQuery(id: number, name: string, o: DigOptions = {}): Buffer {
  const size = o.bufSize ?? 1232;
  const flags = (o.recurse === false ? 0 : 0x100) | (o.adFlag === false ? 0 : 0x20) | (o.cdFlag === true ? 0x10 : 0);
  const parts = [u16(id), u16(flags), u16(1), u16(0), u16(0), u16(size > 0 ? 1 : 0)];
  parts.push(Buffer.from(nameFromText(name)!), u16(o.type ?? 1), u16(o.klass ?? 1));
  if (size > 0) {
    const data = Buffer.concat((o.options ?? []).map(([code, d]) => Buffer.concat([u16(code), u16(d.length), d])));
    parts.push(Buffer.from([0, 0, 41]), u16(size), u16(0), u16(o.dnssec === true ? 0x8000 : 0), u16(data.length), data);
  }
  return Buffer.concat(parts);
}

/** End of a name that starts at `at`; pointers are not followed. */
export function nameEnd(message: Buffer, at: number): number {
  for (let p = at; ; p += 1 + message[p]!) {
    if (message[p] === 0) return p + 1;
    if (message[p]! >= 0xc0) return p + 2;
  }
}

/** Lower case in place, but for what is no letter: length bytes and pointers are below and above the letters. */
function foldName(message: Buffer, at: number): number {
  const end = nameEnd(message, at);
  for (let p = at; p < end && message[p]! < 0xc0 && message[p] !== 0; p += 1 + message[p]!) {
    for (let i = p + 1; i <= p + message[p]!; i++) if (message[i]! >= 65 && message[i]! <= 90) message[i]! |= 32;
  }
  return end;
}

/** A copy of a message without what may differ from one resolver to another: id, TTLs, case of owner names. */
export function comparable(message: Buffer): Buffer {
  const out = Buffer.from(message);
  out.writeUInt16BE(0, 0);
  let at = 12;
  for (let i = 0; i < message.readUInt16BE(4); i++) at = foldName(out, at) + 4;
  const records = message.readUInt16BE(6) + message.readUInt16BE(8) + message.readUInt16BE(10);
  for (let i = 0; i < records; i++) {
    at = foldName(out, at);
    if (out.readUInt16BE(at) !== 41) out.writeUInt32BE(0, at + 4);
    at += 10 + out.readUInt16BE(at + 8);
  }
  if (at !== message.length) throw new Error(`${message.length - at} bytes behind the last record`);
  return out;
}

/** TTLs of all records but OPT. */
export function ttlsOf(message: Buffer): number[] {
  const found: number[] = [];
  let at = nameEnd(message, 12) + 4;
  while (at < message.length) {
    at = nameEnd(message, at);
    if (message.readUInt16BE(at) !== 41) found.push(message.readUInt32BE(at + 4));
    at += 10 + message.readUInt16BE(at + 8);
  }
  return found;
}

/** One way to a name server. */
export interface DnsPath {
  udp(query: Buffer): Promise<Buffer>;
  /** All on one connection, written at once. @returns answers in the order of their queries. */
  tcp(queries: readonly Buffer[]): Promise<Buffer[]>;
}

/** Collects the frames of a TCP stream until every query has its answer. */
export class FrameCollector {
  readonly #queries: readonly Buffer[];
  readonly #found = new Map<number, Buffer>();
  #held: Buffer = Buffer.alloc(0);

  constructor(queries: readonly Buffer[]) {
    this.#queries = queries;
  }

  static frames(queries: readonly Buffer[]): Buffer {
    return Buffer.concat(queries.flatMap((q) => [u16(q.length), q]));
  }

  /** @returns true once all are there. */
  take(chunk: Buffer): boolean {
    this.#held = Buffer.concat([this.#held, chunk]);
    while (this.#held.length >= 2 && this.#held.length >= 2 + this.#held.readUInt16BE(0)) {
      const message = this.#held.subarray(2, 2 + this.#held.readUInt16BE(0));
      this.#held = this.#held.subarray(2 + message.length);
      this.#found.set(message.readUInt16BE(0), message);
    }
    return this.#found.size >= this.#queries.length;
  }

  get answers(): Buffer[] {
    return this.#queries.map((q) => {
      const answer = this.#found.get(q.readUInt16BE(0));
      if (answer === undefined) throw new Error(`no answer to ${q.readUInt16BE(0)}`);
      return answer;
    });
  }
}

/** Straight to a server of this host. */
export class DirectPath implements DnsPath {
  readonly #port: number;
  readonly #socket: UdpSocket;
  readonly #waiting = new Map<number, (answer: Buffer) => void>();

  constructor(port: number) {
    this.#port = port;
    this.#socket = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 });
    this.#socket.on('message', (m: Buffer) => this.#waiting.get(m.readUInt16BE(0))?.(m));
  }

  udp(query: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const id = query.readUInt16BE(0);
      const timer = setTimeout(() => reject(new Error('no answer straight from the server')), 5000);
      this.#waiting.set(id, (answer) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        resolve(answer);
      });
      this.#socket.send(query, this.#port, '127.0.0.1');
    });
  }

  async tcp(queries: readonly Buffer[]): Promise<Buffer[]> {
    const socket = connect(this.#port, '127.0.0.1');
    const frames = new FrameCollector(queries);
    socket.write(FrameCollector.frames(queries));
    for await (const chunk of socket) if (frames.take(chunk as Buffer)) break;
    socket.destroy();
    return frames.answers;
  }

  async close(): Promise<void> {
    this.#socket.close();
    await once(this.#socket, 'close');
  }
}

/** Asks as `dig` does: by UDP, and by TCP what came back cut. Ids are the questions' places in the list. */
export async function digAll(
  path: DnsPath,
  questions: readonly (readonly [name: string, options: DigOptions])[],
): Promise<Buffer[]> {
  const queries = questions.map(([name, o], i) => digQuery(i + 1, name, o));
  const answers = new Array<Buffer>(queries.length);
  const isTcp = (i: number): boolean => questions[i]![1].tcp === true;
  const byUdp = queries.map((_, i) => i).filter((i) => !isTcp(i));
  for (let from = 0; from < byUdp.length; from += 64) {
    const some = byUdp.slice(from, from + 64);
    for (const [at, m] of (await Promise.all(some.map((i) => path.udp(queries[i]!)))).entries()) answers[some[at]!] = m;
  }
  const cut = (i: number): boolean => (answers[i]![2]! & 2) !== 0 && questions[i]![1].ignoreTruncation !== true;
  const byTcp = queries.map((_, i) => i).filter((i) => isTcp(i) || cut(i));
  if (byTcp.length > 0) {
    for (const [at, m] of (await path.tcp(byTcp.map((i) => queries[i]!))).entries()) answers[byTcp[at]!] = m;
  }
  return answers;
}
