// What the table of forwards is made of.

import type { ForwardChecker } from './forward-check.ts';
import type { ForwardOpener } from './forward-opener.ts';
import type { ForwardStore } from './forward-records.ts';
import type { CheckedForward } from './forward-spec.ts';

export interface ForwardsOptions {
  readonly checker: ForwardChecker;
  readonly opener: ForwardOpener;
  /** Judges what the API asks for by what is so just now. @throws ForwardError */
  readonly admit?: (spec: CheckedForward) => void;
  /** Undefined: nothing outlives the process. */
  readonly store?: ForwardStore | undefined;
  /** Milliseconds since 1970. */
  readonly wallClock: () => number;
  /** A new id, unlike any before it. */
  readonly newId: () => string;
  /** Most forwards at once; 16,384 if not given. */
  readonly max?: number;
  /** Pause before what failed is tried again; 5,000 ms if not given. */
  readonly retryMs?: number;
  /** One line about something that went wrong and concerns no caller. */
  readonly report: (message: string) => void;
}
