// The command lines of the commands that ask a daemon: their options and arguments as a table, and reading them by it. Help and shell
// completion come from the same table.

import { parseArgs } from 'node:util';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import type { ClientCommandName } from './client-names.ts';
import { nearest } from './nearest.ts';

/** One option of a command. `value` is shown in help; without it the option is a switch. */
export interface ClientOption {
  readonly value?: string;
  readonly help: string;
  readonly short?: string;
  readonly repeatable?: true;
  /** Words that completion offers. */
  readonly words?: readonly string[];
}

/** A command line's shape. */
export interface ClientUsage {
  /** The arguments in words, like `SPEC...`. */
  readonly args: string;
  readonly min: number;
  readonly max: number;
  /** Words that completion offers as the first argument. */
  readonly words?: readonly string[];
  /** Completion offers what the daemon's forwards are called. */
  readonly completesForwards?: true;
  readonly options: Readonly<Record<string, ClientOption>>;
  readonly text: string;
}

/** Options that all of them have. */
export const COMMON_OPTIONS: Readonly<Record<string, ClientOption>> = {
  control: {
    value: 'PATH',
    help: 'Socket of the daemon, or tcp:ADDRESS:PORT. Default: ISTHMUS_CONTROL; then /run/isthmus.sock for root, $XDG_RUNTIME_DIR/isthmus.sock else.',
  },
  json: { help: 'Print JSON.' },
  help: { help: 'Print this text and end.', short: 'h' },
};

const CLIENT_MODES = ['transparent', 'gateway', 'proxy-protocol-v1', 'proxy-protocol-v2'];

/** Every command. */
export const CLIENT_USAGE: Readonly<Record<ClientCommandName, ClientUsage>> = {
  publish: {
    args: 'SPEC...',
    min: 1,
    max: 1024,
    text: 'Publishes ports of a VM, in the forms of --publish of isthmus run. Prints what listens now. The same again changes nothing.',
    options: {
      udp: { help: 'UDP where SPEC does not say.' },
      guest: { value: 'GUEST', help: 'The VM by address, MAC or host name. Default: that of SPEC, or the only VM.' },
      key: { value: 'KEY', help: 'Name for this forward. Default: what listens, like tcp:127.0.0.1:8080.' },
      owner: { value: 'NAME', help: 'Whose forward it is.' },
      label: { value: 'NAME=VALUE', help: 'A label.', repeatable: true },
      client: { value: 'MODE', help: 'Whom the guest sees as its client.', words: CLIENT_MODES },
      lease: {
        value: 'connection|DURATION|TIME',
        help: 'How long it lasts: as long as this command runs, for a time like 1h, or until a time like 2027-01-31T12:00:00Z. Default: until it is withdrawn.',
      },
      replace: { help: 'Take the place of the forward with the same key.' },
    },
  },
  unpublish: {
    args: 'ID|KEY|[ADDRESS:]PORT...',
    min: 1,
    max: 1024,
    completesForwards: true,
    text: 'Withdraws forwards by id, key or host port. Their connections go on.',
    options: {
      udp: { help: 'PORT is a UDP port.' },
      close: { help: 'End its connections too.' },
    },
  },
  ports: {
    args: '',
    min: 0,
    max: 0,
    text: 'Lists forwards: what listens, where it leads, and how many use it.',
    options: {
      quiet: { help: 'Print keys only, one a line, as unpublish takes them.', short: 'q' },
      owner: { value: 'NAME', help: "Only this owner's." },
      label: { value: 'NAME[=VALUE]', help: 'Only those with this label.' },
      state: { value: 'STATE', help: 'Only those that listen, or that failed.', words: ['listening', 'failed'] },
    },
  },
  vms: {
    args: '[disconnect|isolate|join ID]',
    min: 0,
    max: 2,
    words: ['disconnect', 'isolate', 'join'],
    text: 'Lists the VMs that are connected; disconnects one, cuts it off from the others (isolate), or lets it reach them again (join).',
    options: {},
  },
  flows: {
    args: '[kill ID...]',
    min: 0,
    max: 1024,
    words: ['kill'],
    text: 'Lists flows with live counters, or ends some.',
    options: {
      watch: { help: 'Print them again every second until interrupted.', short: 'w' },
      vm: { value: 'ID', help: 'Only of this VM.' },
      protocol: { value: 'tcp|udp', help: 'Only of this protocol.', words: ['tcp', 'udp'] },
      guest: { value: 'ADDRESS[:PORT]', help: 'Only with this end in the guest.' },
      remote: { value: 'ADDRESS[:PORT]', help: 'Only with this remote end.' },
      state: { value: 'STATE', help: 'Only in this state, like established.' },
      limit: { value: 'N', help: 'At most so many. Default: 500.' },
    },
  },
  leases: {
    args: '[remove ADDRESS]',
    min: 0,
    max: 2,
    words: ['remove'],
    text: 'Lists DHCP leases, or forgets one that nobody uses.',
    options: {},
  },
  dns: {
    args: 'add NAME ADDRESS...|remove NAME [ADDRESS]|explain NAME|list',
    min: 0,
    max: 66,
    words: ['add', 'remove', 'explain', 'list'],
    text: 'Names that VMs can resolve, at once and after a restart too; and why any name is answered as it is.',
    options: {
      zone: {
        help: 'NAME is a zone: ADDRESS answers for every name below it that has no other; remove takes the whole zone.',
      },
      ttl: { value: 'SECONDS', help: 'How long guests may keep the answer. Default: 1.' },
      type: {
        value: 'TYPE',
        help: 'With explain: the record type, like AAAA. Default: A; PTR where NAME is an address.',
      },
      replace: { help: 'With add: these addresses in place of those that the name has.' },
    },
  },
  events: {
    args: '',
    min: 0,
    max: 0,
    text: 'Prints what happens, line by line, until interrupted: VMs, forwards, leases, limits, DNS servers, sleep of the host.',
    options: {
      types: { value: 'TYPE,...', help: 'Only these types, like vm,forward.failed.' },
      count: { value: 'N', help: 'End after so many.' },
    },
  },
  capture: {
    args: '',
    min: 0,
    max: 0,
    text: 'Writes every frame from now on as pcapng, until interrupted: isthmus capture -w - | wireshark -k -i -',
    options: {
      write: { value: 'FILE|-', help: 'Where to; - is standard output.', short: 'w' },
      vm: { value: 'ID', help: 'Only of this VM.' },
      snap: { value: 'BYTES', help: 'Bytes kept of each frame. Default: all.' },
    },
  },
  status: { args: '', min: 0, max: 0, text: 'Tells how the daemon is, and how much it has to do.', options: {} },
  stop: {
    args: '',
    min: 0,
    max: 0,
    text: 'Ends the daemon, and waits until it has ended.',
    options: {
      drain: { value: 'SECONDS', help: 'Let flows end first, for so long at most; take no new ones.' },
    },
  },
  openapi: {
    args: '',
    min: 0,
    max: 0,
    text: 'Prints the OpenAPI 3.1 document of the control API. Needs no daemon.',
    options: {},
  },
  completion: {
    args: 'bash|zsh|fish',
    min: 1,
    max: 1,
    words: ['bash', 'zsh', 'fish'],
    text: 'Prints a completion script: source <(isthmus completion bash)',
    options: {},
  },
};

