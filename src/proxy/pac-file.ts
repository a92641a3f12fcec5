// A PAC file: fetched or read, read again when it changes, and asked in a thread of its own with a time limit. A script that is broken, too
// slow or away means DIRECT, as in browsers, and is told once.

import { existsSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { Clock } from '../base/clock.ts';
import { WatchedFile } from '../forwarder/dns-files.ts';
import { parsePacResult } from './pac-results.ts';
import type { PacAnswer, PacCall, PacWorkerData } from './pac-worker.ts';
import type { ProxyStats } from './proxy-stats.ts';
import type { RouteFinder } from './router.ts';
import type { PacSource } from './settings.ts';
import { DIRECT, type Route } from './upstream.ts';

export interface PacFileOptions {
  readonly source: PacSource;
  readonly clock: Clock;
  readonly stats: ProxyStats;
  /** One line about what is wrong with the file; undefined: all is well again. */
  readonly report: (problem: string | undefined) => void;
}

/** A call may take so long, DNS included; */
const CALL_MS = 5000;
/** after one that took longer the script is left alone for a while. */
const REST_MS = 30_000;
/** QuickJS takes 0.1 s to load, more on a busy machine. */
const LOAD_MS = 15_000;
const FETCH_MS = 10_000;
/** A file from a server is fetched again so often, and sooner while it cannot be had. */
const REFETCH_MS = 30 * 60_000;
const RETRY_MS = 15_000;
const SCRIPT_MAX_BYTES = 1024 * 1024;
/** Answers are kept for a moment: a page is a hundred requests of one host. */
const CACHE_MS = 10_000;
const CACHE_MAX = 1024;
/** Calls that wait; beyond it everything is DIRECT. */
const CALLS_MAX = 4096;

interface Waiting {
  readonly done: (result: string | undefined) => void;
}

export class PacFile implements RouteFinder {
  readonly #options: PacFileOptions;
  readonly #file: WatchedFile | undefined;
  readonly #cache = new Map<string, { readonly until: number; readonly routes: Promise<readonly Route[]> }>();
  readonly #waiting = new Map<number, Waiting>();
  #script: string | undefined;
  #worker: Worker | undefined;
  /** Resolves with whether the script loaded. */
  #ready: Promise<boolean> = Promise.resolve(false);
  #watchdog: NodeJS.Timeout | undefined;
  #refetch: NodeJS.Timeout | undefined;
  #restUntil = 0;
  #nextId = 1;
  #closed = false;

  constructor(options: PacFileOptions) {
    this.#options = options;
    const { url } = options.source;
    if (!url.startsWith('file:')) return;
    this.#file = new WatchedFile(
      fileURLToPath(url),
      (text) => this.#useScript(text, text === undefined ? 'it cannot be read' : undefined),
      () => this.#file?.check(options.clock.now()),
    );
  }

  /** Resolves when the file was read or could not be. */
  async start(): Promise<void> {
    if (this.#file !== undefined) this.#file.start(this.#options.clock.now());
    else await this.#fetch();
  }

  close(): void {
    this.#closed = true;
    this.#file?.close();
    clearTimeout(this.#refetch);
    this.#stopWorker();
  }

  find(url: string, host: string): Promise<readonly Route[]> {
    const now = this.#options.clock.now();
    this.#file?.check(now);
    const known = this.#cache.get(url);
    if (known !== undefined && known.until > now) return known.routes;
    const { source, stats } = this.#options;
    const routes = this.#call(url, host, now).then((result): readonly Route[] => {
      if (result !== undefined) return parsePacResult(result, source);
      stats.pacFailed++;
      return [DIRECT];
    });
    this.#cache.delete(url);
    this.#cache.set(url, { until: now + CACHE_MS, routes });
    for (const key of this.#cache.keys()) {
      if (this.#cache.size <= CACHE_MAX) break;
      this.#cache.delete(key);
    }
    return routes;
  }

  /** @returns undefined for no answer. */
  async #call(url: string, host: string, now: number): Promise<string | undefined> {
    this.#options.stats.pacCalls++;
    if (this.#script === undefined || now < this.#restUntil || this.#waiting.size >= CALLS_MAX) return undefined;
    if (this.#worker === undefined) this.#startWorker(this.#script);
    if (!(await this.#ready)) return undefined;
    const worker = this.#worker;
    if (worker === undefined) return undefined;
    return new Promise((done) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { done });
      const call: PacCall = { id, url, host };
      worker.postMessage(call);
      this.#watchdog ??= this.#watch(CALL_MS, 'it takes too long');
    });
  }

  #startWorker(script: string): void {
    const { path, wasmPath } = workerFiles();
    const workerData: PacWorkerData = { script, wasmPath };
    const worker = new Worker(path, {
      workerData,
      stdin: false,
      stdout: true,
      stderr: true,
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: 128 },
    });
    worker.unref();
    this.#worker = worker;
    this.#watchdog = this.#watch(LOAD_MS, 'it does not load in time');
    this.#ready = new Promise((resolve) => {
      const failed = (problem: string): void => {
        resolve(false);
        if (this.#worker === worker) this.#fail(problem);
      };
      worker.on('message', ({ id, result, error }: PacAnswer) => {
        if (this.#worker !== worker) return;
        if (id === 0) {
          clearTimeout(this.#watchdog);
          this.#watchdog = undefined;
          if (error !== undefined) failed(`it does not load: ${error}`);
          else {
            this.#options.report(undefined);
            resolve(true);
          }
          return;
        }
        this.#answered(id, result, error);
      });
      worker.on('error', (error: Error) => failed(`it ended its thread: ${error.message}`));
      worker.on('exit', () => failed('its thread has ended'));
    });
  }

  #answered(id: number, result: string | undefined, error: string | undefined): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    clearTimeout(this.#watchdog);
    // Calls run one after the other, so each that ends gives the next its whole time.
    this.#watchdog = this.#waiting.size > 0 ? this.#watch(CALL_MS, 'it takes too long') : undefined;
    this.#options.report(error === undefined ? undefined : `it failed: ${error}`);
    waiting?.done(error === undefined ? result : undefined);
  }

  #watch(ms: number, problem: string): NodeJS.Timeout {
    return setTimeout(() => this.#fail(problem), ms).unref();
  }

  /** Whoever waits goes directly, and so does who comes soon. */
  #fail(problem: string): void {
    this.#restUntil = this.#options.clock.now() + REST_MS;
    this.#stopWorker();
    if (!this.#closed) this.#options.report(problem);
  }

  #stopWorker(): void {
    const worker = this.#worker;
    this.#worker = undefined;
    clearTimeout(this.#watchdog);
    this.#watchdog = undefined;
    this.#cache.clear();
    for (const { done } of this.#waiting.values()) done(undefined);
    this.#waiting.clear();
    worker?.removeAllListeners();
    worker?.on('error', () => {});
    void worker?.terminate();
  }

  #useScript(text: string | undefined, problem: string | undefined): void {
    if (this.#closed) return;
    if (problem !== undefined) this.#options.report(problem);
    if (text === undefined || text === this.#script) return;
    this.#script = text;
    this.#restUntil = 0;
    this.#stopWorker();
    // Ready before the first flow asks.
    this.#startWorker(text);
  }

  async #fetch(): Promise<void> {
    let again = REFETCH_MS;
    try {
      this.#useScript(await fetchText(this.#options.source.url), undefined);
    } catch (error) {
      again = RETRY_MS;
      // What was had before holds.
      if (!this.#closed) this.#options.report(`it cannot be fetched: ${(error as Error).message}`);
    }
    if (!this.#closed) this.#refetch = setTimeout(() => void this.#fetch(), again).unref();
  }
}

/** The program of the thread and its WebAssembly: beside this file, or where a bundle has put them. */
function workerFiles(): { readonly path: string; readonly wasmPath: string } {
  const here = import.meta.dirname;
  const path = [join(here, 'pac-worker.js'), join(here, 'proxy', 'pac-worker.js')].find((one) => existsSync(one));
  if (path === undefined) throw new Error('pac-worker.js is missing from this installation');
  const beside = join(here, 'quickjs.wasm');
  const wasmPath = existsSync(beside) ? beside : createRequire(path).resolve('quickjs-wasi/quickjs.wasm');
  return { path, wasmPath };
}

/** One GET; follows a few redirects. */
function fetchText(url: string, redirects = 3): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = url.startsWith('https:') ? httpsRequest : httpRequest;
    const req = request(url, { agent: false, timeout: FETCH_MS }, (response) => {
      const { statusCode = 0, headers } = response;
      const { location } = headers;
      if (statusCode >= 300 && statusCode < 400 && location !== undefined && redirects > 0) {
        response.resume();
        const next = new URL(location, url);
        if (/^https?:$/.test(next.protocol)) fetchText(next.href, redirects - 1).then(resolve, reject);
        else reject(new Error(`redirected to ${next.protocol}`));
        return;
      }
      if (statusCode !== 200) {
        response.resume();
        reject(new Error(`the server answered ${statusCode}`));
        return;
      }
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes > SCRIPT_MAX_BYTES) req.destroy(new Error('it is larger than 1 MiB'));
      });
      response.once('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
      response.once('error', reject);
    });
    // The whole of it, a server that dribbles included.
    const timer = setTimeout(() => req.destroy(new Error('no answer')), FETCH_MS);
    req.once('close', () => clearTimeout(timer));
    req.once('error', reject);
    req.end();
  });
}
