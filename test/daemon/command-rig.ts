// The `isthmus` command as a child process, for tests of the commands that ask a daemon.

import { execFile } from 'node:child_process';
import type { Test } from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { ControlRig } from '../control/rig.ts';

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export const environment = { ...process.env, NODE_OPTIONS: '' };

/** Runs a program to its end. */
export function run(program: string, args: readonly string[], env: Record<string, string>): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(program, args, { env: { ...environment, ...env } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** A daemon, and commands that ask it. */
export async function start(
  t: Test,
  args: readonly string[] = [],
): Promise<{ rig: ControlRig; isthmus: (...args: string[]) => Promise<Ran> }> {
  const rig = await ControlRig.start(t, args);
  const isthmus = (...words: string[]): Promise<Ran> =>
    run(process.execPath, [daemonEntry(), ...words], { ISTHMUS_CONTROL: rig.socket });
  return { rig, isthmus };
}

/** Keys of a daemon's forwards, sorted. */
export const keys = async (rig: ControlRig): Promise<string[]> =>
  (await rig.ask('GET', '/v1/forwards')).json.forwards.map((f: { key: string }) => f.key).sort();
