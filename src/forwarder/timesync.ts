// Tells guests to set their clocks: connects to LinuxKit's host-timesync-daemon by hybrid vsock. The daemon's protocol is the connection
// itself: it reads the guest's real-time clock, sets the system's by it, and closes; nothing is said either way.

import { setTimeout as sleep } from 'node:timers/promises';
import type { VsockTarget } from './forward-spec.ts';
import { dialVsock } from './hybrid-vsock.ts';

/** From the connection to its end. The daemon waits for the next tick of a clock of whole seconds. */
const ANSWER_MS = 10_000;
/** A guest that wakes with its host may not answer at once. */
const RETRY_MS: readonly number[] = [0, 2000, 8000];

export interface TimesyncStats {
  /** Times that a guest was told and closed the connection. */
  timesyncPokes: number;
  /** Times that it could not be told, retries included. */
  timesyncFailures: number;
}

export interface TimesyncOptions {
  readonly targets: readonly VsockTarget[];
  readonly stats: TimesyncStats;
  /** A target fails for the first time since it worked, or works again. */
  readonly report: (ok: boolean, target: VsockTarget, error?: Error) => void;
  /** Waits before each try, ms. */
  readonly retryMs?: readonly number[];
  readonly answerMs?: number;
}

export class Timesync {
  readonly #options: TimesyncOptions;
  readonly #busy = new Map<VsockTarget, AbortController>();
  readonly #failing = new Set<VsockTarget>();
  #closed = false;

  constructor(options: TimesyncOptions) {
    this.#options = options;
  }

  /** Tells every guest; one that is being told already is not told twice. Resolves when it has been tried. Never rejects. */
  async poke(): Promise<void> {
    if (this.#closed) return;
    await Promise.all(this.#options.targets.filter((t) => !this.#busy.has(t)).map((t) => this.#pokeOne(t)));
  }

  close(): void {
    this.#closed = true;
    for (const abort of this.#busy.values()) abort.abort();
  }

  async #pokeOne(target: VsockTarget): Promise<void> {
    const abort = new AbortController();
    this.#busy.set(target, abort);
    try {
      for (const pause of this.#options.retryMs ?? RETRY_MS) {
        await sleep(pause, undefined, { signal: abort.signal });
        if (await this.#try(target, abort.signal)) return;
      }
    } catch (error) {
      // The pause was cut short: the daemon ends.
      if (!abort.signal.aborted) throw error;
    } finally {
      this.#busy.delete(target);
    }
  }

  async #try(target: VsockTarget, signal: AbortSignal): Promise<boolean> {
    try {
      await tell(target, signal, this.#options.answerMs ?? ANSWER_MS);
    } catch (error) {
      if (signal.aborted) return false;
      this.#options.stats.timesyncFailures++;
      if (!this.#failing.has(target)) {
        this.#failing.add(target);
        this.#options.report(false, target, error instanceof Error ? error : new Error(String(error)));
      }
      return false;
    }
    this.#options.stats.timesyncPokes++;
    if (this.#failing.delete(target)) this.#options.report(true, target);
    return true;
  }
}

/** Connects and waits for the end. Rejects when nobody listens, the connection breaks, or it does not end in time. */
async function tell(target: VsockTarget, signal: AbortSignal, answerMs: number): Promise<void> {
  const limit = AbortSignal.timeout(answerMs);
  const both = AbortSignal.any([signal, limit]);
  const socket = await dialVsock(target, 0, both);
  await new Promise<void>((resolve, reject) => {
    const finish = (error?: Error): void => {
      both.removeEventListener('abort', onAbort);
      socket.destroy();
      if (error === undefined) resolve();
      else reject(error);
    };
    const onAbort = (): void =>
      finish(new Error(signal.aborted ? 'aborted' : 'the guest did not close the connection'));
    both.addEventListener('abort', onAbort);
    socket.on('error', finish);
    socket.on('end', () => finish());
    socket.on('close', () => finish());
    // Whatever it says is of no interest.
    socket.resume();
    if (both.aborted) onAbort();
  });
}
