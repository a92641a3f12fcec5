// A seed from program to report: run, and where it fails, made smaller for as long as it still fails in the same way.

import { makeProgram, type Program, simpler } from './program.ts';
import { runProgram } from './world.ts';

/** Runs spent on making a failing program smaller. */
const SHRINK_RUNS = 300;

/** What went wrong, without numbers: the same fault in a smaller program. */
function kindOf(report: string): string {
  return report.split('\n', 1)[0]!.replace(/\d+/g, '#');
}

/** The smallest program found that fails as `program` does. */
export function shrink(program: Program, report: string): Program {
  const kind = kindOf(report);
  let best = program;
  let runs = 0;
  for (let found = true; found; ) {
    found = false;
    for (const candidate of simpler(best)) {
      if (runs++ >= SHRINK_RUNS) return best;
      const again = runProgram(candidate, 0);
      if (again === undefined || kindOf(again) !== kind) continue;
      best = candidate;
      found = true;
      break;
    }
  }
  return best;
}

/**
 * Runs a seed. @param smaller make a failing program smaller, which takes a while.
 * @returns a report with the command that replays it; undefined if every rule held.
 */
export function runSeed(seed: number, smaller = true): string | undefined {
  const program = makeProgram(seed);
  const report = runProgram(program, 0);
  if (report === undefined) return undefined;
  const small = smaller ? shrink(program, report) : program;
  return [
    `seed ${seed}: ${report.split('\n', 1)[0]}`,
    `replay: ISTHMUS_SEED=${seed} npm test -- test/sim/random-programs`,
    `${smaller ? 'the smallest program found that fails so' : 'program'}: ${JSON.stringify(small, inBrief)}`,
    `its last frames: ${runProgram(small, 80)}`,
  ].join('\n  ');
}

/** Leaves out what is as on a clean link. */
function inBrief(_key: string, value: unknown): unknown {
  if (value === 0 || value === undefined || (Array.isArray(value) && value.length === 0)) return undefined;
  return value;
}
