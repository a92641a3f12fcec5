// The other ends of a DNS load, as processes of their own: guests that ask on raw links at a steady pace, and their name server.
// Started with `fork`: the first argument is the role, the second what it needs as JSON; reports come as messages.

import { createSocket } from 'node:dgram';
import { connect, type Socket } from 'node:net';
import { setU16 } from '../../src/base/bytes.ts';
import { parseMac } from '../../src/ethernet/mac.ts';
import { parseV4 } from '../../src/ip/address.ts';
import { emitIpv4Header, PROTO_UDP } from '../../src/ip/ipv4.ts';
import { digQuery, nameEnd } from './wire-dns.ts';

/** What the guests do. */
export interface DnsLoad {
  /** The daemon's qemu socket. */
  readonly path: string;
  readonly guests: number;
  readonly seconds: number;
  /** Names never asked before, each second, all guests together. */
  readonly newPerSecond: number;
  /** Questions for names that are known, each second. */
  readonly knownPerSecond: number;
}

/** What came of it. */
export interface DnsLoadReport {
  readonly asked: number;
  readonly answered: number;
  /** Answers that are not the right address. */
  readonly wrong: number;
  readonly knownAnswered: number;
  /** Of the answers to known names. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const GATEWAY_MAC = parseMac('f6:16:36:bc:f9:c6')!;
const GATEWAY = parseV4('192.168.65.1')!;
const FIRST_GUEST = parseV4('192.168.65.20')!;
const HEADERS = 42;
const PORT = 40_000;
const KNOWN = 64;
const TICK_MS = 1;
/** What guests give a resolver. */
const PATIENCE_MS = 5000;
const IDS = 65_536;

/** The address that the server gives to a name: its digits. */
function addressOf(number: number): number {
  return (0x0a00_0000 | (number & 0xff_ffff)) >>> 0;
}

/** Name server: an A record for `n<number>.…` over UDP. */
function serve(): void {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 8 << 20 });
  socket.on('message', (q, from) => {
    const end = nameEnd(q, 12) + 4;
    const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 0, 0, 0, 0]);
    record.writeUInt32BE(addressOf(Number(q.toString('latin1', 14, 13 + q[12]!))), 12);
    const message = Buffer.concat([q.subarray(0, end), record]);
    message.writeUInt16BE(0x8180, 2);
    message.writeUInt32BE(0x1_0000, 6);
    message.writeUInt16BE(0, 10);
    message.writeUInt16BE(1, 6);
    socket.send(message, from.port, from.address);
  });
  socket.bind(0, '127.0.0.1', () => process.send!(socket.address().port));
  process.on('disconnect', () => process.exit(0));
}

class Asker {
  readonly socket: Socket;
  readonly #address: number;
  readonly #mac: Uint8Array;
  /** By id: the name's number, when it was asked (0: not open), whether it is a known one. */
  readonly #numbers = new Uint32Array(IDS);
  readonly #askedAt = new Float64Array(IDS);
  readonly #isKnown = new Uint8Array(IDS);
  readonly #known: number[];
  #id = 0;
  #held: Buffer = Buffer.alloc(0);
  asked = 0;
  answered = 0;
  wrong = 0;

