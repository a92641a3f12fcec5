// The text of --help, from the tables of commands and options.

import { ExitCode } from '../host/exit-code.ts';
import { COMMANDS, type CommandName, RUN_SWITCHES } from './cli.ts';
import { envNameOf, OPTION_NAMES, OPTIONS, type OptionName } from './config-schema.ts';
import type { OptionGroup } from './option-spec.ts';

const WIDTH = 100;
const INDENT = '      ';

/** The text of `isthmus --help` (no topic) or of one command. */
export function helpText(topic: CommandName | undefined): string {
  switch (topic) {
    case 'run':
      return runHelp();
    case 'version':
      return 'Usage: isthmus version [--json]\n\nPrints the version of isthmus, and with --json those of Node.js and the platform.\n';
    default:
      return generalHelp();
  }
}

function generalHelp(): string {
  const commands = Object.entries(COMMANDS).map(([name, what]) => `  ${name.padEnd(11)} ${what}`);
  return `Usage: isthmus COMMAND [OPTIONS]

isthmus gives a VM its whole network through ordinary sockets of the host.

Commands:
${commands.join('\n')}

A VM on the socket /run/vm.sock, its port 80 published on the host:
  isthmus run --vm qemu:/run/vm.sock --publish 127.0.0.1:8080:80

Another one while it runs:
  isthmus publish --control /run/isthmus.sock 127.0.0.1:2222:22

isthmus COMMAND --help lists the options of each; the manual page isthmus(1) explains them.
`;
}

function runHelp(): string {
  const groups = new Map<OptionGroup, OptionName[]>();
  for (const name of OPTION_NAMES) groups.set(OPTIONS[name].group, [...(groups.get(OPTIONS[name].group) ?? []), name]);
  const lines = [
    'Usage: isthmus run --vm URL [OPTIONS]',
    '',
    ...wrap(
      'Runs the daemon in the foreground until SIGTERM or SIGINT. SIGHUP reads resolver and hosts files again.',
      '',
    ),
    '',
    ...wrap(
      'Each option may also be set by its environment variable or in the file of --config; a flag goes before the environment, that before the file, that before the default. A list given by one of them replaces that of the next.',
      '',
    ),
  ];
  for (const [group, names] of groups) {
    lines.push('', `${group}:`);
    for (const name of names) lines.push(...optionLines(name));
  }
  lines.push('', 'Other:');
  for (const [name, help] of Object.entries(RUN_SWITCHES))
    lines.push(`  --${name}${name === 'help' ? ', -h' : ''}`, ...wrap(help, INDENT));
  lines.push('', 'Exit codes', ...EXIT_LINES.map(([code, meaning]) => `  ${String(code).padEnd(4)}${meaning}`));
  return `${lines.join('\n')}\n`;
}

const EXIT_LINES: readonly (readonly [ExitCode, string])[] = [
  [ExitCode.Ok, 'ended as asked'],
  [ExitCode.Unexpected, 'a mistake of isthmus itself, or ended by a second signal'],
  [ExitCode.Usage, 'unknown command or flag, or a flag with a wrong value'],
  [ExitCode.Refused, 'the daemon refused what a command asked of it'],
  [ExitCode.NoInput, 'a file that an option names cannot be read'],
  [ExitCode.Unavailable, 'a socket, port or pid file is held by somebody else; or no daemon answers a command'],
  [ExitCode.CannotCreate, 'a socket, pid file, capture or state directory cannot be made'],
  [ExitCode.Config, 'a wrong value in the environment or the file, or values that contradict each other'],
];

function optionLines(name: OptionName): string[] {
  const { placeholder, repeatable, help, defaultText } = OPTIONS[name];
  const flag = `  --${name}${placeholder === '' ? '' : ` ${placeholder}`}`;
  const facts = [repeatable ? 'Repeatable.' : '', `Default: ${defaultText}.`, `Environment: ${envNameOf(name)}.`];
  return [flag, ...wrap(help, INDENT), ...wrap(facts.filter((fact) => fact !== '').join(' '), INDENT)];
}

/** Breaks a text at blanks so that no line with its indent is wider than WIDTH. */
export function wrap(text: string, indent: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent.length + line.length + 1 + word.length > WIDTH) {
      lines.push(indent + line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  lines.push(indent + line);
  return lines;
}
