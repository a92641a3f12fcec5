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
import { doEach, SomeRefused } from './client-failure.ts';
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
  if (options.quiet !== undefined && options.json === undefined)
    out.stdout.write(answer.forwards.map((f) => `${f.key}\n`).join(''));
  else show(answer.forwards, options.json !== undefined, out);
  return ExitCode.Ok;
}

export async function publish(
  client: ControlClient,
  { args, options }: ClientArgs,
  out: ClientOutput,
): Promise<number> {
  const asked = args.flatMap((text) => specsOf(text, options).map((spec) => ({ text, spec })));
  if (options.key !== undefined && asked.length > 1)
    throw usageError(`--key names one forward, and these are ${asked.length}; leave it out, or publish one at a time`);
  const path = options.replace === undefined ? '/v1/forwards' : '/v1/forwards?replace=true';
  const interrupted = asked[0]?.spec.lease === 'connection' ? interruption() : undefined;
  const json = options.json !== undefined;
  const made: Forward[] = [];
  const refusals = await doEach(
    asked,
    ({ text }) => text,
    async ({ spec }) => {
      made.push((await client.ask('POST', path, spec)) as Forward);
    },
  );
  if (refusals.length > 0) {
    // Those that would last as long as this command end with it now.
    const lasting = interrupted === undefined ? made : [];
    if (!json) show(lasting, false, out);
    throw new SomeRefused(refusals, { forwards: lasting }, args);
  }
  show(made, json, out);
  return interrupted === undefined ? ExitCode.Ok : untilEnd(client, interrupted);
}

export async function unpublish(
  client: ControlClient,
  { args, options }: ClientArgs,
  out: ClientOutput,
): Promise<number> {
  const { forwards } = (await client.ask('GET', '/v1/forwards')) as { forwards: Forward[] };
  const close = options.close === undefined ? '' : '?close=true';
  const removed = new Set<string>();
  const refusals = await doEach(
    args,
    (text) => text,
    async (text) => {
      const { id } = find(forwards, text, options.udp !== undefined);
      // The same by two of its names.
      if (removed.has(id)) return;
      await client.ask('DELETE', `/v1/forwards/${encodeURIComponent(id)}${close}`);
      removed.add(id);
    },
  );
  const done = { removed: [...removed] };
  if (refusals.length > 0) throw new SomeRefused(refusals, done, args);
  if (options.json !== undefined) out.stdout.write(`${JSON.stringify(done)}\n`);
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

/** The forward that a text names: id, key, or `[ADDRESS:]PORT` that it listens on. @throws OperatorError */
function find(forwards: readonly Forward[], text: string, udp: boolean): Forward {
  const named = forwards.find((f) => f.id === text) ?? forwards.find((f) => f.key === text);
  if (named !== undefined) return named;
  const port = /^(?:(.+):)?(\d+)(?:\/(tcp|udp))?$/.exec(text);
  const protocol = port?.[3] ?? (udp ? 'udp' : 'tcp');
  const fits = port === null ? [] : forwards.filter((f) => listensOn(f, protocol, port[1], port[2]!));
  const [only] = fits;
  if (only === undefined) {
    const other = protocol === 'udp' ? 'tcp' : 'udp';
    if (port === null || !forwards.some((f) => listensOn(f, other, port[1], port[2]!)))
      throw notFound(`there is no forward "${text}"; isthmus ports lists them`);
    const right = port[3] !== undefined ? `write /${other}` : udp ? 'leave out --udp' : 'add --udp';
    throw notFound(`"${text}" is no ${protocol.toUpperCase()} port, but one of ${other.toUpperCase()}; ${right}`);
  }
  if (fits.length > 1)
    throw notFound(`"${text}" is ${fits.length} forwards: ${fits.map((f) => f.key).join(', ')}; name one by its key`);
  if (only.bound.length > 1)
    throw notFound(`"${text}" is one of ${only.bound.length} ports of a range; name all of it by its key, ${only.key}`);
  return only;
}

/** Whether one of its ports is this. */
function listensOn({ spec, bound }: Forward, protocol: string, address: string | undefined, port: string): boolean {
  const { listen } = spec;
  if ((listen.kind === 'fd' ? listen.protocol : listen.kind) !== protocol) return false;
  const at = bound.length > 0 ? bound : 'address' in listen ? [`${listen.address}:${listen.port}`] : [];
  return at.some((where) => (address === undefined ? where.endsWith(`:${port}`) : where === `${address}:${port}`));
}

function notFound(message: string): OperatorError {
  return new OperatorError(message, { code: 'ERR_FORWARD_NOT_FOUND', exitCode: ExitCode.Refused });
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
  const gone = new Promise<undefined>((resolve) => {
    events.once('error', () => {});
    events.once('close', () => resolve(undefined));
    events.resume();
  });
  const code = await Promise.race([interrupted, gone]);
  client.close();
  if (code === undefined) throw client.lost('publish');
  return code;
}
