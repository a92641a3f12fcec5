// The small grammars of option values: text to typed value, or an error that says what is wrong and what would be right.
// Pure text work: no file, no environment. The two large ones have files of their own (vm-url, publish-spec).

import { Cidr4, formatV4, type IpAddress, isLinkLocalV4, isMartianV4, parseAddress } from '../ip/address.ts';

/** A value that its grammar refuses. `message` says what is wrong, `right` what would be right. */
export class GrammarError extends Error {
  override readonly name = 'GrammarError';
  readonly right: string;

  constructor(wrong: string, right: string) {
    super(wrong);
    this.right = right;
  }
}

/** An address and a port of the host. */
export interface Endpoint {
  readonly address: IpAddress;
  readonly port: number;
}

/** A fixed lease: this MAC always gets this address. */
export interface FixedLease {
  /** Six lower-case hex pairs with colons. */
  readonly mac: string;
  readonly address: IpAddress;
}

/** `ADDRESS:PORT` with IPv6 in brackets. */
export function formatEndpoint(address: IpAddress, port: number): string {
  return address.isV4 ? `${address}:${port}` : `[${address}]:${port}`;
}

/** A whole number within limits. */
export function parseInteger(text: string, min: number, max: number, unit: string): number {
  const right = `a whole number ${unit === '' ? '' : `of ${unit} `}from ${min} to ${max}`;
  if (!/^[+-]?\d+$/.test(text)) throw new GrammarError('is not a whole number', right);
  const n = Number(text);
  if (n < min) throw new GrammarError('is too small', right);
  if (n > max) throw new GrammarError('is too large', right);
  return n;
}

/** A port number; `least` is 0 where the system may choose. */
export function parsePort(text: string, what: string, least: 0 | 1): number {
  const right = `a port number from ${least} to 65535`;
  if (!/^\d+$/.test(text))
    throw new GrammarError(text === '' ? `has no ${what}` : `has "${text}" as its ${what}`, right);
  const n = Number(text);
  if (n < least || n > 65535) throw new GrammarError(`has ${what} ${text}`, right);
  return n;
}

/** An IP address of either family, IPv6 with or without brackets. */
export function parseIp(text: string): IpAddress {
  const bare = /^\[(.*)\]$/.exec(text)?.[1] ?? text;
  if (bare.includes('%')) throw new GrammarError('has a zone index', 'an address without "%interface"');
  const address = parseAddress(bare);
  if (address === undefined) throw new GrammarError('is not an IP address', 'an address like 192.168.65.1 or fd65::1');
  return address;
}

/** An IPv4 unicast address. */
export function parseUnicastV4(text: string): IpAddress {
  const address = parseAddress(text);
  if (address === undefined || !address.isV4)
    throw new GrammarError('is not an IPv4 address', 'an address like 192.168.65.1');
  if (isMartianV4(address.v4))
    throw new GrammarError('is not an address that a machine can have', 'a unicast address like 192.168.65.1');
  return address;
}

/** The virtual network: /8 to /29, its own address, private to the VMs. */
export function parseNetwork(text: string): Cidr4 {
  const right = 'a network like 192.168.65.0/24, /8 to /29';
  const network = Cidr4.parse(text);
  if (network === undefined) throw new GrammarError('is not an IPv4 network', right);
  if (network.prefix < 8 || network.prefix > 29)
    throw new GrammarError(`has the prefix length ${network.prefix}`, right);
  if (parseAddress(text.slice(0, text.indexOf('/')))?.v4 !== network.network) {
    throw new GrammarError('is an address inside a network, not the network itself', `${network}`);
  }
  if (isMartianV4(network.network) || isMartianV4(network.broadcast) || isLinkLocalV4(network.network)) {
    throw new GrammarError('is not a network that machines can live in', right);
  }
  return network;
}

/** `ADDRESS[:PORT]`, IPv6 with a port in brackets. */
export function parseDnsServer(text: string): Endpoint {
  const right = 'ADDRESS or ADDRESS:PORT, like 1.1.1.1, 10.0.0.2:5353 or [2606:4700::1111]:53';
  const m = /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/.exec(text);
  const [host, port] = text.split(':').length > 2 && !text.startsWith('[') ? [text, undefined] : [m?.[1], m?.[2]];
  if (host === undefined) throw new GrammarError('is not an address with a port', right);
  if (/^[a-z][a-z0-9.-]*$/i.test(host)) throw new GrammarError('is a name', right);
  const address = parseIp(host);
  if (address.isV4 && (address.v4 === 0 || address.v4 >>> 28 >= 14))
    throw new GrammarError('is not a server address', right);
  return { address, port: port === undefined ? 53 : parsePort(port, 'port', 1) };
}

/** `ADDRESS:PORT` of the host's loopback. Port 0 lets the system choose. */
export function parseLoopbackEndpoint(text: string): Endpoint {
  const right = 'ADDRESS:PORT on the loopback, like 127.0.0.1:9100 or [::1]:9100';
  const m = /^(\[[^\]]*\]|[^:]*):([^:]*)$/.exec(text);
  if (m === null) throw new GrammarError('is not ADDRESS:PORT', right);
  if (m[1] === 'localhost') throw new GrammarError('has a name where an address belongs', right);
  const address = parseIp(m[1]!);
  const loopback = address.isV4 ? address.v4 >>> 24 === 127 : address.toString() === '::1';
  if (!loopback) {
    throw new GrammarError(`is not loopback: what is served there has no access control`, right);
  }
  return { address, port: parsePort(m[2]!, 'port', 0) };
}

