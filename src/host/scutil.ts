// Runs `scutil --dns`, which says what macOS resolves by which servers. Bounded in time and output; it reads nothing of the text.

import { execFile } from 'node:child_process';

const PROGRAM = '/usr/sbin/scutil';
const TIMEOUT_MS = 2000;
const OUTPUT_MAX_BYTES = 256 * 1024;

/** @param program another one that prints the same, for tests. Rejects when it cannot be run, fails, or says too much for too long. */
export function scutilDns(program: string = PROGRAM): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: TIMEOUT_MS, maxBuffer: OUTPUT_MAX_BYTES, killSignal: 'SIGKILL' as const, env: {} };
    const child = execFile(program, ['--dns'], options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(error);
    });
    child.stdin?.end();
  });
}
