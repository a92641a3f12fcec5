// The arguments that both harnesses take, and what the machine must have for them. A mistake is one line that says what is wrong
// and what would be right: a ToolError with the exit code it deserves.

import { accessSync, constants, existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ExitCode } from '../../src/host/exit-code.ts';
import { ROWS } from './cases.ts';

/** What to measure, and where to put it. */
export interface BenchOptions {
  readonly mtus: readonly number[];
  readonly tests: readonly string[];
  readonly seconds: number;
  readonly rounds: number;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
}

/** A mistake of whoever started the tool. */
export class ToolError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number = ExitCode.Usage) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** For `parseArgs`. */
export const OPTION_TYPES = {
  mtu: { type: 'string' },
  tests: { type: 'string' },
  secs: { type: 'string' },
  rounds: { type: 'string' },
  json: { type: 'string' },
  markdown: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

/** Their values before they are checked. */
export type RawOptions = { readonly [name in keyof typeof OPTION_TYPES]?: string | boolean | undefined };

const LEAST_MTU = 576;
const LARGEST_MTU = 65_520;

/** The part of `--help` that both share. */
export const OPTIONS_HELP: string = `  --mtu LIST        MTUs of the guest, ${LEAST_MTU} to ${LARGEST_MTU} (default 1500,9000,65520)
  --tests LIST      rows to measure (default all)
  --secs N          seconds for each measurement (default 3)
  --rounds N        the table has the median of so many rounds (default 3)
  --json FILE       write all figures of all rounds
  --markdown FILE   write the table to a file too
  --help            print this

Tests:
${ROWS.map(({ name, help }) => `  ${name.padEnd(9)} ${help}`).join('\n')}`;

/** Splits a list and checks its names. */
export function namesOf(option: string, text: string, known: readonly string[]): string[] {
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) {
    if (!known.includes(name))
      throw new ToolError(`--${option}: "${name}" is not known; expected some of ${known.join(', ')}`);
  }
  return [...new Set(names)];
}

function wholeNumber(option: string, text: string, from: number, to: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < from || value > to)
    throw new ToolError(`--${option}: "${text}" is wrong; expected a whole number from ${from} to ${to}`);
  return value;
}

/** A file that is written only after all measurements: better refused before them. */
function writable(option: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    accessSync(dirname(resolve(path)), constants.W_OK);
  } catch {
    throw new ToolError(`--${option}: the folder of "${path}" cannot be written; expected a file in one that can`);
  }
  return path;
}

/** @throws ToolError */
export function benchOptions(raw: RawOptions): BenchOptions {
  const text = (name: keyof RawOptions, otherwise: string): string => String(raw[name] ?? otherwise);
  const known = ROWS.map((row) => row.name);
  const wanted = namesOf('tests', text('tests', known.join(',')), known);
  const mtus = text('mtu', '1500,9000,65520').split(',');
  return {
    mtus: mtus.map((mtu) => wholeNumber('mtu', mtu.trim(), LEAST_MTU, LARGEST_MTU)),
    tests: known.filter((name) => wanted.includes(name)),
    seconds: wholeNumber('secs', text('secs', '3'), 1, 3600),
    rounds: wholeNumber('rounds', text('rounds', '3'), 1, 1000),
    json: writable('json', raw.json as string | undefined),
    markdown: writable('markdown', raw.markdown as string | undefined),
  };
}

// An ordinary user's path, kept by `su`, may lack where `ip` and the stacks lie.
process.env.PATH = [process.env.PATH ?? '', '/usr/local/sbin', '/usr/sbin', '/sbin'].join(':');

/** Where a program is, or undefined. */
export function programPath(name: string): string | undefined {
  const folders = process.env.PATH!.split(':');
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

const PACKAGES: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  cc: 'gcc libc6-dev',
  iperf3: 'iperf3',
  setpriv: 'util-linux',
  mount: 'mount',
};

/** @throws ToolError when something is missing on this machine */
export function requireMachine(): void {
  const refuse = (message: string): never => {
    throw new ToolError(message, ExitCode.Unavailable);
  };
  if (process.platform !== 'linux') refuse('needs Linux: the guest is a network namespace');
  const missing = Object.keys(PACKAGES).filter((name) => programPath(name) === undefined);
  if (missing.length > 0) {
    const packages = missing.map((name) => PACKAGES[name]).join(' ');
    refuse(`needs ${missing.join(', ')}; on Debian: apt-get install ${packages}`);
  }
  if (process.getuid?.() !== 0) refuse('needs root, to make network namespaces; run it as root or with sudo');
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    refuse('needs /dev/net/tun; load the kernel module: modprobe tun');
  }
}
