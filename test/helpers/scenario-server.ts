// A name server for tests whose answers are as the first label of the name asks: every record type, long and signed answers, chains,
// errors. It behaves as real ones do by UDP: what is too big for the asker is header, question and OPT with TC.

import { DNS_TYPE_VECTORS } from '../vectors/dns-types.ts';
import { nameEnd } from './wire-dns.ts';

const CLASS_IN = 1;
const TYPE = { A: 1, NS: 2, CNAME: 5, SOA: 6, TXT: 16, AAAA: 28, OPT: 41, RRSIG: 46, DNSKEY: 48, IXFR: 251, AXFR: 252 };
const FLAG = { QR: 0x8000, AA: 0x400, TC: 0x200, RD: 0x100, RA: 0x80, AD: 0x20, CD: 0x10 };
export const FULL_BYTES = 65_535;
export const CHAIN = 100;

const DATA = new Map(DNS_TYPE_VECTORS.map(([type, , rdata]) => [type, rdata]));
/** The owner that the question names. */
const QUESTION = Buffer.from([0xc0, 12]);

interface Asked {
  readonly message: Buffer;
  readonly type: number;
  readonly klass: number;
  readonly flags: number;
  readonly label: string;
  /** After the question. */
  readonly end: number;
  /** UDP size, -1 without EDNS. */
  readonly size: number;
  readonly dnssec: boolean;
  /** Codes of the EDNS options. */
  readonly options: readonly number[];
}

interface Sections {
  answers?: Buffer[];
  authority?: Buffer[];
  additional?: Buffer[];
  rcode?: number;
  flags?: number;
  ednsOptions?: Buffer;
  /** Knows nothing of EDNS. */
  plain?: boolean;
}

function parse(message: Buffer): Asked {
  const end = nameEnd(message, 12);
  const label = message.toString('latin1', 13, 13 + message[12]!).toLowerCase();
  const [type, klass] = [message.readUInt16BE(end), message.readUInt16BE(end + 2)];
  const rest = end + 4;
  const options: number[] = [];
  let [size, dnssec] = [-1, false];
  if (message.readUInt16BE(10) === 1 && message.readUInt16BE(rest + 1) === TYPE.OPT) {
    size = message.readUInt16BE(rest + 3);
    dnssec = (message[rest + 7]! & 0x80) !== 0;
    for (let p = rest + 11; p < message.length; p += 4 + message.readUInt16BE(p + 2)) {
      options.push(message.readUInt16BE(p));
    }
  }
  return { message, type, klass, flags: message.readUInt16BE(2), label, end: rest, size, dnssec, options };
}

export function record(owner: Buffer, type: number, ttlSec: number, rdata: Buffer, klass = CLASS_IN): Buffer {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(klass, 2);
  fixed.writeUInt32BE(ttlSec, 4);
  fixed.writeUInt16BE(rdata.length, 8);
  return Buffer.concat([owner, fixed, rdata]);
}

/** One label in front of the question's second one, by a pointer into the question. */
function below(q: Asked, label: string): Buffer {
  return Buffer.concat([Buffer.from([label.length]), Buffer.from(label), Buffer.from([0xc0, 13 + q.message[12]!])]);
}

function soa(q: Asked): Buffer {
  return record(Buffer.from([0xc0, 13 + q.message[12]!]), TYPE.SOA, 900, DATA.get(TYPE.SOA)!);
}

function signature(q: Asked, covers: number, bytes: number): Buffer {
  const head = Buffer.from([covers >> 8, covers & 255, 8, 2, 0, 0, 1, 44, 113, 63, 51, 0, 107, 73, 210, 0, 18, 103]);
  return record(QUESTION, TYPE.RRSIG, 300, Buffer.concat([head, Buffer.from([0]), Buffer.alloc(bytes, q.type)]));
}

function chain(q: Asked): Buffer[] {
  const found: Buffer[] = [];
  let owner: Buffer = QUESTION;
  for (let i = 0; i < CHAIN; i++) {
    const target = below(q, `hop-${i}`);
    found.push(record(owner, TYPE.CNAME, 300, target));
    owner = target;
  }
  found.push(record(owner, TYPE.A, 300, DATA.get(TYPE.A)!));
  return found;
}

/** TXT records that make the whole message exactly `bytes` long. */
function filled(q: Asked, bytes: number): Buffer[] {
  const found: Buffer[] = [];
  let left = bytes - q.end - (q.size >= 0 ? 11 : 0);
  while (left > 0) {
    // Owner and fixed part are 12 bytes; the last record takes what is left.
    const take = left > 1024 + 64 ? 1024 : left;
    const data = Buffer.alloc(take - 12, 120);
    for (let p = 0; p < data.length; p += 1 + data[p]!) data[p] = Math.min(255, data.length - p - 1);
    data[1] = found.length;
    found.push(record(QUESTION, TYPE.TXT, 300, data));
    left -= take;
  }
  return found;
}

