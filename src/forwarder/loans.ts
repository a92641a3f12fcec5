// Pieces of send rings that are lent to host sockets for their next read. A socket that has nothing to say keeps its piece, and with it the
// whole ring; so whoever has been quiet for a second is asked to give it back. One timer for all flows, and none while nothing is lent.

/** A flow that may have lent a piece of its ring. */
export interface Lender {
  /**
   * Takes the piece back if its socket has been quiet since the last call and the guest has everything.
   * @returns whether a piece is still lent.
   */
  recallIdle(): boolean;
}

const QUIET_MS = 1000;

export class Loans {
  readonly #lenders = new Set<Lender>();
  #timer: NodeJS.Timeout | undefined;

  /** Flows that have lent a piece, or had when last looked at. */
  get size(): number {
    return this.#lenders.size;
  }

  add(lender: Lender): void {
    this.#lenders.add(lender);
    this.#timer ??= setTimeout(() => this.#sweep(), QUIET_MS).unref();
  }

  delete(lender: Lender): void {
    this.#lenders.delete(lender);
    if (this.#lenders.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #sweep(): void {
    for (const lender of this.#lenders) if (!lender.recallIdle()) this.#lenders.delete(lender);
    if (this.#lenders.size > 0) this.#timer?.refresh();
    else this.#timer = undefined;
  }
}
