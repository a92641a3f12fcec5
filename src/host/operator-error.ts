// The one error class for what an operator can put right: a taken socket, an unreadable file, a bad option.
// It carries the process's exit code, so that the lowest layer that knows the cause decides both; `exit-code` has the
// numbers. It is not for our own mistakes (base/invariant) nor for anything that a guest can cause (base/drop).

/** Options of an operator error. */
export interface OperatorErrorOptions {
  /** Stable and public, e.g. `ERR_SOCKET_IN_USE`. */
  readonly code: string;
  /** Exit code of the process when this ends its start, as in sysexits.h. */
  readonly exitCode: number;
  /** What is to blame by name, as a daemon's refusal has it: a field's path, or a forward's key. */
  readonly key?: string;
  readonly cause?: unknown;
}

/** A mistake of the operator or of the host, told in one line: what is wrong, and what would be right. */
export class OperatorError extends Error {
  override readonly name = 'OperatorError';
  readonly code: string;
  readonly exitCode: number;
  readonly key: string | undefined;

  constructor(message: string, options: OperatorErrorOptions) {
    super(oneLine(message), options.cause === undefined ? undefined : { cause: options.cause });
    this.code = options.code;
    this.exitCode = options.exitCode;
    this.key = options.key;
  }
}

/** Control characters, line breaks among them, become visible escapes: one error stays one line, whatever it quotes. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** The `code` of a system error (`EADDRINUSE`), or undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
