// The frame of both harnesses: errors become one line and an exit code, and nothing outlives whoever started it.

import { ToolError } from './options.ts';

const PARENT_CHECK_MS = 1000;
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Runs a tool with the arguments of this process. */
export async function runTool(name: string, tool: (args: readonly string[]) => Promise<void>): Promise<void> {
  // Whatever is open then goes with the end of the process: see its `exit` handlers.
  for (const [signal, code] of Object.entries(SIGNALS)) process.once(signal, () => process.exit(code));
  // npm and scripts/run.mjs may be killed by a signal that does not reach us.
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid !== parent) process.exit(1);
  }, PARENT_CHECK_MS);
  try {
    await tool(process.argv.slice(2));
  } catch (error) {
    console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = error instanceof ToolError ? error.exitCode : 1;
  } finally {
    clearInterval(watch);
  }
}
