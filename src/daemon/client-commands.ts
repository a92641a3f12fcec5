// Runs one of the commands that ask a running daemon: reads its command line, finds the daemon, calls the command. Loaded when one of them
// is called, so that `isthmus run` starts without it.

import { ControlClient, findControl } from '../control/client.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { type ClientArgs, parseClientArgs } from './client-args.ts';
import { capture, events, status, stop } from './client-daemon.ts';
import { failureJson, failureLines } from './client-failure.ts';
import type { ClientCommandName } from './client-names.ts';
import { dns, flows, leases, vms } from './client-network.ts';
import type { ClientOutput } from './client-output.ts';
import { ports, publish, unpublish } from './client-publish.ts';

type Command = (client: ControlClient, args: ClientArgs, out: ClientOutput) => Promise<number>;

const COMMANDS: Readonly<Record<Exclude<ClientCommandName, 'openapi' | 'completion'>, Command>> = {
  publish,
  unpublish,
  ports,
  vms,
  flows,
  leases,
  dns,
  events,
  capture,
  status,
  stop,
};

/** @returns the exit code, once errors were told. @throws what is no OperatorError */
export async function runClient(
  name: ClientCommandName,
  argv: readonly string[],
  env: NodeJS.ProcessEnv,
  version: string,
): Promise<number> {
  const { stdout, stderr } = process;
  // A reader that goes away (`isthmus flows | head`) is no error.
  stdout.on('error', () => process.exit(ExitCode.Ok));
  let args: ClientArgs | undefined;
  try {
    args = parseClientArgs(name, argv);
    return await run(name, args, env, version);
  } catch (error) {
    if (wantsJson(name, args, argv)) stdout.write(failureJson(error));
    if (!(error instanceof OperatorError)) throw error;
    await new Promise<void>((resolve) => stderr.write(failureLines(error), () => resolve()));
    return error.exitCode;
  }
}

/** Whether standard output is for JSON; of a command line that could not be read too. */
function wantsJson(name: ClientCommandName, args: ClientArgs | undefined, argv: readonly string[]): boolean {
  if (args === undefined) return argv.includes('--json');
  // What stands there is a capture, which nothing may follow.
  return args.options.json !== undefined && !(name === 'capture' && args.options.write?.[0] === '-');
}

async function run(
  name: ClientCommandName,
  args: ClientArgs,
  env: NodeJS.ProcessEnv,
  version: string,
): Promise<number> {
  const { stdout } = process;
  if (args.options.help !== undefined) {
    const { clientHelpText } = await import('./client-help.ts');
    stdout.write(clientHelpText(name));
    return ExitCode.Ok;
  }
  if (name === 'openapi') {
    const { offlineDocument } = await import('../control/openapi-offline.ts');
    stdout.write(`${JSON.stringify(offlineDocument(version), null, 2)}\n`);
    return ExitCode.Ok;
  }
  if (name === 'completion') {
    const { completionScript } = await import('./completion.ts');
    stdout.write(completionScript(args.args[0]!));
    return ExitCode.Ok;
  }
  const client = new ControlClient(findControl(args.options.control?.[0], env, process.getuid?.() ?? -1));
  try {
    return await COMMANDS[name](client, args, { stdout });
  } finally {
    client.close();
  }
}
