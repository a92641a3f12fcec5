// The `isthmus` program: it names what comes early, and what is loaded late. main.ts starts it from the sources, launcher.ts in the package.

import { VmSocket } from '../link/vm-socket.ts';
import { runCommand } from './command.ts';
import type { LoadNetwork } from './network-api.ts';

/** The VMs' sockets listen before the network behind them is loaded: launchers wait for them. */
const loadNetwork: LoadNetwork = async ({ vm }) => {
  const sockets: (VmSocket | undefined)[] = [];
  for (const { transport } of vm)
    sockets.push(transport.kind === 'listen' ? await VmSocket.listen(transport.path) : undefined);
  const { createNetwork } = await import('./network.ts');
  return (config, log) => createNetwork(config, log, sockets);
};

/** Runs the command line of this process. @param onStarted called once when `run` is up and has loaded all that it loads late. */
export async function startProgram(onStarted: () => void = () => {}): Promise<void> {
  process.exitCode = await runCommand(process.argv.slice(2), { loadNetwork, onStarted });
}
