// What is measured: one function for each kind of row, from a running stack to figures. Every figure is a number with its unit in
// its name; a case that comes to nothing throws, with one line that says what happened.

import { setTimeout as sleep } from 'node:timers/promises';
import { type Lab, Port, type Program } from './lab.ts';
import { cpuNanoseconds, cpuSeconds, residentMb } from './process-tree.ts';
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
  /** Leaves memory touched, so that no other fresh row may follow on the same stack. */
  readonly fills?: boolean;
  readonly measure: (lab: Lab, stack: RunningStack, seconds: number) => Promise<Figures> | Figures;
}

const WIDTH = 32;
/** Beyond the seconds that a measurement is told. */
const GRACE_MS = 15_000;
const HOLD_LIMIT_MS = 90_000;
const SETTLE_MS = 300;
/** Seconds that a transfer goes on before and after what is measured beside it. */
const MARGIN_SECONDS = 2;
/** Connections that were closed a moment ago are given this long to be forgotten. */
const FORGET_MS = 1000;

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
  /** Look at the memory that is left when it is over. */
  readonly memory?: boolean;
}

/** A rate that our own probe measures. */
function rate(mode: string, options: ProbeOptions = {}): BenchRow['measure'] {
  const { published = false, width, dns = false, memory = false } = options;
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
    const found = { ...figures, cpuSeconds: spent, cpuMicrosEach: (spent * 1e6) / (figures.perSecond! * seconds) };
    if (!memory) return found;
    await sleep(FORGET_MS);
    return { ...found, afterMb: residentMb(stack.program.pid) };
  };
}

/** Many flows that do nothing: what they cost in memory, and whether they still work afterwards. */
function hold(flows: number): BenchRow['measure'] {
  return async (lab, stack) => {
    const before = residentMb(stack.program.pid);
    const argv = [lab.probe, 'hold', stack.host, String(Port.Echo), String(flows)];
    const client = clientOf(lab, false)(argv, 'pipe');
    await client.says('held', HOLD_LIMIT_MS);
    await sleep(SETTLE_MS);
    const held = residentMb(stack.program.pid);
    client.child.stdin!.end('\n');
    await lab.run(client, HOLD_LIMIT_MS);
    return { growthMb: held - before, heldMb: held, wanted: flows, ...figuresOf(client) };
  };
}

/** Memory, and the CPU time of doing nothing, in percent of one core. */
async function idle(_lab: Lab, stack: RunningStack, seconds: number): Promise<Figures> {
  await sleep(SETTLE_MS);
  const { pid } = stack.program;
  const before = cpuNanoseconds(pid);
  const begun = performance.now();
  await sleep(seconds * 1000);
  const idlePercent = (cpuNanoseconds(pid) - before) / (performance.now() - begun) / 1e4;
  return { residentMb: residentMb(pid), idlePercent };
}

/** One byte there and back, again and again, while a transfer takes all that it can get. @param flags of iperf3 */
function echoBeside(flags: readonly string[]): BenchRow['measure'] {
  return async (lab, stack, seconds) => {
    const port = String(Port.Bulk);
    const server = lab.onHost(['iperf3', '-s', '-1', '--forceflush', '-p', port, '-B', '127.0.0.1']);
    const whole = seconds + 2 * MARGIN_SECONDS;
    try {
      await server.says('Server listening');
      const bulkArgv = [
        'iperf3',
        '-c',
        stack.host,
        '-p',
        port,
        '-t',
        String(whole),
        '-f',
        'k',
        '--forceflush',
        ...flags,
      ];
      const transfer = lab.inGuest(bulkArgv);
      // The first second is over: it is under way.
      await transfer.says('bits/sec');
      const client = lab.inGuest([lab.probe, 'rr', stack.host, String(Port.Echo), String(seconds), '1']);
      await lab.run(client, seconds * 1000 + GRACE_MS);
      const figures = figuresOf(client);
      if (!transfer.running) throw new Error(`the transfer ended too early: ${transfer.complaint}`);
      const { stdout } = await lab.run(transfer, whole * 1000 + GRACE_MS);
      const kbits = Number(/ ([\d.]+) Kbits\/sec[^\n]*receiver/.exec(stdout)?.[1] ?? 0);
      if (kbits === 0) throw new Error(`iperf3: ${transfer.complaint || 'no byte arrived'}`);
      return { ...figures, gbitPerSecond: kbits / 1e6 };
    } finally {
      await server.stop();
    }
  };
}

const DIRECTIONS = [
  { name: 'up', flags: [] as string[], help: 'guest to host' },
  { name: 'down', flags: ['-R'], help: 'host to guest' },
];
const FLOWS = [1, 4, 32];
const HELD = [
  ['hold', 2000],
  ['hold10k', 10_000],
] as const;

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
    help: 'resident memory and CPU time with a guest that does nothing',
    main: 'residentMb',
    fresh: true,
    measure: idle,
  },
  ...HELD.map(([name, flows]) => ({
    name,
    help: `growth of memory with ${flows} flows that do nothing`,
    main: 'growthMb',
    fresh: true,
    fills: true,
    measure: hold(flows),
  })),
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
  ...DIRECTIONS.map(({ name, flags, help }) => ({
    name: `echo${name}`,
    help: `1-byte echoes beside a transfer ${help} on another flow`,
    main: 'p99Us',
    measure: echoBeside(flags),
  })),
  {
    name: 'crr',
    help: `connect, one request, close; ${WIDTH} at a time`,
    main: 'perSecond',
    measure: rate('crr', { width: WIDTH, memory: true }),
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
    name: 'dnscached',
    help: `DNS questions for the same 64 names, ${WIDTH} under way`,
    main: 'perSecond',
    measure: rate('dnscached', { width: WIDTH, dns: true }),
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
    measure: rate('crr', { published: true, width: WIDTH, memory: true }),
  },
];
