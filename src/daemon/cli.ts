// From the command line to a Command: which subcommand, and the flags as text. What a flag's value means is config's business.
//
// node:util's parseArgs does the splitting. Its strict mode would refuse the same things, but in words that name no remedy and
// may take two lines; so its tokens are checked here, by the same rules.

import { parseArgs } from 'node:util';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { CLIENT_COMMANDS, type ClientCommandName, isClientCommand } from './client-names.ts';
import { isOptionName, OPTION_NAMES, OPTIONS, type OptionName } from './config-schema.ts';
import type { GivenValue, GivenValues } from './given-value.ts';
import { nearest } from './nearest.ts';

/** What a command line asks for. */
export type Command =
  | { readonly kind: 'help'; readonly topic: CommandName | undefined }
  | { readonly kind: 'version'; readonly json: boolean }
  | { readonly kind: 'client'; readonly name: ClientCommandName; readonly args: readonly string[] }
  | { readonly kind: 'run'; readonly flags: GivenValues; readonly printConfig: boolean; readonly json: boolean };

export type CommandName = 'run' | ClientCommandName | 'version' | 'help';

/** The subcommands, with their line in --help. */
export const COMMANDS: Readonly<Record<CommandName, string>> = {
  run: 'run the daemon in the foreground',
  ...CLIENT_COMMANDS,
  version: 'print the version',
  help: 'print this text, or the options of a command',
};

/** Switches of `run` that are not configuration. */
export const RUN_SWITCHES = {
  'print-config': 'Print every option with its value and where it came from, as a file that --config takes, and end.',
  json: 'With --print-config: print JSON.',
  help: 'Print this text and end.',
} as const;

const COMMAND_NAMES = Object.keys(COMMANDS) as CommandName[];

/** @param argv without the program's own name. @throws OperatorError, exit code 64. */
export function parseCommand(argv: readonly string[]): Command {
  const [word, ...rest] = argv;
  if (word === undefined)
    throw usage('no command is given; expected isthmus run --vm URL, or isthmus --help', 'ERR_USAGE_COMMAND');
  switch (word) {
    case '--help':
    case '-h':
      return { kind: 'help', topic: undefined };
    case '--version':
    case '-V':
      return { kind: 'version', json: onlyJson('--version', rest) };
    case 'version':
      return rest.some(isHelp)
        ? { kind: 'help', topic: 'version' }
        : { kind: 'version', json: onlyJson('version', rest) };
    case 'help':
      return { kind: 'help', topic: helpTopic(rest) };
    case 'run':
      return parseRun(rest);
    default: {
      if (isClientCommand(word)) return { kind: 'client', name: word, args: rest };
      if (word.startsWith('-')) {
        const name = word.replace(/^--?/, '').replace(/=.*/s, '');
        const hint = isOptionName(name) ? `options follow the command: isthmus run ${word}` : 'see isthmus --help';
        throw usage(`${word} stands where a command belongs; ${hint}`, 'ERR_USAGE_COMMAND');
      }
      const near = nearest(word, COMMAND_NAMES);
      throw usage(
        `"${word}" is not a command; ${near === undefined ? `expected one of ${COMMAND_NAMES.join(', ')}` : `did you mean ${near}?`}`,
        'ERR_USAGE_COMMAND',
      );
    }
  }
}

function isHelp(word: string): boolean {
  return word === '--help' || word === '-h';
}

function onlyJson(command: string, rest: readonly string[]): boolean {
  const other = rest.find((word) => word !== '--json');
  if (other !== undefined)
    throw usage(`${command}: "${other}" does not belong here; expected --json or nothing`, 'ERR_USAGE_FLAG');
  return rest.length > 0;
}

function helpTopic(rest: readonly string[]): CommandName | undefined {
  const [topic, more] = rest.filter((word) => !isHelp(word));
  if (topic === undefined) return undefined;
  const name = COMMAND_NAMES.find((command) => command === topic);
  if (name === undefined || more !== undefined) {
    throw usage(
      `help: "${more ?? topic}" is not a command; expected one of ${COMMAND_NAMES.join(', ')}`,
      'ERR_USAGE_COMMAND',
    );
  }
  return name;
}

function parseRun(args: readonly string[]): Command {
  const options: Record<string, { type: 'string' | 'boolean'; short?: string }> = {
    help: { type: 'boolean', short: 'h' },
  };
  for (const name of OPTION_NAMES) options[name] = { type: OPTIONS[name].placeholder === '' ? 'boolean' : 'string' };
  options['print-config'] = { type: 'boolean' };
  options.json = { type: 'boolean' };
  const { tokens } = parseArgs({ args: [...args], options, strict: false, tokens: true });

  const flags = new Map<OptionName, GivenValue>();
  const switches = new Set<string>();
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue;
    if (token.kind === 'positional') {
      throw usage(
        `"${token.value}" is not a flag; isthmus run takes flags only, like --vm qemu:/run/vm.sock`,
        'ERR_USAGE_ARGUMENT',
      );
    }
    const { name, rawName, value, inlineValue } = token;
    if (Object.hasOwn(RUN_SWITCHES, name)) {
      if (value !== undefined) throw usage(`${rawName} takes no value; expected ${rawName} alone`, 'ERR_USAGE_FLAG');
      switches.add(name);
    } else if (isOptionName(name)) {
      flags.set(name, withValue(flags.get(name), name, rawName, value, inlineValue === true));
    } else {
      throw unknownFlag(rawName);
    }
  }
  if (switches.has('help')) return { kind: 'help', topic: 'run' };
  const printConfig = switches.has('print-config');
  if (switches.has('json') && !printConfig)
    throw usage('--json belongs to --print-config; add it, or leave --json out', 'ERR_USAGE_FLAG');
  return { kind: 'run', flags, printConfig, json: switches.has('json') };
}

function withValue(
  before: GivenValue | undefined,
  name: OptionName,
  rawName: string,
  value: string | undefined,
  inline: boolean,
): GivenValue {
  const { placeholder } = OPTIONS[name];
  let text = value;
  if (placeholder === '') text ??= 'true';
  else if (text === undefined || (!inline && text.startsWith('-') && text.length > 1)) {
    const instead = text === undefined ? '' : ` (${text} follows; if that is meant, write ${rawName}=${text})`;
    throw usage(`${name} (${rawName}): has no value${instead}; expected ${rawName} ${placeholder}`, 'ERR_USAGE_FLAG');
  }
  return { texts: [...(before?.texts ?? []), text], source: { kind: 'flag', label: rawName } };
}

function unknownFlag(rawName: string): OperatorError {
  const word = rawName.replace(/^--?/, '');
  const near = nearest(word, [...OPTION_NAMES, ...Object.keys(RUN_SWITCHES)]);
  const hint = near === undefined ? 'isthmus run --help lists all' : `did you mean --${near}?`;
  return usage(`${rawName} is not a flag of isthmus run; ${hint}`, 'ERR_USAGE_FLAG');
}

function usage(message: string, code: string): OperatorError {
  return new OperatorError(message, { code, exitCode: ExitCode.Usage });
}
