// `isthmus publish`, `unpublish` and `ports`: the forwards of a running daemon.

import type { ControlClient } from '../control/client.ts';
import {
  CLIENT_MODES,
  type ClientMode,
  type Forward,
  type ForwardLease,
  type ForwardSpec,
} from '../forwarder/forward-spec.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { type ClientArgs, usageError } from './client-args.ts';
import { bytesText, type ClientOutput, type Column, table } from './client-output.ts';
import { forwardOf, parsePublishItem } from './publish-item.ts';
import { GrammarError, parseDuration } from './value-grammar.ts';

const COLUMNS: readonly Column<Forward>[] = [
  { head: 'ID', of: (f) => f.id },
  { head: 'LISTENS', of: (f) => listenText(f) },
  { head: 'TO', of: (f) => targetText(f.spec.target) },
  { head: 'STATE', of: (f) => (f.state === 'failed' ? `failed: ${f.error?.code ?? ''}` : f.state) },
  { head: 'CONNECTIONS', right: true, of: ({ counters: c }) => `${c.active}/${c.connections}` },
  { head: 'IN', right: true, of: ({ counters: c }) => bytesText(c.bytesToTarget) },
  { head: 'OUT', right: true, of: ({ counters: c }) => bytesText(c.bytesToClient) },
  { head: 'OWNER', of: (f) => f.spec.owner ?? '-' },
];

export async function ports(client: ControlClient, { options }: ClientArgs, out: ClientOutput): Promise<number> {
  const query = new URLSearchParams();
  for (const name of ['owner', 'label', 'state']) for (const value of options[name] ?? []) query.set(name, value);
  const text = query.toString();
  const answer = (await client.ask('GET', `/v1/forwards${text === '' ? '' : `?${text}`}`)) as { forwards: Forward[] };
  show(answer.forwards, options.json !== undefined, out);
  return ExitCode.Ok;
}

export async function publish(
  client: ControlClient,
  { args, options }: ClientArgs,
  out: ClientOutput,
): Promise<number> {
  const specs = args.flatMap((text) => specsOf(text, options));
  if (options.key !== undefined && specs.length > 1)
    throw usageError(`--key names one forward, and these are ${specs.length}; leave it out, or publish one at a time`);
  const path = options.replace === undefined ? '/v1/forwards' : '/v1/forwards?replace=true';
  const lasting = specs[0]?.lease === 'connection';
  const interrupted = lasting ? interruption() : undefined;
  const made: Forward[] = [];
  for (const spec of specs) {
    try {
      made.push((await client.ask('POST', path, spec)) as Forward);
    } catch (error) {
      // What listens already is told, so that nobody has to guess how far it came.
      show(made, options.json !== undefined, out);
      throw error;
    }
  }
  show(made, options.json !== undefined, out);
  return interrupted === undefined ? ExitCode.Ok : untilEnd(client, interrupted);
}

export async function unpublish(
  client: ControlClient,
  { args, options }: ClientArgs,
  out: ClientOutput,
): Promise<number> {
  const { forwards } = (await client.ask('GET', '/v1/forwards')) as { forwards: Forward[] };
  const found = args.map((text) => find(forwards, text, options.udp !== undefined));
  const close = options.close === undefined ? '' : '?close=true';
  for (const { id } of found) await client.ask('DELETE', `/v1/forwards/${encodeURIComponent(id)}${close}`);
  if (options.json !== undefined) out.stdout.write(`${JSON.stringify({ removed: found.map((f) => f.id) })}\n`);
  return ExitCode.Ok;
}

function show(forwards: readonly Forward[], json: boolean, out: ClientOutput): void {
  out.stdout.write(
    json ? `${JSON.stringify({ forwards }, null, 2)}\n` : table(forwards, COLUMNS, out.stdout.isTTY === true),
  );
}

function listenText({ spec, bound }: Forward): string {
  const { listen } = spec;
  const protocol = listen.kind === 'fd' ? listen.protocol : listen.kind;
  if (bound.length > 0) {
    const [first] = bound;
    const last = bound.at(-1)!;
    return `${protocol} ${first}${bound.length === 1 ? '' : `-${last.slice(last.lastIndexOf(':') + 1)}`}`;
  }
  if ('address' in listen) return `${protocol} ${listen.address}:${listen.port}`;
  return `${protocol} ${'path' in listen ? listen.path : listen.name}`;
}

function targetText(target: ForwardSpec['target']): string {
  switch (target.kind) {
    case 'guest':
      return `${target.guest ?? 'the only VM'}:${target.port}`;
    case 'vsock':
      return `vsock ${target.path} port ${target.port}`;
    case 'tcp':
      return `host ${target.address}:${target.port}`;
    case 'unix':
      return `host ${target.path}`;
  }
}

