// Keeps leases and VPNKit identities over restarts: one JSON file in the state directory, times as wall-clock expiry.
// Loaded once, before the first VM; how it is written is state-file's. It judges no record: that is the tables' business.

import type { Clock } from '../base/clock.ts';
import { reasonOf, StateFile } from './state-file.ts';

/** The lease table, as far as storing it goes. Times are what remains, in monotonic milliseconds. */
export interface StoredLeases {
  onChange: () => void;
  serialise(now: number): readonly { readonly remainingMs: number }[];
  /** @returns how many records were not taken. */
  restore(records: readonly unknown[], now: number): number;
}

/** The identity table; its changes are told by the lease table. */
export interface StoredIdentities {
  serialise(): unknown;
  restore(data: unknown): number;
}

export interface LeaseFileOptions {
  /** The file; its directory is made with mode 0700 if it is not there. */
  readonly path: string;
  readonly leases: StoredLeases;
  readonly identities: StoredIdentities;
  readonly clock: Clock;
  /** Milliseconds since 1970; Date.now if not given. */
  readonly wallClock?: () => number;
  /** From a change to the write that stores it and what follows; 250 ms if not given. */
  readonly delayMs?: number;
  /** One line about something that went wrong; the daemon goes on. */
  readonly report: (message: string) => void;
}

const FORMAT_VERSION = 1;

function isRecord(v: unknown): v is Record<string, unknown> {
  return typeof v === 'object' && v !== null && !Array.isArray(v);
}

export class LeaseFile {
  readonly #options: LeaseFileOptions;
  readonly #wallClock: () => number;
  readonly #file: StateFile;

  constructor(options: LeaseFileOptions) {
    this.#options = options;
    this.#wallClock = options.wallClock ?? Date.now;
    this.#file = new StateFile({
      path: options.path,
      name: 'lease file',
      things: 'leases',
      text: () => this.#text(),
      delayMs: options.delayMs,
      eager: true,
      report: options.report,
    });
  }

  /** Successful writes. */
  get writes(): number {
    return this.#file.writes;
  }

  get writeFailures(): number {
    return this.#file.writeFailures;
  }

  /** Reads the file into the tables and listens for changes from then on. Never throws. */
  load(): void {
    const text = this.#file.read();
    if (text !== undefined) this.#restore(text);
    this.#options.leases.onChange = () => this.changed();
  }

  /** Something is worth storing: it will be, at once after a pause, else within a quarter of a second or so. */
  changed(): void {
    this.#file.changed();
  }

  /** Writes what is not yet written, and stops. Never rejects. */
  close(): Promise<void> {
    this.#options.leases.onChange = () => {};
    return this.#file.close();
  }

  #restore(text: string): void {
    const { leases, identities, clock } = this.#options;
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch (error) {
      this.#file.putAside(`is not JSON (${reasonOf(error)})`);
      return;
    }
    if (!isRecord(data) || data.version !== FORMAT_VERSION || !Array.isArray(data.leases)) {
      this.#file.putAside(`is not of version ${FORMAT_VERSION} of the format`);
      return;
    }
    const wall = this.#wallClock();
    const records = (data.leases as readonly unknown[]).map((r) => {
      if (!isRecord(r) || typeof r.expires !== 'string') return undefined;
      return { ...r, remainingMs: Date.parse(r.expires) - wall };
    });
    let refused = leases.restore(records, clock.now());
    if (data.identities !== undefined) refused += identities.restore(data.identities);
    if (refused > 0)
      this.#file.keepCopy(`${refused} entries do not fit this network or are malformed, and were left out`);
  }

  #text(): string {
    const { leases, identities, clock } = this.#options;
    const wall = this.#wallClock();
    const records = leases.serialise(clock.now()).map(({ remainingMs, ...rest }) => ({
      ...rest,
      // The range of a Date: a record that never ran keeps an expiry of long ago.
      expires: new Date(Math.max(0, Math.min(wall + remainingMs, 8.64e15))).toISOString(),
    }));
    const data = { version: FORMAT_VERSION, leases: records, identities: identities.serialise() };
    return `${JSON.stringify(data, undefined, 2)}\n`;
  }
}
