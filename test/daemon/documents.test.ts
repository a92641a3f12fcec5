// The man page and docs/configuration.md name every option, variable, exit code and command.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { COMMANDS, parseCommand, RUN_SWITCHES } from '../../src/daemon/cli.ts';
import { CLIENT_USAGE } from '../../src/daemon/client-args.ts';
import { loadConfig } from '../../src/daemon/config.ts';
import { envNameOf, OPTION_NAMES, OPTIONS } from '../../src/daemon/config-schema.ts';
import { helpText } from '../../src/daemon/help.ts';
import { ExitCode } from '../../src/host/exit-code.ts';
import { OperatorError } from '../../src/host/operator-error.ts';

function read(path: string): string {
  return readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');
}

/** Roff writes a hyphen that is a minus as `\-`. */
const man = read('man/isthmus.1').replaceAll('\\-', '-');
const guide = read('docs/configuration.md');

t.test('every option has its place in the man page', (t) => {
  for (const name of OPTION_NAMES) {
    const { placeholder } = OPTIONS[name];
    const heading = placeholder === '' ? `.B --${name}\n` : `.BI --${name} " ${placeholder}"\n`;
    t.ok(man.includes(heading), heading.trim());
    t.ok(man.includes(envNameOf(name)), envNameOf(name));
  }
  for (const name of Object.keys(RUN_SWITCHES)) t.match(man, new RegExp(`^\\.B.* ?--${name}`, 'm'), name);
  for (const name of Object.keys(COMMANDS))
    t.match(man, new RegExp(`^\\.B isthmus ${name}|^\\.SS isthmus ${name}`, 'm'), name);
  t.end();
});

t.test('the man page names no option that does not exist', (t) => {
  const ofCommands = Object.values(CLIENT_USAGE).flatMap(({ options }) => Object.keys(options));
  const known = new Set<string>([...OPTION_NAMES, ...Object.keys(RUN_SWITCHES), ...ofCommands, 'version']);
  for (const [, name] of man.matchAll(/^\.BI? --([a-z-]+)/gm)) t.ok(known.has(name!), `--${name}`);
  t.end();
});

t.test('every option has its section in docs/configuration.md: flag, variable, key, default, example', (t) => {
  for (const name of OPTION_NAMES) {
    const section = guide.split(/^### /m).find((part) => part.startsWith(`\`${name}\`\n`));
    if (section === undefined) {
      t.fail(`${name} has no section`);
      continue;
    }
    t.ok(section.includes(`| flag | \`--${name}`), `${name}: flag`);
    t.ok(section.includes(`| environment | \`${envNameOf(name)}`), `${name}: variable`);
    t.ok(section.includes('| file | '), `${name}: key`);
    t.ok(section.includes('| default | '), `${name}: default`);
    const literal = OPTIONS[name].default({ env: {}, uid: 1000, network: undefined, gateway: undefined });
    if (literal === OPTIONS[name].defaultText)
      t.ok(section.includes(`| default | \`${literal}\``), `${name}: ${literal}`);
  }
  t.end();
});

t.test('the examples of docs/configuration.md are right', async (t) => {
  const dir = t.testdir();
  for (const name of OPTION_NAMES) {
    const section = guide.split(/^### /m).find((part) => part.startsWith(`\`${name}\`\n`)) ?? '';
    const [flag, variable, file] = /^```\nisthmus run \.\.\. (.*)\n(.*)\n(.*)\n?```$/m.exec(section)?.slice(1) ?? [];
    const command = parseCommand(['run', ...(flag ?? '').split(' ')]);
    const equals = variable?.indexOf('=') ?? -1;
    const env = { [variable!.slice(0, equals)]: variable!.slice(equals + 1) };
    writeFileSync(join(dir, 'f.yaml'), name === 'config' ? '' : `${file}\n`);
    const config = new Map([
      ['config' as const, { texts: [join(dir, 'f.yaml')], source: { kind: 'flag' as const, label: '--config' } }],
    ]);
    const inputs = {
      flag: { flags: command.kind === 'run' ? command.flags : new Map(), env: {} },
      env: { flags: new Map(), env },
      file: { flags: config, env: {} },
    };
    for (const [kind, input] of Object.entries(inputs)) {
      try {
        const { entries } = await loadConfig({ ...input, uid: 1000, vmOptional: true });
        if (name !== 'config')
          t.equal(entries.find((entry) => entry.name === name)?.source.kind, kind, `${name}: ${kind}`);
      } catch (error) {
        // Files of the examples need not be on this machine; a gateway belongs to the network of its own example.
        const message = error instanceof OperatorError ? error.message : '';
        // Some belong together: a token and the port that asks for it.
        const alone = /does not exist|is not inside the network|there is no token|there is no --control-tcp/;
        t.match(message, alone, `${name}: ${kind}`);
      }
    }
  }
});

t.test('every exit code is in both', (t) => {
  for (const code of Object.values(ExitCode)) {
    t.ok(man.includes(`\n.B ${code}\n`), `man: ${code}`);
    t.ok(guide.includes(`| ${code} |`), `guide: ${code}`);
  }
  t.end();
});

t.test('--help names every option, and no line is wider than 100', (t) => {
  const help = helpText('run');
  for (const name of OPTION_NAMES) {
    t.match(help, new RegExp(`^ {2}--${name}( |$)`, 'm'));
    t.ok(help.includes(envNameOf(name)));
  }
  for (const topic of [undefined, 'run', 'version', 'help'] as const) {
    for (const line of helpText(topic).split('\n')) t.ok(line.length <= 100, line);
  }
  t.end();
});
