// Which file of the state directory is whose.

import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import type { Config } from './config.ts';

/**
 * One file for each set of links and network: daemons of different launchers share the default state directory, and none may
 * overwrite another's state. The same command line finds its own again.
 */
export function stateFileName(what: 'leases' | 'state', config: Config): string {
  const links = config.vm.map(({ framing, transport }) =>
    transport.kind === 'listen' ? `${framing}:${resolve(transport.path)}` : `${framing}:${transport.kind}`,
  );
  const identity = JSON.stringify([config.network.toString(), ...links.sort()]);
  return `${what}-${createHash('sha256').update(identity).digest('hex').slice(0, 12)}.json`;
}
