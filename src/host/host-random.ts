// Cryptographic randomness for the core: a pool of int32s filled in one call, since one call each would cost microseconds.

import { randomFillSync } from 'node:crypto';
import type { Random } from '../base/random.ts';

const POOL_WORDS = 1024;

/** The host's cryptographic random source. A number handed out is wiped from the pool. */
export class HostRandom implements Random {
  readonly #pool: Int32Array = new Int32Array(POOL_WORDS);
  #next = POOL_WORDS;

  i32(): number {
    if (this.#next === POOL_WORDS) {
      randomFillSync(this.#pool);
      this.#next = 0;
    }
    const value = this.#pool[this.#next] ?? 0;
    this.#pool[this.#next++] = 0;
    return value;
  }
}
