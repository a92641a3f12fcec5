// What is stored of the table of forwards: which ones last, and how each is written and read again.

import { type ForwardEntry, messageOf } from './forward-entry.ts';
import { ForwardError, type ForwardSpec } from './forward-spec.ts';

/** A table that outlives the process: plain JSON values by key. `host/state-store` has it. */
export interface ForwardStore {
  entries(): Iterable<readonly [string, unknown]>;
  /** @throws the system's error when it cannot be stored. */
  set(key: string, value: unknown): void;
  delete(key: string): void;
}

/** One forward as it is stored, under its key. */
export interface ForwardRecord {
  readonly id: string;
  readonly createdAt: string;
  readonly chosenPort: number;
  readonly spec: ForwardSpec;
}

export class ForwardRecords {
  readonly #store: ForwardStore | undefined;
  readonly #report: (message: string) => void;

  constructor(store: ForwardStore | undefined, report: (message: string) => void) {
    this.#store = store;
    this.#report = report;
  }

  /** What is stored; `record` is undefined where nothing can be made of it. */
  all(): { key: string; record: ForwardRecord | undefined }[] {
    return [...(this.#store?.entries() ?? [])].map(([key, value]) => ({ key, record: recordOf(key, value) }));
  }

  /** Writes a forward down, or takes it out if it does not last. @throws ForwardError ERR_STATE */
  put(entry: ForwardEntry): void {
    const { id, spec, createdAt, chosenPort } = entry;
    try {
      if (lasts(entry))
        this.#store?.set(spec.key, { id, createdAt, ...(chosenPort === 0 ? {} : { chosenPort }), spec });
      else if (entry.origin !== 'config') this.#store?.delete(spec.key);
    } catch (error) {
      throw new ForwardError(
        'ERR_STATE',
        `the forward cannot be stored, so it would not come back after a restart: ${messageOf(error)}; mend that, or start the daemon with --state-dir none`,
        { key: spec.key, cause: error },
      );
    }
  }

  /** The same where nobody can be told but the log. */
  tryPut(entry: ForwardEntry): void {
    try {
      this.put(entry);
    } catch (error) {
      this.#report(messageOf(error));
    }
  }

  forget(entry: ForwardEntry): void {
    if (lasts(entry)) this.drop(entry.spec.key);
  }

  drop(key: string): void {
    try {
      this.#store?.delete(key);
    } catch (error) {
      this.#report(`forward ${key} may come back with a restart: ${messageOf(error)}`);
    }
  }
}

/** Options bring theirs back themselves; a connection is gone after a restart. */
function lasts({ spec, origin }: ForwardEntry): boolean {
  return origin !== 'config' && spec.lease !== 'connection';
}

function recordOf(key: string, value: unknown): ForwardRecord | undefined {
  const record = value as Partial<ForwardRecord> | null | undefined;
  if (typeof record?.id !== 'string' || typeof record.createdAt !== 'string') return undefined;
  if (typeof record.spec !== 'object' || record.spec === null) return undefined;
  const { id, createdAt, spec } = record;
  const port = record.chosenPort;
  const chosenPort = typeof port === 'number' && Number.isInteger(port) && port > 0 && port < 65536 ? port : 0;
  return { id, createdAt, chosenPort, spec: { ...spec, key } };
}
