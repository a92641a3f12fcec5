// What a command that asks a daemon says when something was refused: a line on standard error for each thing, with `--json` an object on
// standard output too, and the exit code.

import type { ErrorBody } from '../control/api-error.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';

/** One thing that a command line asked for, and why it was not done. */
export interface Refusal {
  /** As it stands in the command line. */
  readonly argument: string;
  readonly error: OperatorError;
}

/** Some of several things were refused; the others are done. */
export class SomeRefused extends OperatorError {
  readonly refusals: readonly Refusal[];
  /** What was done, for `--json`. */
  readonly done: object;
  /** Whether more than one thing was asked for. */
  readonly several: boolean;

  /** @param refusals at least one. @param args what was asked for. */
  constructor(refusals: readonly Refusal[], done: object, args: readonly string[]) {
    const { message, code, exitCode, key } = refusals.at(-1)!.error;
    super(message, { code, exitCode, ...(key === undefined ? {} : { key }) });
    this.refusals = refusals;
    this.done = done;
    this.several = new Set(args).size > 1;
  }
}

/** Does each of several things, whatever becomes of the others. @returns what was refused. @throws what is no OperatorError */
export async function doEach<T>(
  items: readonly T[],
  argumentOf: (item: T) => string,
  work: (item: T) => Promise<void>,
): Promise<Refusal[]> {
  const refusals: Refusal[] = [];
  for (const item of items) {
    try {
      await work(item);
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      refusals.push({ argument: argumentOf(item), error });
      // Where no daemon answers any more, none of the rest can be had either.
      if (error.exitCode !== ExitCode.Refused) break;
    }
  }
  return refusals;
}

/** The lines for standard error. With several arguments each line names its own. */
export function failureLines(error: OperatorError): string {
  if (!(error instanceof SomeRefused)) return `isthmus: ${error.message}\n`;
  return error.refusals
    .map(({ argument, error: { message } }) => `isthmus: ${error.several ? `${argument}: ` : ''}${message}\n`)
    .join('');
}

/** The object for standard output: `error` is the last thing that went wrong, `errors` all of several. */
export function failureJson(error: unknown): string {
  if (!(error instanceof SomeRefused)) return `${JSON.stringify({ error: errorOf(error) })}\n`;
  const errors = error.refusals.map(({ argument, error: e }) => ({ argument, ...errorOf(e) }));
  return `${JSON.stringify({ ...error.done, error: errorOf(error), errors })}\n`;
}

function errorOf(error: unknown): ErrorBody['error'] {
  if (!(error instanceof OperatorError)) return { code: 'ERR_UNEXPECTED', message: String(error) };
  const { code, message, key } = error;
  return key === undefined ? { code, message } : { code, message, key };
}
