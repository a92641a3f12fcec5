// What a test needs of the machine, asked before it starts. Each answers false when it is there, or the reason to skip with.

import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** False, or why the test cannot run here: what tap's `skip` option takes. */
export type SkipReason = string | false;

/** Where a program is, or undefined. */
export function programPath(name: string): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/local/sbin'];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** Programs have to be installed. */
export function needsProgram(...names: string[]): SkipReason {
  const missing = names.filter((name) => programPath(name) === undefined);
  return missing.length === 0 ? false : `needs ${missing.join(' and ')}, which is not installed`;
}

/** A namespace with a TAP device: root, /dev/net/tun, ip, and a C compiler for the bridge. */
export function needsNamespace(): SkipReason {
  if (process.platform !== 'linux') return 'needs Linux network namespaces';
  if (process.getuid?.() !== 0) return 'needs root, to make a network namespace with a TAP device';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return 'needs /dev/net/tun';
  }
  return needsProgram('ip', 'cc');
}

/** A congestion control of the kernel. */
export function needsCongestion(name: string): SkipReason {
  const names = readFileSync('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8').trim().split(' ');
  return names.includes(name) ? false : `needs a kernel with ${name}`;
}

/** The first reason of several. */
export function firstReason(...reasons: SkipReason[]): SkipReason {
  return reasons.find((reason) => reason !== false) ?? false;
}

/** Long versions of the transfer tests: 1 GiB and 100,000 connections. */
export const soak: boolean = process.env.ISTHMUS_SOAK === '1';
