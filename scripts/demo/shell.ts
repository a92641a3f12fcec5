// `npm run demo -- --shell`: joins the user's terminal to the shell in the VM until they leave it.

import type { Machine } from '../vm/machine.ts';

const LEAVE = '\x1d'; // Ctrl-]
const ENDED = '[shell ended]';

/** Runs until the shell in the VM ends, Ctrl-] is typed, or the VM goes away. */
export async function shellInto(machine: Machine): Promise<void> {
  const { stdin, stdout } = process;
  if (stdout.isTTY) await machine.run(`stty -F /dev/ttyS0 rows ${stdout.rows} cols ${stdout.columns}`);
  console.log('A shell in the VM; leave with `exit` or Ctrl-].');
  await new Promise<void>((resolve) => {
    let tail = '';
    const finish = (): void => {
      if (stdin.isTTY) stdin.setRawMode(false);
      stdin.removeAllListeners('data');
      stdin.pause();
      machine.terminal.removeListener('data', fromVm);
      resolve();
    };
    const fromVm = (chunk: Buffer): void => {
      stdout.write(chunk);
      tail = (tail + chunk.toString('latin1')).slice(-200);
      if (tail.includes(ENDED)) finish();
    };
    machine.terminal.on('data', fromVm);
    machine.terminal.once('close', finish);
    if (stdin.isTTY) stdin.setRawMode(true);
    stdin.on('data', (chunk: Buffer) => {
      if (chunk.toString('latin1').includes(LEAVE)) finish();
      else machine.terminal.write(chunk);
    });
    // A fresh prompt: the one printed at boot has gone by.
    machine.terminal.write('\n');
    stdin.resume();
  });
  console.log();
}
