// `isthmus events`, `capture`, `status`, `stop`: a running daemon as a whole.

import { createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ControlClient } from '../control/client.ts';
import type { HealthAnswer, StatValue } from '../control/resources.ts';
import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import { type ClientArgs, usageError } from './client-args.ts';
import { ageText, bytesText, type ClientOutput, plain } from './client-output.ts';

/** How long the daemon may take to end. */
const STOP_LIMIT_MS = 5000;

export async function events(client: ControlClient, { options }: ClientArgs, out: ClientOutput): Promise<number> {
  const count = options.count === undefined ? Number.POSITIVE_INFINITY : Number(options.count[0]);
  if (!(count >= 1)) throw usageError(`--count: "${options.count?.[0]}" is not a number from 1 on`);
  const types = options.types?.[0];
  const stream = await client.stream(`/v1/events${types === undefined ? '' : `?types=${encodeURIComponent(types)}`}`);
  let seen = 0;
  let event: Record<string, string> = {};
  // A stream that breaks off is one that has ended: the daemon was killed.
  stream.once('error', () => stream.destroy());
  for await (const line of linesOf(stream)) {
    const field = /^([a-z]+): ?(.*)$/.exec(line);
    if (field !== null) {
      event[field[1]!] = field[2]!;
      continue;
    }
    if (line !== '' || event.data === undefined) {
      if (line === '') event = {};
      continue;
    }
    out.stdout.write(options.json === undefined ? eventText(event) : eventJson(event));
    event = {};
    if (++seen >= count) break;
  }
  stream.destroy();
  // A stream ends with the daemon.
  if (seen < count) throw client.lost('events');
  return ExitCode.Ok;
}

/** The lines of a stream, until it ends or breaks off. */
async function* linesOf(stream: NodeJS.ReadableStream): AsyncGenerator<string> {
  try {
    yield* createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ECONNRESET') throw error;
  }
}

function eventJson({ id, event: type, data = '{}' }: Record<string, string>): string {
  return `${JSON.stringify({ ...(id === undefined ? {} : { id }), type, ...(JSON.parse(data) as object) })}\n`;
}

function eventText({ event: type = '', data = '{}' }: Record<string, string>): string {
  const { at, ...rest } = JSON.parse(data) as Record<string, unknown>;
  const fields = Object.entries(rest).map(([k, v]) => `${k}=${typeof v === 'string' ? v : JSON.stringify(v)}`);
  return `${plain([at ?? '-', type, ...fields].join(' '))}\n`;
}

export async function capture(client: ControlClient, { options }: ClientArgs, out: ClientOutput): Promise<number> {
  const to = options.write?.[0];
  if (to === undefined) throw usageError('capture: where to? expected -w FILE, or -w - for standard output');
  if (to === '-' && out.stdout.isTTY === true)
    throw usageError('capture: a terminal shows no pcapng; expected -w FILE, or a program behind -w -');
  const query = new URLSearchParams();
  for (const name of ['vm', 'snap']) for (const value of options[name] ?? []) query.set(name, value);
  const text = query.toString();
  const stream = await client.stream(`/v1/capture${text === '' ? '' : `?${text}`}`);
  const file: Writable = to === '-' ? process.stdout : createWriteStream(to, { mode: 0o600 });
  // Interrupted: what has come is complete as far as it goes, and is kept.
  let interrupted = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      interrupted = true;
      stream.destroy();
    });
  }
  try {
    // Standard output stays open, as a failure of the daemon's is none of its own.
    await pipeline(stream, file, { end: to !== '-' });
    // It ends with the VM that it is of, or with the daemon.
    if (!interrupted && (options.vm === undefined || !(await answers(client)))) throw client.lost('capture');
  } catch (error) {
    const code = errnoOf(error);
    if (interrupted || code === 'EPIPE') return ExitCode.Ok;
    if (error instanceof OperatorError) throw error;
    if (code === 'ERR_STREAM_PREMATURE_CLOSE' || code === 'ECONNRESET') throw client.lost('capture');
    throw new OperatorError(`capture: ${to} cannot be written (${code ?? String(error)})`, {
      code: 'ERR_CAPTURE_FILE',
      exitCode: ExitCode.CannotCreate,
      cause: error,
    });
  }
  return ExitCode.Ok;
}

/** Whether the daemon is there, and to stay. */
async function answers(client: ControlClient): Promise<boolean> {
  try {
    return ((await client.send('GET', '/healthz')).body as HealthAnswer).status !== 'stopping';
  } catch {
    return false;
  }
}

interface Stats {
  readonly version: string;
  readonly memoryBytes: { readonly rss: number };
  readonly metrics: readonly StatValue[];
}

export async function status(client: ControlClient, { options }: ClientArgs, out: ClientOutput): Promise<number> {
  const health = (await client.send('GET', '/healthz')).body as HealthAnswer;
  const stats = (await client.ask('GET', '/v1/stats')) as Stats;
  const value = (name: string): number => stats.metrics.find((m) => m.name === `isthmus_${name}`)?.value ?? 0;
  const { place } = client;
  const summary = {
    ...health,
    version: stats.version,
    control: place.kind === 'unix' ? place.path : `${place.host}:${place.port}`,
    vms: value('vms'),
    forwards: value('forwards'),
    tcpFlows: value('tcp_flows'),
    udpFlows: value('udp_flows'),
    leases: value('leases'),
    rssBytes: stats.memoryBytes.rss,
  };
  if (options.json !== undefined) {
    out.stdout.write(`${JSON.stringify(summary, null, 2)}\n`);
    return ExitCode.Ok;
  }
  const lines: [string, string][] = [
    ['status', health.reason === undefined ? health.status : `${health.status}: ${health.reason}`],
    ...(health.warnings ?? []).map((text): [string, string] => ['warning', plain(text)]),
    ['version', stats.version],
    ['pid', String(health.pid)],
    ['up', ageText(health.uptimeSeconds)],
    ['control', summary.control],
    ['vms', String(summary.vms)],
    ['forwards', String(summary.forwards)],
    ['flows', `${summary.tcpFlows} tcp, ${summary.udpFlows} udp`],
    ['leases', String(summary.leases)],
    ['memory', bytesText(summary.rssBytes)],
  ];
  const terminal = out.stdout.isTTY === true;
  out.stdout.write(lines.map(([k, v]) => (terminal ? `${k.padEnd(10)}${v}\n` : `${k}\t${v}\n`)).join(''));
  return ExitCode.Ok;
}

export async function stop(client: ControlClient, { options }: ClientArgs, out: ClientOutput): Promise<number> {
  const drain = options.drain?.[0];
  if (drain !== undefined && !/^\d{1,5}$/.test(drain))
    throw usageError(`--drain: "${drain}" is not a number of seconds`);
  if (drain === undefined) await client.ask('POST', '/v1/shutdown');
  else await client.ask('POST', '/v1/drain', { timeoutSeconds: Number(drain) });
  const end = performance.now() + STOP_LIMIT_MS + Number(drain ?? 0) * 1000;
  for (;;) {
    try {
      await client.send('GET', '/healthz');
    } catch (error) {
      if (!(error instanceof OperatorError) || error.code !== 'ERR_CONTROL_UNREACHABLE') throw error;
      break;
    }
    if (performance.now() > end) {
      throw new OperatorError('the daemon was told to end, and still answers', {
        code: 'ERR_STOP_LATE',
        exitCode: ExitCode.Refused,
      });
    }
    await sleep(50);
  }
  if (options.json !== undefined) out.stdout.write('{"status":"stopped"}\n');
  return ExitCode.Ok;
}
