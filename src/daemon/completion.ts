// Completion scripts for bash, zsh and fish, from the tables of commands and options. They call isthmus for one thing only: what the running
// daemon's forwards are called, for unpublish. Such names come from other programs, so no shell may expand them.

import { COMMANDS, RUN_SWITCHES } from './cli.ts';
import { CLIENT_USAGE, COMMON_OPTIONS, usageError } from './client-args.ts';
import type { ClientCommandName } from './client-names.ts';
import { OPTION_NAMES, OPTIONS } from './config-schema.ts';

interface Flag {
  readonly name: string;
  readonly help: string;
  readonly takesValue: boolean;
  readonly words: readonly string[];
}

interface CompletedCommand {
  readonly name: string;
  readonly help: string;
  readonly words: readonly string[];
  /** Arguments are forwards of the daemon. */
  readonly forwards: boolean;
  readonly flags: readonly Flag[];
}

/** @throws OperatorError (64) for another shell. */
export function completionScript(shell: string): string {
  switch (shell) {
    case 'bash':
      return bash(commands());
    case 'zsh':
      return zsh(commands());
    case 'fish':
      return fish(commands());
    default:
      throw usageError(`completion: "${shell}" is unknown; expected bash, zsh or fish`);
  }
}

function commands(): CompletedCommand[] {
  return Object.entries(COMMANDS).map(([name, help]) => ({
    name,
    help,
    words: wordsOf(name),
    forwards: Object.hasOwn(CLIENT_USAGE, name) && CLIENT_USAGE[name as ClientCommandName].completesForwards === true,
    flags: flagsOf(name),
  }));
}

function wordsOf(name: string): readonly string[] {
  if (name === 'help') return Object.keys(COMMANDS);
  return Object.hasOwn(CLIENT_USAGE, name) ? (CLIENT_USAGE[name as ClientCommandName].words ?? []) : [];
}

function flagsOf(name: string): Flag[] {
  if (name === 'run') {
    const options = OPTION_NAMES.map((option) => {
      const { placeholder, help } = OPTIONS[option];
      return { name: option, help, takesValue: placeholder !== '', words: [] };
    });
    const switches = Object.entries(RUN_SWITCHES).map(([s, help]) => ({ name: s, help, takesValue: false, words: [] }));
    return [...options, ...switches];
  }
  if (!Object.hasOwn(CLIENT_USAGE, name)) return [{ name: 'json', help: 'Print JSON.', takesValue: false, words: [] }];
  const all = { ...CLIENT_USAGE[name as ClientCommandName].options, ...COMMON_OPTIONS };
  return Object.entries(all).map(([option, { value, help, words }]) => ({
    name: option,
    help,
    takesValue: value !== undefined,
    words: words ?? [],
  }));
}

/** The first sentence, for the lists that shells show. */
function brief(help: string): string {
  return help.split(/(?<=[.;:])\s/)[0]!.replace(/[.;:]$/, '');
}

/** Keys of the daemon's forwards, and the ports of those that are one TCP port, a line each. */
const FORWARDS = "2>/dev/null | sed -n 'p; s/^tcp:.*:\\([0-9]*\\)$/\\1/p'";

function bash(all: readonly CompletedCommand[]): string {
  const values = new Map<string, readonly string[]>();
  for (const { flags } of all) for (const f of flags) if (f.takesValue) values.set(`--${f.name}`, f.words);
  const withWords = [...values].filter(([, words]) => words.length > 0);
  const without = [...values].filter(([, words]) => words.length === 0).map(([name]) => name);
  return `# bash completion for isthmus: source <(isthmus completion bash)
# Keys have colons in them, at which readline may break words: what stands before the last one is not given again.
_isthmus_forwards() {
  local line=\${COMP_LINE:0:COMP_POINT} head= key word args=()
  word=\${line##*[[:space:]]}
  [[ $line =~ --control[=[:space:]]+([^[:space:]]+) ]] && args=(--control "\${BASH_REMATCH[1]}")
  [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && head=\${word%"\${word##*:}"}
  COMPREPLY=()
  while IFS= read -r key; do
    [[ $key == "$word"* ]] && printf -v key %q "\${key#"$head"}" && COMPREPLY+=("$key")
  done < <(isthmus ports --quiet "\${args[@]}" ${FORWARDS})
}
_isthmus() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]}
  case $prev in
${withWords.map(([name, words]) => `    ${name}) COMPREPLY=($(compgen -W '${words.join(' ')}' -- "$cur")); return;;`).join('\n')}
    ${without.join('|')}) COMPREPLY=($(compgen -f -- "$cur")); return;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${all.map((c) => c.name).join(' ')} --help --version' -- "$cur"))
    return
  fi
  case \${COMP_WORDS[1]} in
${all
  .map(
    ({ name, words, forwards, flags }) =>
      `    ${name})
      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W '${flags.map((f) => `--${f.name}`).join(' ')}' -- "$cur"))
      else ${forwards ? '_isthmus_forwards' : `COMPREPLY=($(compgen -W '${words.join(' ')}' -- "$cur"))`}; fi;;`,
  )
  .join('\n')}
  esac
}
complete -o default -F _isthmus isthmus
`;
}

function zsh(all: readonly CompletedCommand[]): string {
  const quote = (text: string): string => text.replaceAll("'", "'\\''").replace(/[[\]:]/g, '\\$&');
  return `#compdef isthmus
# zsh completion for isthmus: source <(isthmus completion zsh)
_isthmus_forwards() {
  local -a keys args
  local at=\${words[(I)--control]}
  (( at > 0 && at < CURRENT )) && args=(--control "\${(Q)words[at+1]}")
  keys=(\${(f)"$(isthmus ports --quiet $args ${FORWARDS})"})
  compadd -a keys
}
_isthmus() {
  local -a commands
  commands=(
${all.map((c) => `    '${c.name}:${quote(c.help)}'`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case \${words[2]} in
${all
  .map(({ name, words, forwards, flags }) => {
    const specs = flags.map((f) => {
      const value = f.words.length > 0 ? `:value:(${f.words.join(' ')})` : ':value:_files';
      return `'--${f.name}[${quote(brief(f.help))}]${f.takesValue ? value : ''}'`;
    });
    const values = forwards ? '_isthmus_forwards' : words.length > 0 ? `(${words.join(' ')})` : '_files';
    const rest = `'*:argument:${values}'`;
    return `    ${name}) _arguments ${[...specs, rest].join(' ')};;`;
  })
  .join('\n')}
  esac
}
compdef _isthmus isthmus
`;
}

function fish(all: readonly CompletedCommand[]): string {
  const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const lines = [
    '# fish completion for isthmus: isthmus completion fish | source',
    'complete -c isthmus -e',
    ...all.map((c) => `complete -c isthmus -n __fish_use_subcommand -f -a ${c.name} -d ${quote(c.help)}`),
  ];
  for (const { name, words, forwards, flags } of all) {
    const when = quote(`__fish_seen_subcommand_from ${name}`);
    if (forwards) lines.push(`complete -c isthmus -n ${when} -f -a ${quote(`(isthmus ports --quiet ${FORWARDS})`)}`);
    if (words.length > 0) lines.push(`complete -c isthmus -n ${when} -f -a ${quote(words.join(' '))}`);
    for (const f of flags) {
      const value = f.words.length > 0 ? ` -x -a ${quote(f.words.join(' '))}` : f.takesValue ? ' -r' : '';
      lines.push(`complete -c isthmus -n ${when} -l ${f.name}${value} -d ${quote(brief(f.help))}`);
    }
  }
  return `${lines.join('\n')}\n`;
}