function zone(q: Asked): Buffer[] {
  const start = record(QUESTION, TYPE.SOA, 900, DATA.get(TYPE.SOA)!);
  return [start, record(below(q, 'www'), TYPE.A, 300, DATA.get(TYPE.A)!), start];
}

function sectionsOf(q: Asked): Sections {
  const [kind, detail = ''] = q.label.split('-');
  const rdata = DATA.get(q.type);
  if (q.type === TYPE.AXFR || q.type === TYPE.IXFR) return { answers: zone(q), flags: FLAG.AA };
  if (q.type === TYPE.OPT) return { rcode: 1 };
  switch (kind) {
    case 'rr': {
      if (rdata === undefined) return { authority: [soa(q)] };
      const ttl = detail === '' ? 300 : Number(detail);
      const answers = [record(QUESTION, q.type, ttl, rdata, q.klass)];
      if (q.dnssec) answers.push(signature(q, q.type, 64));
      return {
        answers,
        authority: [record(Buffer.from([0]), TYPE.NS, 3600, Buffer.concat([Buffer.from([2, 110, 115]), QUESTION]))],
        additional: [record(below(q, 'ns'), TYPE.A, 60, DATA.get(TYPE.A)!)],
        flags: FLAG.AA,
      };
    }
    case 'chain':
      return { answers: chain(q) };
    case 'full':
      return { answers: filled(q, detail === '' ? FULL_BYTES : Number(detail)) };
    case 'signed': {
      const keys = [0, 1, 2, 3].map((i) => record(QUESTION, TYPE.DNSKEY, 300, Buffer.alloc(516, 65 + i)));
      const signatures = [1, 2].map(() => signature(q, TYPE.DNSKEY, 512));
      return { answers: q.dnssec ? [...keys, ...signatures] : keys };
    }
    case 'referral': {
      const hosts = ['ns-a', 'ns-b', 'ns-c', 'ns-d'].map((label) => below(q, label));
      return {
        authority: hosts.map((h) => record(QUESTION, TYPE.NS, 172_800, h)),
        additional: hosts.flatMap((h) => [
          record(h, TYPE.A, 60, DATA.get(TYPE.A)!),
          record(h, TYPE.AAAA, 60, DATA.get(TYPE.AAAA)!),
        ]),
      };
    }
    case 'rcode': {
      const rcode = Number(detail);
      return rcode === 3 ? { rcode, authority: [soa(q)] } : { rcode };
    }
    case 'empty':
      return detail === 'nosoa' ? {} : { authority: [soa(q)] };
    case 'plain':
      return { answers: [record(QUESTION, q.type, 300, rdata ?? Buffer.alloc(4))], plain: true };
    case 'ede':
      // RFC 8914: not ready, with text; RFC 5001: an identifier where it was asked for.
      return {
        rcode: 2,
        ednsOptions: Buffer.concat([
          Buffer.from([0, 15, 0, 7, 0, 14]),
          Buffer.from('later'),
          ...(q.options.includes(3) ? [Buffer.from([0, 3, 0, 2, 110, 49])] : []),
        ]),
      };
    default:
      return { rcode: 3, authority: [soa(q)] };
  }
}

function opt(q: Asked, rcode: number, options: Buffer): Buffer {
  const out = Buffer.concat([Buffer.from([0, 0, 41, 4, 208, rcode >> 4, 0, q.dnssec ? 0x80 : 0, 0, 0, 0]), options]);
  out.writeUInt16BE(options.length, 9);
  return out;
}

/** The server's answer to a query. */
export function scenarioAnswer(message: Buffer, tcp: boolean): Buffer {
  const q = parse(message);
  const s = sectionsOf(q);
  const { answers = [], authority = [], additional = [], rcode = 0, flags = 0, ednsOptions = Buffer.alloc(0) } = s;
  const edns = q.size >= 0 && s.plain !== true ? [opt(q, rcode, ednsOptions)] : [];
  const validated = q.dnssec || (q.flags & FLAG.AD) !== 0 ? FLAG.AD : 0;
  const head = Buffer.alloc(12);
  q.message.copy(head, 0, 0, 2);
  const kept = q.flags & (FLAG.RD | FLAG.CD);
  const base = FLAG.QR | FLAG.RA | kept | flags | (rcode & 15);
  head.writeUInt16BE(base | (rcode === 0 ? validated : 0), 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(answers.length, 6);
  head.writeUInt16BE(authority.length, 8);
  head.writeUInt16BE(additional.length + edns.length, 10);
  const question = q.message.subarray(12, q.end);
  const whole = Buffer.concat([head, question, ...answers, ...authority, ...additional, ...edns]);
  if (whole.length > FULL_BYTES) throw new Error(`${whole.length} bytes are no message`);
  if (tcp || whole.length <= Math.max(512, q.size)) return whole;
  head.writeUInt16BE(base | FLAG.TC, 2);
  head.writeUInt32BE(0, 6);
  head.writeUInt16BE(edns.length, 10);
  return Buffer.concat([head, question, ...edns]);
}
