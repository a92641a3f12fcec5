// Our own mistakes, and only those: a guest's rubbish is dropped and counted, never thrown.

/** Thrown where the code contradicts itself. The stack catches it at its border, resets that flow and counts it. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

/** @throws InvariantError when `condition` does not hold. */
export function invariant(condition: boolean, what: string): asserts condition {
  if (!condition) throw new InvariantError(what);
}
