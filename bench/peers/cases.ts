// What is measured: one function for each kind of row, from a running stack to figures. Every figure is a number with its unit in
// its name; a case that comes to nothing throws, with one line that says what happened.

import { setTimeout as sleep } from 'node:timers/promises';
import { type Lab, Port, type Program } from './lab.ts';
import { cpuSeconds, residentMb } from './process-tree.ts';
import type { RunningStack } from './stacks.ts';

/** Figures of one measurement. */
export type Figures = Record<string, number>;

/** One row. */
export interface BenchRow {
  readonly name: string;
  readonly help: string;
  /** The figure that counts: the one that is printed first and compared. */
  readonly main: string;
  /** Measured on a stack that has moved nothing yet: memory once touched would hide what is asked for. */
  readonly fresh?: boolean;
  readonly measure: (lab: Lab, stack: RunningStack, seconds: number) => Promise<Figures> | Figures;
}

const WIDTH = 32;
const HELD_FLOWS = 2000;
/** Beyond the seconds that a measurement is told. */
const GRACE_MS = 15_000;
const HOLD_LIMIT_MS = 90_000;
const SETTLE_MS = 300;

interface IperfReport {
  readonly error?: string;
  readonly end?: {
    readonly sum_received?: { readonly bits_per_second: number; readonly bytes: number };
    readonly sum_sent?: { readonly retransmits?: number };
  };
}

/** A client's command line as a program, in the guest, or on the host when it goes to a published port. */
type Client = (argv: readonly string[], stdin?: 'pipe') => Program;

function clientOf(lab: Lab, published: boolean): Client {
  return (argv, stdin) => {
    const stdio = [stdin ?? 'ignore', 'pipe', 'pipe'] as ('ignore' | 'pipe')[];
    return published ? lab.onHost(argv, stdio) : lab.inGuest(argv, stdio);
  };
}

/** The last line of a program that prints JSON, or why there is none. */
function figuresOf(program: Program): Figures {
  const line = program.stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(program.complaint || 'the probe said nothing in time');
  return JSON.parse(line) as Figures;
}

/** @param flags of iperf3: which way, how many flows */
function bulk(flags: readonly string[], published: boolean): BenchRow['measure'] {
  return async (lab, stack, seconds) => {
    const port = String(published ? Port.PublishedBulk : Port.Bulk);
    const serve = ['iperf3', '-s', '-1', '--forceflush', '-p', port];
    const server = published ? lab.inGuest(serve) : lab.onHost([...serve, '-B', '127.0.0.1']);
    try {
      await server.says('Server listening');
      const host = published ? '127.0.0.1' : stack.host;
      const before = cpuSeconds(stack.program.pid);
      const argv = ['iperf3', '-c', host, '-p', port, '-t', String(seconds), '-J', ...flags];
      const client = clientOf(lab, published)(argv);
      const { stdout } = await lab.run(client, seconds * 1000 + GRACE_MS);
      const spent = cpuSeconds(stack.program.pid) - before;
      let report: IperfReport;
      try {
        report = JSON.parse(stdout) as IperfReport;
      } catch {
        throw new Error(`iperf3: ${client.complaint || 'nothing in time'}`);
      }
      const received = report.end?.sum_received;
      if (report.error !== undefined || received === undefined || received.bytes === 0)
        throw new Error(`iperf3: ${report.error ?? 'no byte arrived'}`);
      return {
        gbitPerSecond: received.bits_per_second / 1e9,
        cpuSecondsPerGb: spent / (received.bytes / 1e9),
        retransmits: report.end?.sum_sent?.retransmits ?? 0,
      };
    } finally {
      await server.stop();
    }
  };
}

interface ProbeOptions {
  readonly published?: boolean;
  readonly width?: number;
  readonly dns?: boolean;
}

