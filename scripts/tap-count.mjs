// Reads the TAP that `tap --reporter=tap` writes and counts assertions: leaves only, a subtest's own line counts just where it
// failed without a failed child (a time-out, an exit status). Owns the reading; prints nothing.

/** Reads lines; `onFile` is called for each finished test file, `onFailure` with each failed assertion. */
export class TapCount {
  passed = 0;
  failed = 0;
  skipped = 0;
  /** Reasons of skips, with how often each was given. */
  skips = new Map();
  #onFile;
  #onFailure;
  #path = [];
  #lastIndent = 0;
  #yamlIndent = -1;
  #failure;
  /** Failures seen below each depth since that depth's last test point. */
  #below = [];
  #file = { passed: 0, failed: 0, skipped: 0 };

  constructor({ onFile, onFailure }) {
    this.#onFile = onFile;
    this.#onFailure = onFailure;
  }

  line(text) {
    const indent = text.length - text.trimStart().length;
    const body = text.trim();
    if (this.#yamlIndent >= 0) {
      if (body === '...' && indent === this.#yamlIndent) {
        this.#yamlIndent = -1;
        this.#flushFailure();
      } else this.#failure?.lines.push(text.slice(this.#yamlIndent));
      return;
    }
    if (body === '---') {
      this.#yamlIndent = indent;
      return;
    }
    const depth = indent >> 2;
    const subtest = /^# Subtest: (.*)$/.exec(body);
    if (subtest !== null) {
      this.#path[depth] = subtest[1];
      this.#path.length = depth + 1;
      return;
    }
    const plan = /^1\.\.(\d+)(?:\s*#\s*(.*))?$/.exec(body);
    if (plan !== null) {
      this.#flushFailure();
      // A test without points of its own (a property throws when it fails) is itself the point.
      this.#lastIndent = plan[1] === '0' ? depth - 1 : depth;
      return;
    }
    const point = /^(not )?ok\b(?: (\d+))?(?: - )?(.*)$/.exec(body);
    if (point !== null) this.#point(depth, point[1] === undefined, point[3] ?? '');
  }

  #point(depth, ok, rest) {
    this.#flushFailure();
    const parent = this.#lastIndent > depth;
    this.#lastIndent = depth;
    const failedBelow = this.#below[depth + 1] ?? 0;
    this.#below[depth + 1] = 0;
    const directive = /\s# (SKIP|TODO)\b:?\s*(.*)$/i.exec(rest);
    const name = rest.replace(/\s# (time=|SKIP|TODO).*$/i, '').trim();
    if (directive !== null) {
      this.#file.skipped++;
      const reason = directive[2].replace(/^skip:\s*/i, '').trim() || 'no reason given';
      this.skips.set(reason, (this.skips.get(reason) ?? 0) + 1);
    } else if (!ok) {
      if (!parent || failedBelow === 0) {
        this.#file.failed++;
        const path = this.#path.slice(0, depth).concat(name);
        this.#failure = { path, lines: [] };
      }
    } else if (!parent) this.#file.passed++;
    if (!ok && directive === null) this.#below[depth] = (this.#below[depth] ?? 0) + 1;
    if (depth === 0) this.#endFile(name, Number(/# time=([\d.]+)ms/.exec(rest)?.[1] ?? 0));
  }

  #endFile(name, ms) {
    const file = this.#file;
    this.#file = { passed: 0, failed: 0, skipped: 0 };
    this.passed += file.passed;
    this.failed += file.failed;
    this.skipped += file.skipped;
    this.#onFile({ name, ms, ...file });
  }

  #flushFailure() {
    if (this.#failure === undefined) return;
    this.#onFailure(this.#failure);
    this.#failure = undefined;
  }

  /** After the last line. */
  end() {
    this.#flushFailure();
  }
}