  constructor(path: string, index: number, known: number[]) {
    this.#address = FIRST_GUEST + index;
    this.#mac = parseMac(`52:54:00:00:01:${index.toString(16).padStart(2, '0')}`)!;
    this.#known = known;
    this.socket = connect(path);
    this.socket.on('data', (chunk) => this.#take(chunk));
  }

  /** One question as a frame behind its length. */
  frame(number: number, known: boolean, now: number): Buffer {
    const id = this.#id++ & (IDS - 1);
    this.#numbers[id] = number;
    this.#askedAt[id] = now;
    this.#isKnown[id] = known ? 1 : 0;
    this.asked++;
    const message = digQuery(id, `n${number}.load.example`, { bufSize: 0 });
    const out = Buffer.alloc(4 + HEADERS + message.length);
    out.writeUInt32BE(HEADERS + message.length);
    const frame = out.subarray(4);
    frame.set(GATEWAY_MAC, 0);
    frame.set(this.#mac, 6);
    setU16(frame, 12, 0x0800);
    const length = 8 + message.length;
    emitIpv4Header(frame, 14, 20 + length, 0, 0x4000, 64, PROTO_UDP, this.#address, GATEWAY);
    setU16(frame, 34, PORT);
    setU16(frame, 36, 53);
    // Without a checksum, which IPv4 allows.
    setU16(frame, 38, length);
    frame.set(message, HEADERS);
    return out;
  }

  #take(chunk: Buffer): void {
    const now = performance.now();
    const buf = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    let at = 0;
    while (buf.length - at >= 4 && buf.length - at >= 4 + buf.readUInt32BE(at)) {
      const frame = buf.subarray(at + 4, at + 4 + buf.readUInt32BE(at));
      at += 4 + frame.length;
      if (frame.length > HEADERS && frame.readUInt16BE(34) === 53) this.#answer(frame.subarray(HEADERS), now);
    }
    this.#held = buf.subarray(at);
  }

  #answer(message: Buffer, now: number): void {
    const id = message.readUInt16BE(0);
    const askedAt = this.#askedAt[id]!;
    if (askedAt === 0) {
      this.wrong++;
      return;
    }
    this.#askedAt[id] = 0;
    this.answered++;
    const right =
      (message[3]! & 15) === 0 && message.readUInt32BE(message.length - 4) === addressOf(this.#numbers[id]!);
    if (!right) this.wrong++;
    if (this.#isKnown[id] === 1) this.#known.push(now - askedAt);
  }
}

async function ask(load: DnsLoad): Promise<void> {
  const known: number[] = [];
  const askers = Array.from({ length: load.guests }, (_, i) => new Asker(load.path, i, known));
  const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
  const settled = async (): Promise<void> => {
    const until = performance.now() + PATIENCE_MS;
    while (performance.now() < until && askers.some((a) => a.answered < a.asked)) await pause(10);
  };
  // Known names are asked once, and each guest is heard once.
  for (let i = 0; i < KNOWN; i++) {
    const asker = askers[i % askers.length]!;
    asker.socket.write(asker.frame(i, false, performance.now()));
  }
  await settled();
  const start = performance.now();
  let [fresh, old] = [0, 0];
  for (;;) {
    const now = performance.now();
    const passed = Math.min(load.seconds, (now - start) / 1000);
    const batches = askers.map((): Buffer[] => []);
    for (; fresh < load.newPerSecond * passed; fresh++) {
      const at = fresh % askers.length;
      batches[at]!.push(askers[at]!.frame(KNOWN + fresh, false, now));
    }
    for (; old < load.knownPerSecond * passed; old++) {
      const at = old % askers.length;
      batches[at]!.push(askers[at]!.frame((old * 7) % KNOWN, true, now));
    }
    for (const [i, frames] of batches.entries()) if (frames.length > 0) askers[i]!.socket.write(Buffer.concat(frames));
    if (passed >= load.seconds) break;
    await pause(TICK_MS);
  }
  await settled();
  known.sort((a, b) => a - b);
  const sum = (of: (a: Asker) => number): number => askers.reduce((n, a) => n + of(a), 0);
  const report: DnsLoadReport = {
    asked: sum((a) => a.asked),
    answered: sum((a) => a.answered),
    wrong: sum((a) => a.wrong),
    knownAnswered: known.length,
    p50Ms: known[known.length >> 1] ?? Number.NaN,
    p99Ms: known[Math.floor(known.length * 0.99)] ?? Number.NaN,
  };
  process.send!(report, () => process.exit(0));
}

// Imported for its types, it does nothing.
const [role, details] = process.argv.slice(2);
if (process.send !== undefined && role === 'dns-server') serve();
else if (process.send !== undefined && role === 'dns-guests') await ask(JSON.parse(details!) as DnsLoad);
