// The thread in which a PAC file runs: inside QuickJS, which is WebAssembly, so that the script has nothing but what PAC gives it. It may
// never come back from a call; whoever started the thread ends it then.

import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { createPacResolver } from 'pac-resolver';
import { QuickJS } from 'quickjs-wasi';

/** To the thread. */
export interface PacCall {
  readonly id: number;
  readonly url: string;
  readonly host: string;
}

/** From it. The first message has id 0: it is ready, or the script does not load. */
export interface PacAnswer {
  readonly id: number;
  readonly result?: string;
  readonly error?: string;
}

export interface PacWorkerData {
  readonly script: string;
  /** Where quickjs.wasm is. */
  readonly wasmPath: string;
}

const MEMORY_BYTES = 64 * 1024 * 1024;

async function run(): Promise<void> {
  const port = parentPort;
  if (port === null) return;
  const { script, wasmPath } = workerData as PacWorkerData;
  const answer = (message: PacAnswer): void => port.postMessage(message);
  try {
    const vm = await QuickJS.create({ wasm: readFileSync(wasmPath), memoryLimit: MEMORY_BYTES });
    const find = createPacResolver(vm, script, { sandbox: { alert: () => {} } });
    port.on('message', ({ id, url, host }: PacCall) => {
      find(url, host).then(
        (result) => answer({ id, result: String(result ?? '') }),
        (error: unknown) => answer({ id, error: (error as Error).message }),
      );
    });
    answer({ id: 0 });
  } catch (error) {
    answer({ id: 0, error: (error as Error).message });
  }
}

void run();
