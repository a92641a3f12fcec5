// A program of ours inside a namespace that does what a test asks by IPC. `Agent` is the test's end, `serveOperations` the program's.

import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import type { Namespace } from './namespace.ts';

/** What a program can be asked for, by name. Arguments and results cross as JSON. */
type OperationTable = Record<string, (...args: never[]) => unknown>;

interface Request {
  readonly id: number;
  readonly operation: string;
  readonly args: unknown[];
}

interface Waiter {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

/** The message that says the program is up answers this request. */
const UP = 0;

/** The errno code of anything thrown, else its text. */
export function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

/** Runs operations for the process that started this one, until it goes away. */
export function serveOperations(operations: OperationTable): void {
  if (process.send === undefined) return;
  process.on('message', ({ id, operation, args }: Request) => {
    const run = async (): Promise<unknown> => operations[operation]!(...(args as never[]));
    run().then(
      (result) => process.send!({ id, result }),
      (error) => process.send!({ id, error: `${operation}: ${codeOf(error)}` }),
    );
  });
  process.on('disconnect', () => process.exit(0));
  process.send({ id: UP, result: 'up' });
}

/** The other end; the program ends with its namespace. */
export class Agent<O extends OperationTable> {
  /** Resolves when the program takes requests. */
  readonly ready: Promise<void>;
  readonly #child: ChildProcess;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = UP + 1;

  /** @param program the compiled program, which calls `serveOperations`. */
  constructor(namespace: Namespace, program: URL) {
    const args = [...WITHOUT_HOOKS, process.execPath, fileURLToPath(program)];
    const child = namespace.spawn('env', args, { ipc: true });
    this.#child = child;
    child.stderr!.on('data', (chunk: Buffer) => process.stderr.write(chunk));
    child.on('message', (message: { id: number; result?: unknown; error?: string }) => {
      const waiter = this.#waiters.get(message.id);
      this.#waiters.delete(message.id);
      if (message.error !== undefined) waiter?.reject(new Error(message.error));
      else waiter?.resolve(message.result as never);
    });
    child.once('exit', (code, signal) => {
      for (const waiter of this.#waiters.values())
        waiter.reject(new Error(`the agent in ${namespace.name} has ended (${signal ?? code})`));
      this.#waiters.clear();
    });
    this.ready = new Promise((resolve, reject) => {
      this.#waiters.set(UP, { resolve: () => resolve(), reject });
    });
  }

  /** Runs one operation inside the namespace. */
  call<K extends keyof O & string>(operation: K, ...args: Parameters<O[K]>): Promise<Awaited<ReturnType<O[K]>>> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiters.set(id, { resolve: resolve as (value: never) => void, reject });
      this.#child.send({ id, operation, args }, (error) => {
        if (error !== null) reject(error);
      });
    });
  }
}
