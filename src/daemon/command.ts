// Runs one command line: parses it, does what it asks, turns every error into one line and an exit code.

import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { parseCommand } from './cli.ts';
import { isClientCommand } from './client-names.ts';
import { loadConfig } from './config.ts';
import { type DaemonDeps, errorLine, runDaemon } from './life-cycle.ts';
import { readVersion } from './version.ts';

/** What `run` is given, see DaemonDeps. */
export type RunDeps = Omit<DaemonDeps, 'version'>;

/**
 * Runs `isthmus` with these arguments.
 * @returns the exit code, once output has been handed over; `run` ends the process itself, whatever is still open.
 */
export async function runCommand(argv: readonly string[], deps: RunDeps): Promise<number> {
  // A reader that goes away (`isthmus --help | head -1`) is not an error of ours, nor a reason to end a VM's network.
  process.stderr.on('error', () => {});
  try {
    const command = parseCommand(argv);
    switch (command.kind) {
      case 'help': {
        const { topic } = command;
        if (topic !== undefined && isClientCommand(topic)) {
          const { clientHelpText } = await import('./client-help.ts');
          return print(clientHelpText(topic));
        }
        const { helpText } = await import('./help.ts');
        return print(helpText(topic));
      }
      case 'client': {
        const { runClient } = await import('./client-commands.ts');
        const code = await runClient(command.name, command.args, process.env, readVersion());
        return await exitAfterOutput(code);
      }
      case 'version': {
        const version = readVersion();
        const { platform, arch, versions } = process;
        return print(
          command.json
            ? `${JSON.stringify({ version, node: versions.node, platform, arch })}\n`
            : `isthmus ${version}\n`,
        );
      }
      case 'run': {
        const loaded = await loadConfig({
          flags: command.flags,
          env: process.env,
          uid: process.getuid?.() ?? -1,
          vmOptional: command.printConfig,
        });
        if (command.printConfig) {
          for (const warning of loaded.warnings) process.stderr.write(`isthmus: ${warning}\n`);
          const { configAsJson, configAsYaml } = await import('./config-print.ts');
          return print(command.json ? configAsJson(loaded.entries) : configAsYaml(loaded.entries));
        }
        const code = await runDaemon(loaded, { ...deps, version: readVersion() });
        return process.exit(code);
      }
    }
  } catch (error) {
    // With --json whoever reads standard output is told there, also that there is no such command.
    if (error instanceof OperatorError && error.code === 'ERR_USAGE_COMMAND' && argv.includes('--json')) {
      const { failureJson } = await import('./client-failure.ts');
      print(failureJson(error));
    }
    const { line, exitCode } = errorLine(error);
    await new Promise<void>((resolve) => process.stderr.write(line, () => resolve()));
    return process.exit(exitCode);
  }
}

/** Ends once standard output has been taken, whatever is still open. */
async function exitAfterOutput(code: number): Promise<never> {
  await new Promise<void>((resolve) => process.stdout.write('', () => resolve()));
  return process.exit(code);
}

function print(text: string): number {
  process.stdout.on('error', () => {});
  process.stdout.write(text);
  return ExitCode.Ok;
}
