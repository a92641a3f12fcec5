// The host's `ping`: finds it, learns which of its kin it is and whether this user may use it, and runs it for one echo request. Never
// through a shell, with an environment of our own, and for a few seconds at most. What its words mean is ping-output's.

import type { ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type PingAnswer, parsePingLine } from './ping-output.ts';

/** The programs whose arguments are known. */
export type PingKind = 'iputils' | 'busybox' | 'inetutils' | 'bsd';

export interface PingProgram {
  readonly path: string;
  /** Before all others: `ping` for busybox itself. */
  readonly prefix: readonly string[];
  readonly kind: PingKind;
}

/** One echo request as the program is to send it. */
export interface PingOrder {
  readonly destination: string;
  /** 1 to 255. */
  readonly ttl: number;
  /** Bytes behind the ICMP header, 0 to 65,507. */
  readonly dataLength: number;
  readonly dontFragment: boolean;
  /** To send from; undefined: the host chooses. */
  readonly source: string | undefined;
}

/** The program waits so long for an answer, which outlasts the 3 s that Linux takes to find that nobody has an address. */
export const PING_WAIT_S = 4;
/** Then it is ended. */
const PING_LIMIT_MS = PING_WAIT_S * 1000 + 1500;
const PROBE_LIMIT_MS = 3000;
/** Nothing that a ping prints about one request is longer. */
const OUTPUT_MAX_BYTES = 8192;
/** Where `ping` is when PATH does not say. */
const FOLDERS = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** Arguments for one request. The destination is numeric, so it cannot be taken for an option. */
export function pingArguments({ kind, prefix }: PingProgram, order: PingOrder): string[] {
  const { destination, ttl, dataLength, dontFragment, source } = order;
  const common = [...prefix, '-n', '-c', '1'];
  const size = ['-s', String(dataLength)];
  const wait = String(PING_WAIT_S);
  switch (kind) {
    case 'iputils':
      return [
        // No -w: it would send again and again until something answers.
        ...[...common, '-W', wait, '-t', String(ttl), ...size, '-M', dontFragment ? 'do' : 'dont'],
        ...[...(source === undefined ? [] : ['-I', source]), destination],
      ];
    case 'busybox':
      // It has no -n, and looks no names up.
      return [
        ...[...prefix, '-c', '1', '-W', wait, '-t', String(ttl), ...size],
        ...[...(source === undefined ? [] : ['-I', source]), destination],
      ];
    case 'inetutils':
      // It cannot choose its source.
      return [...common, '-W', wait, `--ttl=${ttl}`, ...size, destination];
    case 'bsd':
      return [
        ...[...common, '-W', String(PING_WAIT_S * 1000), '-m', String(ttl), ...size],
        ...[...(dontFragment ? ['-D'] : []), ...(source === undefined ? [] : ['-S', source]), destination],
      ];
  }
}

/** A `ping` that this user may use, or why there is none. @param folders where it may be besides PATH. */
export async function findPing(
  env: Readonly<Record<string, string | undefined>>,
  platform: string,
  folders: readonly string[] = FOLDERS,
): Promise<PingProgram | string> {
  const ping = whereIs('ping', env, folders);
  const busybox = ping === undefined ? whereIs('busybox', env, folders) : undefined;
  const path = ping ?? busybox;
  if (path === undefined) return 'there is no program "ping" on this host';
  const prefix = ping === undefined ? ['ping'] : [];
  const kind = busybox === undefined ? await kindOf(path, platform) : 'busybox';
  if (kind === undefined) return `${path} is a ping whose options are not known`;
  const program = { path, prefix, kind };
  const order = { destination: '127.0.0.1', ttl: 64, dataLength: 56, dontFragment: false, source: undefined };
  let refusal: string | undefined;
  await new Promise<void>((resolve) => {
    PingRun.start(program, pingArguments(program, order), {
      onAnswer: (answer) => {
        if (answer.kind === 'unusable') refusal = `${path} may not be used by this user (${answer.why})`;
      },
      onEnd: (failed) => {
        if (failed !== undefined) refusal = `${path} cannot be started (${failed})`;
        resolve();
      },
    });
  });
  return refusal ?? program;
}

