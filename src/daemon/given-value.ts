// A value as an operator gave it, still text, with the place it came from, and the errors that name that place. Meaning is
// config's; reading is cli's, config-file's and the environment's.

import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import type { OptionName } from './config-schema.ts';

/** Where a value came from. `label` is what an error calls it: `--mtu`, `ISTHMUS_MTU`, `isthmus.yaml:3`. */
export interface ValueSource {
  readonly kind: 'flag' | 'env' | 'file' | 'default';
  readonly label: string;
}

/** Values of one source, still text. */
export interface GivenValue {
  readonly texts: readonly string[];
  readonly source: ValueSource;
}
export type GivenValues = ReadonlyMap<OptionName, GivenValue>;

/** An operator's mistake in one option, in one line. */
export function configError(
  name: OptionName,
  source: ValueSource,
  problem: string,
  expected: string,
  cause?: unknown,
): OperatorError {
  const where = source.kind === 'default' ? name : `${name} (${source.label})`;
  return new OperatorError(`${where}: ${problem}; expected ${expected}`, {
    code: `ERR_CONFIG_${name.toUpperCase().replaceAll('-', '_')}`,
    exitCode: source.kind === 'flag' ? ExitCode.Usage : ExitCode.Config,
    cause,
  });
}

/** A file named by an option that cannot be read. */
export function unreadable(name: OptionName, source: ValueSource, path: string, error: unknown): OperatorError {
  const why: Record<string, string> = {
    ENOENT: 'does not exist',
    ENOTDIR: 'does not exist',
    EACCES: 'may not be read by this user',
    EISDIR: 'is a directory',
  };
  const reason =
    why[errnoOf(error) ?? ''] ?? `cannot be read (${error instanceof Error ? error.message : String(error)})`;
  return new OperatorError(`${name} (${source.label}): ${path} ${reason}; expected a readable file`, {
    code: 'ERR_CONFIG_UNREADABLE',
    exitCode: ExitCode.NoInput,
    cause: error,
  });
}
