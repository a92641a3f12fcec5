// The border between the table of forwards and what makes one work: open what it listens on, lead clients to its target. Types only;
// `forward-kinds` does it, the table's tests have an opener of their own.

import type { CheckedForward, ForwardCounters } from './forward-spec.ts';

/** An open forward. */
export interface OpenForward {
  /** One entry a port, as `Forward.bound`. */
  readonly bound: readonly string[];
  readonly counters: ForwardCounters;
  /** New clients are led as this spec says; it listens on the same. */
  retarget(spec: CheckedForward): void;
  /** Stops listening, at once: when it returns the address is free. Connections go on. Idempotent. */
  close(): void;
  /** Resets its connections. */
  reset(): void;
}

export interface ForwardOpener {
  /** @throws ForwardError when it cannot be had; then nothing is left open. */
  open(spec: CheckedForward): Promise<OpenForward>;
}
