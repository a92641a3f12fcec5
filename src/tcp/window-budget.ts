// How much window all flows together may promise beyond what each starts with: a promise that the packet memory cannot keep
// would be a dropped segment and a guest's retransmission. It counts; whose promise is taken back when it is short is the stack's choice.

export class WindowBudget {
  /** Bytes promised beyond the flows' initial windows. */
  promised = 0;
  /** Requests that were refused. */
  refused = 0;
  readonly limit: number;
  readonly #onShort: () => void;

  /** @param onShort asked to `release` what idle flows hold; may do nothing. */
  constructor(limit: number, onShort: () => void) {
    this.limit = limit;
    this.#onShort = onShort;
  }

  /** Takes `bytes` if there are that many. */
  take(bytes: number): boolean {
    if (this.promised + bytes > this.limit) this.#onShort();
    if (this.promised + bytes > this.limit) {
      this.refused++;
      return false;
    }
    this.promised += bytes;
    return true;
  }

  release(bytes: number): void {
    this.promised -= bytes;
  }
}
