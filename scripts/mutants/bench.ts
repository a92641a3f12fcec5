// A copy of the compiled tree in which one source file at a time is replaced by a broken one, and the tests that run in it.

import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';

/** What a test file said. */
export interface Outcome {
  readonly passed: boolean;
  /** The test that failed first, or what else went wrong. */
  readonly failure: string;
  readonly ms: number;
}

export class Bench {
  readonly #dir: string;
  readonly #root: string;

  /** @param compiled folder with the compiled `src` and `test`. @param dir where the copy lies, inside the project. */
  constructor(root: string, compiled: string, dir: string) {
    this.#root = root;
    this.#dir = dir;
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    for (const part of ['src', 'test']) cpSync(join(compiled, part), join(dir, part), { recursive: true });
  }

  /** Runs `what` with `file` (a source path) compiled from `text`, then puts the file back. */
  async broken<T>(file: string, text: string, what: () => Promise<T>): Promise<T> {
    const path = join(this.#dir, file.replace(/\.ts$/, '.js'));
    const whole = readFileSync(path);
    writeFileSync(path, compile(file, text));
    try {
      return await what();
    } finally {
      writeFileSync(path, whole);
    }
  }

  /** Runs one compiled test file until it ends or fails; one that takes longer than `limitMs` does not end. */
  async test(file: string, limitMs: number): Promise<Outcome> {
    const start = performance.now();
    const child = spawn(process.execPath, [pathToFileURL(join(this.#dir, file.replace(/\.ts$/, '.js'))).pathname], {
      cwd: this.#root,
      env: { ...process.env, TAP: '1', TAP_BAIL: '1' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const failure = await firstFailure(child, limitMs);
    return { passed: failure === '', failure, ms: performance.now() - start };
  }
}

/** Erases types, as the build does. @throws for text that is not TypeScript. */
function compile(file: string, text: string): string {
  const { outputText, diagnostics } = ts.transpileModule(text, {
    fileName: file,
    reportDiagnostics: true,
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
    },
  });
  const wrong = diagnostics?.[0];
  if (wrong) throw new Error(`${file}: ${ts.flattenDiagnosticMessageText(wrong.messageText, ' ')}`);
  return outputText;
}

/** The title of the first test that fails; '' if all pass. */
function firstFailure(child: ChildProcess, limitMs: number): Promise<string> {
  return new Promise((resolve) => {
    let title = '';
    let failure = '';
    const timer = setTimeout(() => {
      failure ||= 'does not end';
      child.kill('SIGKILL');
    }, limitMs);
    createInterface({ input: child.stdout! }).on('line', (line) => {
      const subtest = /^# Subtest: (.*)$/.exec(line);
      if (subtest) title = subtest[1]!;
      if (failure !== '' || !/^\s*not ok\b/.test(line) || / # (SKIP|T.DO)/i.test(line)) return;
      failure = title || line.trim();
      child.kill('SIGKILL');
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (failure === '' && (code !== 0 || signal !== null)) failure = title || 'the file cannot be loaded';
      resolve(failure.replaceAll('\\#', '#'));
    });
  });
}