/** A command line, read. */
export interface ClientArgs {
  readonly args: readonly string[];
  /** Value of each option that was given; a switch has ''. */
  readonly options: Readonly<Record<string, readonly string[]>>;
}

/** @throws OperatorError (64) */
export function parseClientArgs(name: ClientCommandName, argv: readonly string[]): ClientArgs {
  const usage = CLIENT_USAGE[name];
  const known = { ...usage.options, ...COMMON_OPTIONS };
  const options: Record<string, { type: 'string' | 'boolean'; short?: string }> = {};
  for (const [key, { value, short }] of Object.entries(known)) {
    options[key] = { type: value === undefined ? 'boolean' : 'string', ...(short === undefined ? {} : { short }) };
  }
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  const args: string[] = [];
  const given: Record<string, string[]> = {};
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue;
    if (token.kind === 'positional') {
      args.push(token.value);
      continue;
    }
    const option = Object.hasOwn(known, token.name) ? known[token.name] : undefined;
    if (option === undefined) {
      const near = nearest(token.rawName.replace(/^--?/, ''), Object.keys(known));
      const hint = near === undefined ? `isthmus ${name} --help lists all` : `did you mean --${near}?`;
      throw usageError(`${token.rawName} is not a flag of isthmus ${name}; ${hint}`);
    }
    given[token.name] = [...(given[token.name] ?? []), textOf(token, option)];
    if (given[token.name]!.length > 1 && option.repeatable !== true && option.value !== undefined)
      throw usageError(`${token.rawName} is given ${given[token.name]!.length} times; expected it once`);
  }
  if (given.help !== undefined) return { args, options: given };
  if (args.length < usage.min || args.length > usage.max) {
    const expected = usage.args === '' ? 'no arguments' : usage.args;
    const wrong = args.length < usage.min ? 'something is missing' : `"${args[usage.max]}" is too much`;
    throw usageError(`${name}: ${wrong}; expected ${expected}`);
  }
  return { args, options: given };
}

function textOf(
  token: { readonly rawName: string; readonly value?: string | undefined; readonly inlineValue?: boolean | undefined },
  { value }: ClientOption,
): string {
  const text = token.value;
  if (value === undefined) {
    if (text !== undefined) throw usageError(`${token.rawName} takes no value; expected ${token.rawName} alone`);
    return '';
  }
  if (text === undefined || (!token.inlineValue && text.startsWith('-') && text.length > 1))
    throw usageError(`${token.rawName} has no value; expected ${token.rawName} ${value}`);
  return text;
}

/** A mistake in a command line. */
export function usageError(message: string): OperatorError {
  return new OperatorError(message, { code: 'ERR_USAGE_ARGUMENT', exitCode: ExitCode.Usage });
}
