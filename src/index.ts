// The package as a library: the daemon's network inside another Node process, and the embedded guest to try it with.

import { loadConfig } from './daemon/config.ts';
import { isOptionName, type OptionName } from './daemon/config-schema.ts';
import type { GivenValue } from './daemon/given-value.ts';
import { LogRoot } from './daemon/log.ts';
import { createNetwork as wireNetwork } from './daemon/network.ts';
import type { NetworkService } from './daemon/network-api.ts';
import { ExitCode } from './host/exit-code.ts';
import { OperatorError } from './host/operator-error.ts';

export type { Health, NetworkService, ReadyInfo, ReadyPort, ReadyVm } from './daemon/network-api.ts';
export type { StatsMetric, StatsSample, StatsSource } from './daemon/stats-source.ts';
export { ExitCode } from './host/exit-code.ts';
export { OperatorError } from './host/operator-error.ts';

/** The daemon's options by the names they have in the configuration file, with the same values as text. */
export type NetworkOptions = Readonly<Record<string, string | number | readonly string[]>>;

/**
 * Makes a network that does nothing yet; `start` opens its sockets and `stop` closes everything again. The log goes to stderr.
 * @throws OperatorError naming the option, what was wrong and what would be right.
 * @example
 * const network = await createNetwork({ vm: ['qemu:/tmp/vm.sock'], publish: ['127.0.0.1:8080:80'] });
 * await network.start();
 */
export async function createNetwork(options: NetworkOptions): Promise<NetworkService> {
  const given = new Map<OptionName, GivenValue>();
  for (const [name, value] of Object.entries(options)) {
    if (!isOptionName(name)) {
      throw new OperatorError(`createNetwork: there is no option "${name}"; see docs/configuration.md`, {
        code: 'ERR_CONFIG_UNKNOWN',
        exitCode: ExitCode.Config,
      });
    }
    const texts = typeof value === 'object' ? value.map(String) : [String(value)];
    given.set(name, { texts, source: { kind: 'flag', label: name } });
  }
  const uid = process.getuid?.() ?? 0;
  const { config } = await loadConfig({ flags: given, env: {}, uid });
  const root = new LogRoot(config.logLevel, process.stderr);
  await root.load();
  return wireNetwork(config, root.log);
}