/** A rate that our own probe measures. */
function rate(mode: string, { published = false, width, dns = false }: ProbeOptions = {}): BenchRow['measure'] {
  return async (lab, stack, seconds) => {
    const host = published ? '127.0.0.1' : dns ? stack.nameServer : stack.host;
    const port = dns ? Port.Dns : published ? Port.PublishedEcho : Port.Echo;
    const argv = [lab.probe, mode, host, String(port), String(seconds)];
    if (width !== undefined) argv.push(String(width));
    const before = cpuSeconds(stack.program.pid);
    const client = clientOf(lab, published)(argv);
    await lab.run(client, seconds * 1000 + GRACE_MS);
    const figures = figuresOf(client);
    const spent = cpuSeconds(stack.program.pid) - before;
    if (figures.perSecond === 0) throw new Error('not one answer');
    return { ...figures, cpuSeconds: spent, cpuMicrosEach: (spent * 1e6) / (figures.perSecond! * seconds) };
  };
}

/** Many flows that do nothing: what they cost in memory, and whether they still work afterwards. */
async function hold(lab: Lab, stack: RunningStack): Promise<Figures> {
  const before = residentMb(stack.program.pid);
  const argv = [lab.probe, 'hold', stack.host, String(Port.Echo), String(HELD_FLOWS)];
  const client = clientOf(lab, false)(argv, 'pipe');
  await client.says('held', HOLD_LIMIT_MS);
  await sleep(SETTLE_MS);
  const held = residentMb(stack.program.pid);
  client.child.stdin!.end('\n');
  await lab.run(client, HOLD_LIMIT_MS);
  return { growthMb: held - before, heldMb: held, wanted: HELD_FLOWS, ...figuresOf(client) };
}

const DIRECTIONS = [
  { name: 'up', flags: [] as string[], help: 'guest to host' },
  { name: 'down', flags: ['-R'], help: 'host to guest' },
];
const FLOWS = [1, 4, 32];

/** Rows in the order in which they are measured. */
export const ROWS: readonly BenchRow[] = [
  {
    name: 'start',
    help: 'from start to socket ready',
    main: 'readyMs',
    fresh: true,
    measure: (_lab, stack) => ({ readyMs: stack.readyMs }),
  },
  {
    name: 'idle',
    help: 'resident memory with a guest that has done nothing',
    main: 'residentMb',
    fresh: true,
    measure: async (_lab, stack) => {
      await sleep(SETTLE_MS);
      return { residentMb: residentMb(stack.program.pid) };
    },
  },
  {
    name: 'hold',
    help: `growth of memory with ${HELD_FLOWS} flows that do nothing`,
    main: 'growthMb',
    fresh: true,
    measure: hold,
  },
  ...FLOWS.flatMap((flows) =>
    DIRECTIONS.map(({ name, flags, help }) => ({
      name: flows === 1 ? name : `${name}${flows}`,
      help: `${help}, ${flows === 1 ? 'one flow' : `${flows} flows`}`,
      main: 'gbitPerSecond',
      measure: bulk([...flags, '-P', String(flows)], false),
    })),
  ),
  {
    name: 'pubup',
    help: 'a client on the host sends to a published port',
    main: 'gbitPerSecond',
    measure: bulk([], true),
  },
  { name: 'pubdown', help: 'a client on the host receives', main: 'gbitPerSecond', measure: bulk(['-R'], true) },
  { name: 'rr', help: 'requests one after the other on one flow', main: 'perSecond', measure: rate('rr') },
  {
    name: 'crr',
    help: `connect, one request, close; ${WIDTH} at a time`,
    main: 'perSecond',
    measure: rate('crr', { width: WIDTH }),
  },
  {
    name: 'udprr',
    help: `UDP requests, ${WIDTH} under way`,
    main: 'perSecond',
    measure: rate('udprr', { width: WIDTH }),
  },
  {
    name: 'dns',
    help: `DNS questions for new names, ${WIDTH} under way`,
    main: 'perSecond',
    measure: rate('dns', { width: WIDTH, dns: true }),
  },
  {
    name: 'pubrr',
    help: 'rr through a published port',
    main: 'perSecond',
    measure: rate('rr', { published: true }),
  },
  {
    name: 'pubcrr',
    help: 'crr through a published port',
    main: 'perSecond',
    measure: rate('crr', { published: true, width: WIDTH }),
  },
];
