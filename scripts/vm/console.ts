// Runs commands in the VM over its second serial line and gives back their status and output.
// Owns the host's end of the line protocol of `guest/agent`; knows nothing of QEMU.

import type { Socket } from 'node:net';

/** What a command in the guest came to. */
export interface CommandResult {
  readonly status: number;
  readonly output: string;
}

interface Pending {
  readonly id: number;
  readonly resolve: (result: CommandResult) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** How much later than the guest's own limit the host gives up. */
const SILENCE_MS = 10_000;

/** Longest script, in bytes: what the guest's tty buffer surely takes in one piece. */
const SCRIPT_MAX = 2800;

/** The command line into one VM. Commands run one after the other, in the order given. */
export class Console {
  readonly #socket: Socket;
  #buffered = '';
  #nextId = 1;
  #pending: Pending | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #closed: Error | undefined;
  #ready: () => void = () => {};
  /** Settles when the guest's agent has come up. */
  readonly ready: Promise<void>;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.ready = new Promise((resolve) => {
      this.#ready = resolve;
    });
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => this.#onText(text));
    socket.on('error', () => {});
    socket.on('close', () => this.#fail(new Error('the VM has gone')));
  }

  /**
   * Runs a bash script in the guest. A failing script resolves, also one that the guest ended because its time was over
   * (status 137); rejects only when the VM is gone or silent.
   */
  run(script: string, timeoutMs = 30_000): Promise<CommandResult> {
    const result = this.#tail.then(() => this.#send(script, timeoutMs));
    this.#tail = result.catch(() => {});
    return result;
  }

  #send(script: string, timeoutMs: number): Promise<CommandResult> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    const bytes = Buffer.from(script);
    if (bytes.length > SCRIPT_MAX) return Promise.reject(new Error(`script of ${bytes.length} bytes is too long`));
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const seconds = Math.ceil(timeoutMs / 1000);
      const timer = setTimeout(
        () => this.#fail(new Error(`the guest is silent after ${seconds} s of: ${script.slice(0, 200)}`)),
        timeoutMs + SILENCE_MS,
      );
      this.#pending = { id, resolve, reject, timer };
      this.#socket.write(`${id} ${seconds} ${bytes.toString('base64')}\n`);
    });
  }

  #onText(text: string): void {
    this.#buffered += text;
    for (;;) {
      const end = this.#buffered.indexOf('\n');
      if (end < 0) return;
      const line = this.#buffered.slice(0, end).trim();
      this.#buffered = this.#buffered.slice(end + 1);
      if (line.endsWith('READY')) this.#ready();
      const done = /DONE (\d+) (\d+) ?(\S*)$/.exec(line);
      const pending = this.#pending;
      if (done === null || pending === undefined || Number(done[1]) !== pending.id) continue;
      clearTimeout(pending.timer);
      this.#pending = undefined;
      pending.resolve({ status: Number(done[2]), output: Buffer.from(done[3] ?? '', 'base64').toString() });
    }
  }

  /** After a time-out the line is out of step, so the console is of no more use. */
  #fail(error: Error): void {
    this.#closed ??= error;
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending === undefined) return;
    clearTimeout(pending.timer);
    pending.reject(error);
  }
}