/** The forwards that a text asks for, with what the options say. */
function specsOf(text: string, options: ClientArgs['options']): ForwardSpec[] {
  let specs: readonly ForwardSpec[];
  try {
    specs = parsePublishItem(options.udp === undefined || namesProtocol(text) ? text : `${text}/udp`).map(forwardOf);
  } catch (error) {
    if (!(error instanceof GrammarError)) throw error;
    throw usageError(`"${text}" ${error.message}; expected ${error.right}`);
  }
  return specs.map((spec) => {
    const { guest } = options;
    if (guest !== undefined && spec.target.kind !== 'guest')
      throw usageError(`--guest names the VM of a published port, and "${text}" is none`);
    return {
      ...spec,
      ...(guest === undefined ? {} : { target: { ...spec.target, guest: guest[0]! } as ForwardSpec['target'] }),
      ...(options.key === undefined ? {} : { key: options.key[0]! }),
      ...(options.owner === undefined ? {} : { owner: options.owner[0]! }),
      ...(options.label === undefined ? {} : { labels: labelsOf(options.label) }),
      ...(options.client === undefined ? {} : { client: clientOf(options.client[0]!) }),
      ...(options.lease === undefined ? {} : { lease: leaseOf(options.lease[0]!) }),
    };
  });
}

/** A text that says by itself whether it is TCP or UDP. */
function namesProtocol(text: string): boolean {
  return /^(tcp|udp):|\/(tcp|udp)$|^(-t|-u|hostfwd=|guestfwd=)/.test(text);
}

function labelsOf(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const equals = text.indexOf('=');
      if (equals < 1) throw usageError(`--label: "${text}" is not NAME=VALUE`);
      return [text.slice(0, equals), text.slice(equals + 1)];
    }),
  );
}

function clientOf(text: string): ClientMode {
  const mode = CLIENT_MODES.find((m) => m === text);
  if (mode === undefined)
    throw usageError(`--client: "${text}" is unknown; expected one of ${CLIENT_MODES.join(', ')}`);
  return mode;
}

const LEASE_MAX_MS = 10 * 365 * 86_400_000;

function leaseOf(text: string): ForwardLease {
  if (text === 'connection' || text === 'permanent') return text;
  if (/^\d{4}-\d{2}-\d{2}T/.test(text)) return { until: text };
  try {
    return { until: new Date(Date.now() + parseDuration(text, 1000, LEASE_MAX_MS)).toISOString() };
  } catch (error) {
    if (!(error instanceof GrammarError)) throw error;
    throw usageError(`--lease: "${text}" ${error.message}; expected connection, ${error.right}, or a time`);
  }
}

/** The forward that a text names: id, key, or `[ADDRESS:]PORT` that it listens on. */
function find(forwards: readonly Forward[], text: string, udp: boolean): Forward {
  const named = forwards.find((f) => f.id === text) ?? forwards.find((f) => f.key === text);
  if (named !== undefined) return named;
  const port = /^(?:(.+):)?(\d+)(?:\/(tcp|udp))?$/.exec(text);
  const protocol = port?.[3] ?? (udp ? 'udp' : 'tcp');
  const fits = forwards.filter(({ spec, bound }) => {
    const { listen } = spec;
    if (port === null || (listen.kind === 'fd' ? listen.protocol : listen.kind) !== protocol) return false;
    const at = bound.length > 0 ? bound : 'address' in listen ? [`${listen.address}:${listen.port}`] : [];
    return at.some((where) =>
      port[1] === undefined ? where.endsWith(`:${port[2]}`) : where === `${port[1]}:${port[2]}`,
    );
  });
  const [only] = fits;
  if (fits.length === 1 && only !== undefined) {
    if (only.bound.length < 2) return only;
    throw new OperatorError(
      `"${text}" is one of ${only.bound.length} ports of a range; name all of it by its key, ${only.key}`,
      {
        code: 'ERR_FORWARD_NOT_FOUND',
        exitCode: ExitCode.Refused,
      },
    );
  }
  const why =
    fits.length === 0
      ? `there is no forward "${text}"`
      : `"${text}" is ${fits.length} forwards: ${fits.map((f) => f.key).join(', ')}`;
  throw new OperatorError(`${why}; isthmus ports lists them`, {
    code: 'ERR_FORWARD_NOT_FOUND',
    exitCode: ExitCode.Refused,
  });
}

/** Resolves with the exit code when this command is told to end. */
function interruption(): Promise<number> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve(ExitCode.Ok));
  });
}

/** Until this command is ended, or the daemon is: the forwards go with the connection. */
async function untilEnd(client: ControlClient, interrupted: Promise<number>): Promise<number> {
  const events = await client.stream('/v1/events?types=daemon');
  const gone = new Promise<number>((resolve) => {
    events.once('close', () => resolve(ExitCode.Unavailable));
    events.resume();
  });
  const code = await Promise.race([interrupted, gone]);
  client.close();
  return code;
}
