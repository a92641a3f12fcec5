// The networks that the host itself reaches: those of its interfaces, and its routes but the default ones. Read when asked for, and
// nothing is kept. IPv4 only, as guests have no IPv6.

import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';

export interface HostNetwork {
  /** `10.8.0.0/24`; host bits are cut off. */
  readonly cidr: string;
  /** Name of the interface that has it, or that the route leads to. */
  readonly device: string;
  readonly kind: 'interface' | 'route';
}

/** RTF_UP and RTF_REJECT of <linux/route.h>: a route that refuses leads to no network. */
const RTF_UP = 0x1;
const RTF_REJECT = 0x200;
/** Two halves of the world, as VPN clients lay them over the default route, are a default route too. */
const DEFAULT_MAX_PREFIX = 1;
const NETSTAT_LIMIT_MS = 2000;

/** Every IPv4 address of the host, loopback included, by the interface that has it. */
export function hostAddresses(): readonly { readonly address: string; readonly device: string }[] {
  return Object.entries(networkInterfaces()).flatMap(([device, addresses]) =>
    (addresses ?? []).filter(({ family }) => family === 'IPv4').map(({ address }) => ({ address, device })),
  );
}

/** Interfaces first. What cannot be read is left out. */
export function hostNetworks(): readonly HostNetwork[] {
  return [...interfaceNetworks(), ...routes()];
}

function interfaceNetworks(): HostNetwork[] {
  const found: HostNetwork[] = [];
  for (const [device, addresses] of Object.entries(networkInterfaces())) {
    for (const { family, cidr, internal } of addresses ?? []) {
      if (family !== 'IPv4' || internal || cidr === null) continue;
      const [address = '', prefix = ''] = cidr.split('/');
      found.push({ cidr: formatCidr(quadOf(address), Number(prefix)), device, kind: 'interface' });
    }
  }
  return found;
}

function routes(): HostNetwork[] {
  try {
    if (process.platform === 'linux') return parseProcRoutes(readFileSync('/proc/net/route', 'latin1'));
    if (process.platform === 'darwin') return parseNetstatRoutes(netstat());
  } catch {
    // No /proc, or no netstat: the interfaces have to do.
  }
  return [];
}

/** The module is loaded here: Linux, where the start is measured, has no use for it. */
function netstat(): string {
  // Node 20.16 and newer have the call; before, the interfaces have to do.
  const load = (process as { getBuiltinModule?: (name: string) => unknown }).getBuiltinModule;
  const found = load?.('node:child_process') as typeof import('node:child_process') | undefined;
  if (found === undefined) return '';
  return found.execFileSync('/usr/sbin/netstat', ['-rn', '-f', 'inet'], {
    encoding: 'latin1',
    timeout: NETSTAT_LIMIT_MS,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

/** /proc/net/route: addresses as the machine's own 32-bit words in hexadecimal, little-endian wherever Node.js runs. */
export function parseProcRoutes(text: string): HostNetwork[] {
  const found: HostNetwork[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [device = '', destination = '', , flags = '', , , , mask = ''] = line.trim().split(/\s+/);
    if (!/^[0-9A-F]{8}$/i.test(destination) || !/^[0-9A-F]{8}$/i.test(mask)) continue;
    const flagBits = Number.parseInt(flags, 16);
    const length = Math.clz32(~swapped(mask));
    if ((flagBits & RTF_UP) === 0 || (flagBits & RTF_REJECT) !== 0) continue;
    if (length <= DEFAULT_MAX_PREFIX) continue;
    found.push({ cidr: formatCidr(swapped(destination), length), device, kind: 'route' });
  }
  return found;
}

/** `netstat -rn -f inet` of the BSDs: trailing zero bytes of a destination are left out, and the prefix where they tell it. */
export function parseNetstatRoutes(text: string): HostNetwork[] {
  const found: HostNetwork[] = [];
  for (const line of text.split('\n')) {
    const fields = line.trim().split(/\s+/);
    const m = /^(\d{1,3}(?:\.\d{1,3}){0,3})(?:\/(\d{1,2}))?$/.exec(fields[0] ?? '');
    const [, , flags = '', device = ''] = fields;
    // R: rejects, B: discards; a host entry of the neighbour table (L with H) is no network.
    if (m === null || !flags.includes('U') || /[RB]/.test(flags) || (flags.includes('L') && flags.includes('H')))
      continue;
    const bytes = m[1]!.split('.').map(Number);
    const length = m[2] === undefined ? bytes.length * 8 : Number(m[2]);
    if (bytes.some((b) => b > 255) || length > 32 || length <= DEFAULT_MAX_PREFIX || bytes[0] === 127) continue;
    while (bytes.length < 4) bytes.push(0);
    found.push({ cidr: formatCidr(quadOf(bytes.join('.')), length), device, kind: 'route' });
  }
  return found;
}

/** A hexadecimal word with its bytes turned round, int32. */
function swapped(hex: string): number {
  const v = Number.parseInt(hex, 16);
  return ((v & 255) << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24);
}

function quadOf(text: string): number {
  return text.split('.').reduce((v, byte) => (v << 8) | Number(byte), 0);
}

function formatCidr(address: number, prefix: number): string {
  const v = prefix === 0 ? 0 : address & (-1 << (32 - prefix));
  return `${v >>> 24}.${(v >>> 16) & 255}.${(v >>> 8) & 255}.${v & 255}/${prefix}`;
}
