// The header of HAProxy's PROXY protocol, versions 1 and 2: who the client is, said in front of its first byte (proxy-protocol.txt, 2.1, 2.2).

import { type IpAddress, parseAddress } from '../ip/address.ts';
import type { ClientMode } from './forward-spec.ts';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const VERSION_PROXY = 0x21;
const VERSION_LOCAL = 0x20;
const AF_UNSPEC = 0x00;
const AF_INET = 0x10;
const AF_INET6 = 0x20;
const STREAM = 0x01;
const DGRAM = 0x02;

/** Both ends of a client's connection as the host has it. */
export interface ProxiedEnds {
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
  readonly localAddress?: string | undefined;
  readonly localPort?: number | undefined;
}

/** The header, or undefined where the mode asks for none. Unix sockets have no addresses: they are told as unknown. */
export function proxyHeader(mode: ClientMode, protocol: 'tcp' | 'udp', ends: ProxiedEnds): Buffer | undefined {
  if (mode === 'proxy-protocol-v1') return version1(ends);
  if (mode === 'proxy-protocol-v2') return version2(ends, protocol === 'tcp' ? STREAM : DGRAM);
  return undefined;
}

function version1(ends: ProxiedEnds): Buffer {
  const [from, to] = addresses(ends);
  if (from === undefined || to === undefined) return Buffer.from('PROXY UNKNOWN\r\n', 'latin1');
  const family = from.isV4 ? 'TCP4' : 'TCP6';
  return Buffer.from(`PROXY ${family} ${from} ${to} ${ends.remotePort} ${ends.localPort}\r\n`, 'latin1');
}

function version2(ends: ProxiedEnds, kind: number): Buffer {
  const [from, to] = addresses(ends);
  if (from === undefined || to === undefined) {
    // No client that could be named: the receiver is to take the connection's own ends.
    return Buffer.concat([SIGNATURE, Buffer.from([VERSION_LOCAL, AF_UNSPEC, 0, 0])]);
  }
  const size = from.isV4 ? 4 : 16;
  const header = Buffer.alloc(16 + 2 * size + 4);
  SIGNATURE.copy(header);
  header[12] = VERSION_PROXY;
  header[13] = (from.isV4 ? AF_INET : AF_INET6) | kind;
  header.writeUInt16BE(2 * size + 4, 14);
  put(from, header, 16);
  put(to, header, 16 + size);
  header.writeUInt16BE(ends.remotePort ?? 0, 16 + 2 * size);
  header.writeUInt16BE(ends.localPort ?? 0, 18 + 2 * size);
  return header;
}

/** Both of one family, or none. */
function addresses(ends: ProxiedEnds): [IpAddress | undefined, IpAddress | undefined] {
  const from = addressOf(ends.remoteAddress);
  const to = addressOf(ends.localAddress);
  return from?.family === to?.family ? [from, to] : [undefined, undefined];
}

function addressOf(text: string | undefined): IpAddress | undefined {
  return text === undefined ? undefined : parseAddress(text.replace(/%.*$/, ''));
}

function put(address: IpAddress, into: Buffer, off: number): void {
  if (address.isV4) {
    into.writeInt32BE(address.v4, off);
    return;
  }
  into.writeInt32BE(address.w0, off);
  into.writeInt32BE(address.w1, off + 4);
  into.writeInt32BE(address.w2, off + 8);
  into.writeInt32BE(address.w3, off + 12);
}
