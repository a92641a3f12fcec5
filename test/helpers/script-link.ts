// The link of a script: the batch that frames are written to, each handed on as it is committed. It can refuse to drain.

import type { Slab } from '../../src/base/slab.ts';
import type { Egress } from '../../src/stack/ports.ts';
import { ScriptError } from './script-error.ts';

const BATCH_BYTES = 1024 * 1024;

export class ScriptLink implements Egress {
  /** False: no frame is taken. */
  draining = true;
  readonly #slab: Slab;
  readonly #off: number;
  #used = 0;
  #reserved = 0;
  readonly #onFrame: (frame: Uint8Array) => void;
  readonly #onError: (error: Error) => void;

  constructor(slab: Slab, onFrame: (frame: Uint8Array) => void, onError: (error: Error) => void) {
    this.#slab = slab;
    this.#off = slab.alloc(BATCH_BYTES);
    this.#onFrame = onFrame;
    this.#onError = onError;
  }

  reserve(len: number): number {
    if (!this.draining || this.#used + len > BATCH_BYTES) return -1;
    this.#reserved = len;
    return this.#off + this.#used;
  }

  commit(off: number, len: number): void {
    if (off !== this.#off + this.#used || len > this.#reserved) {
      this.#onError(new ScriptError('committed what was not reserved'));
    }
    // Every even alignment comes up.
    this.#used = (this.#used + len + 3) & ~1;
    this.#onFrame(this.#slab.mem.slice(off, off + len));
  }

  runOffset = 0;
  runStride = 0;

  reserveRun(len: number, count: number): number {
    this.runOffset = this.reserve(len);
    this.runStride = (len + 3) & ~1;
    if (this.runOffset < 0) return 0;
    return Math.min(count, Math.floor((BATCH_BYTES - this.#used) / this.runStride));
  }

  commitRun(off: number, len: number, count: number): void {
    if (off !== this.#off + this.#used || len !== this.#reserved) {
      this.#onError(new ScriptError('committed a run that was not reserved'));
    }
    this.#used += count * this.runStride;
    for (let i = 0; i < count; i++) {
      const at = off + i * this.runStride;
      this.#onFrame(this.#slab.mem.slice(at, at + len));
    }
  }

  flush(): void {
    this.#used = 0;
  }

  close(): void {}
}