const ZERO_MAC = '00:00:00:00:00:00';

/** In lower case with colons, or undefined. */
function normalMac(text: string): string | undefined {
  const mac = text.toLowerCase().replaceAll('-', ':');
  return /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac) ? mac : undefined;
}

function isMulticastMac(mac: string): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1;
}

/** A MAC address that one machine can have, in lower case with colons. */
export function parseUnicastMac(text: string): string {
  const right = 'six bytes in hexadecimal, the first even, like f6:16:36:bc:f9:c6';
  const mac = normalMac(text);
  if (mac === undefined) throw new GrammarError('is not a MAC address', right);
  if (isMulticastMac(mac)) throw new GrammarError('is a multicast MAC address', right);
  if (mac === ZERO_MAC) throw new GrammarError('is the zero MAC address', right);
  return mac;
}

/** `MAC=ADDRESS`. */
export function parseLease(text: string): FixedLease {
  const right = 'MAC=ADDRESS, like 52:54:00:12:34:56=192.168.65.10';
  const m = /^([^=]*)=([^=]*)$/.exec(text);
  if (m === null) throw new GrammarError('is not MAC=ADDRESS', right);
  const mac = normalMac(m[1]!);
  if (mac === undefined) throw new GrammarError(`has "${m[1]}" as its MAC address`, right);
  if (isMulticastMac(mac)) throw new GrammarError('has a multicast MAC address, which no VM can have', right);
  if (mac === ZERO_MAC) throw new GrammarError('has the zero MAC address, which no VM can have', right);
  const address = parseAddress(m[2]!);
  if (address === undefined || !address.isV4) throw new GrammarError(`has "${m[2]}" as its IPv4 address`, right);
  return { mac, address };
}

const DURATION_UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `5m`, `1h30m`; a bare number is seconds. In milliseconds. */
export function parseDuration(text: string, minMs: number, maxMs: number): number {
  const right = `a duration from ${formatDuration(minMs)} to ${formatDuration(maxMs)}, like 90s, 5m or 1h`;
  if (!/^(\d+|(\d+(ms|s|m|h|d))+)$/.test(text)) throw new GrammarError('is not a duration', right);
  let ms = 0;
  for (const [, n, unit] of text.matchAll(/(\d+)(ms|s|m|h|d)?/g)) ms += Number(n) * DURATION_UNIT_MS[unit ?? 's']!;
  if (ms < minMs) throw new GrammarError('is too short', right);
  if (ms > maxMs) throw new GrammarError('is too long', right);
  return ms;
}

/** The shortest text that `parseDuration` reads back. */
export function formatDuration(ms: number): string {
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = DURATION_UNIT_MS[unit]!;
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${ms}ms`;
}

/** `64`, `64M`, `1G`: a power of two of MiB. In bytes. */
export function parseMemory(text: string, minMib: number, maxMib: number): number {
  const right = `a power of two from ${minMib} to ${maxMib} (MiB)`;
  const m = /^(\d+)(?:([MG])(?:iB)?)?$/i.exec(text);
  if (m === null) throw new GrammarError('is not a size', right);
  const mib = Number(m[1]) * (m[2]?.toUpperCase() === 'G' ? 1024 : 1);
  if (mib < minMib) throw new GrammarError('is too small', right);
  if (mib > maxMib) throw new GrammarError('is too large', right);
  if (!Number.isInteger(Math.log2(mib))) throw new GrammarError('is not a power of two', right);
  return mib * 1024 * 1024;
}

/** A DNS name without its final dot, lower case. */
export function parseDomain(text: string): string {
  const right = 'a DNS name like corp.example, labels of 1 to 63 letters, digits, "-" and "_"';
  const name = text.replace(/\.$/, '').toLowerCase();
  if (name.length > 253) throw new GrammarError('is longer than 253 characters', right);
  for (const label of name.split('.')) {
    if (!/^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label)) throw new GrammarError('is not a DNS name', right);
  }
  return name;
}

/** A path of the file system. */
export function parsePath(text: string): string {
  if (text === '') throw new GrammarError('is empty', 'a path');
  if (text.includes('\0')) throw new GrammarError('has a zero byte in it', 'a path');
  return text;
}

/** A descriptor that this process inherited. */
export function parseDescriptor(text: string): number {
  const right = 'the number of an inherited descriptor, 3 or more';
  if (!/^\d+$/.test(text)) throw new GrammarError('is not a number', right);
  const fd = Number(text);
  if (fd < 3) throw new GrammarError('is standard input, output or error', right);
  if (fd > 1_048_575) throw new GrammarError('is too large', right);
  return fd;
}

/** The network's last address but the broadcast. */
export function lastHostOf(network: Cidr4, gateway: IpAddress | undefined): string {
  const last = (network.broadcast - 1) | 0;
  return formatV4(gateway?.v4 === last ? last - 1 : last);
}
