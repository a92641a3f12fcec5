// What happened in a script, line by line, for the report of one that failed.

const SHOWN_LINES = 200;

export class ScriptRecord {
  readonly #lines: string[] = [];

  /** @param now virtual time, ms. */
  add(now: number, line: string): void {
    this.#lines.push(`${(now / 1000).toFixed(3).padStart(10)}  ${line}`);
  }

  /**
   * The last lines, with the one it failed at marked: the first segment of ours that nothing took, or the last line.
   * @param pending how many segments of ours, the last ones, no expectation has taken.
   */
  text(pending: number): string {
    const failed = this.#firstPending(pending);
    const first = Math.max(0, this.#lines.length - SHOWN_LINES);
    return this.#lines
      .slice(first)
      .map((line, i) => `${first + i === failed ? '>>' : '  '} ${line}`)
      .join('\n');
  }

  #firstPending(pending: number): number {
    for (let i = this.#lines.length - 1; i >= 0 && pending > 0; i--) {
      if (this.#lines[i]!.includes('  S> ') && --pending === 0) return i;
    }
    return this.#lines.length - 1;
  }
}
