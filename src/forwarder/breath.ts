// Lets everybody else have a turn in the middle of long work: packets, other clients. Opening a socket waits for nothing that the event
// loop would have to do, so a thousand of them in a row would hold up the whole daemon.

import { setImmediate } from 'node:timers/promises';

/** Longest work without a turn of the others. */
const WORK_MS = 4;

export class Breath {
  #since = performance.now();

  /** Time for it. */
  get due(): boolean {
    return performance.now() - this.#since > WORK_MS;
  }

  async take(): Promise<void> {
    await setImmediate();
    this.#since = performance.now();
  }
}
