// The --help of the commands that ask a running daemon, from the table of their command lines.

import { CLIENT_USAGE, type ClientOption, COMMON_OPTIONS } from './client-args.ts';
import type { ClientCommandName } from './client-names.ts';
import { wrap } from './help.ts';

const INDENT = '      ';

export function clientHelpText(name: ClientCommandName): string {
  const { args, text, options } = CLIENT_USAGE[name];
  const lines = [
    `Usage: isthmus ${name} [OPTIONS]${args === '' ? '' : ` ${args}`}`,
    '',
    ...wrap(text, ''),
    '',
    'Options:',
  ];
  for (const [option, spec] of Object.entries({ ...options, ...COMMON_OPTIONS }))
    lines.push(...optionLines(option, spec));
  return `${lines.join('\n')}\n`;
}

function optionLines(name: string, { value, help, short, repeatable, words }: ClientOption): string[] {
  const flag = `  --${name}${value === undefined ? '' : ` ${value}`}${short === undefined ? '' : `, -${short}`}`;
  const facts = [
    help,
    repeatable === true ? 'Repeatable.' : '',
    words === undefined ? '' : `One of ${words.join(', ')}.`,
  ];
  return [flag, ...wrap(facts.filter((fact) => fact !== '').join(' '), INDENT)];
}