function whereIs(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
  folders: readonly string[],
): string | undefined {
  const all = [...(env.PATH ?? '').split(delimiter), ...folders].filter((folder) => folder.startsWith('/'));
  return all.map((folder) => join(folder, name)).find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** By what it says of its version: only iputils and inetutils have one to tell. */
async function kindOf(path: string, platform: string): Promise<PingKind | undefined> {
  if (platform !== 'linux') return 'bsd';
  const said = await outputOf(path, ['-V']);
  if (/iputils/i.test(said)) return 'iputils';
  if (/inetutils/i.test(said)) return 'inetutils';
  return /busybox/i.test(said) ? 'busybox' : undefined;
}

async function outputOf(path: string, args: readonly string[]): Promise<string> {
  const { execFile } = await import('node:child_process');
  return new Promise((resolve) => {
    const options = { env: ENVIRONMENT, timeout: PROBE_LIMIT_MS, maxBuffer: OUTPUT_MAX_BYTES };
    execFile(path, args, options, (_error, stdout, stderr) => resolve(stdout + stderr));
  });
}

/** Nothing of the daemon's own: no preloaded library, no locale. */
const ENVIRONMENT: Readonly<Record<string, string>> = { LC_ALL: 'C', PATH: FOLDERS.join(':') };

export interface PingRunOwner {
  /** The first line that says anything; once at most. */
  onAnswer(answer: PingAnswer): void;
  /** The process is gone. @param failed errno name, if it could not be started. Once, and last. */
  onEnd(failed: string | undefined): void;
}

/** One process. */
export class PingRun {
  readonly #owner: PingRunOwner;
  #child: ChildProcess | undefined = undefined;
  #timer: NodeJS.Timeout | undefined = undefined;
  #answered = false;
  #ended = false;
  #stopped = false;

  private constructor(owner: PingRunOwner) {
    this.#owner = owner;
  }

  static start(program: PingProgram, args: readonly string[], owner: PingRunOwner): PingRun {
    const run = new PingRun(owner);
    // Loaded by the first echo request: most guests send none.
    import('node:child_process').then(
      ({ spawn }) => {
        if (run.#stopped) return run.#end(undefined);
        try {
          run.#begin(spawn(program.path, args, { env: ENVIRONMENT, stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' }));
        } catch (error) {
          run.#end((error as NodeJS.ErrnoException).code ?? 'EIO');
        }
      },
      run.#end.bind(run, 'EIO'),
    );
    return run;
  }

  /** Ends it; `onEnd` follows. */
  stop(): void {
    this.#stopped = true;
    this.#child?.kill('SIGKILL');
  }

  #begin(child: ChildProcess): void {
    this.#child = child;
    this.#timer = setTimeout(() => child.kill('SIGKILL'), PING_LIMIT_MS);
    child.once('error', (error: NodeJS.ErrnoException) => {
      // Also "could not be killed", of a process that still runs: its end comes by 'close'.
      if (child.pid === undefined) this.#end(error.code ?? 'EIO');
    });
    for (const stream of [child.stdout!, child.stderr!]) this.#read(stream);
    child.once('close', () => this.#end(undefined));
  }

  #read(stream: NodeJS.ReadableStream): void {
    let rest = '';
    let bytes = 0;
    stream.setEncoding('latin1');
    stream.on('data', (chunk: string) => {
      bytes += chunk.length;
      if (bytes > OUTPUT_MAX_BYTES || this.#answered) return;
      const lines = (rest + chunk).split('\n');
      rest = lines.pop()!;
      for (const line of lines) this.#line(line);
    });
    stream.on('end', () => this.#line(rest));
  }

  #line(line: string): void {
    if (this.#answered || this.#stopped) return;
    const answer = parsePingLine(line);
    if (answer === undefined) return;
    this.#answered = true;
    this.#owner.onAnswer(answer);
    // Some go on waiting for a reply after an error.
    this.#child?.kill('SIGKILL');
  }

  #end(failed: string | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#owner.onEnd(failed);
  }
}
