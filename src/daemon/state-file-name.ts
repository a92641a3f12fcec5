// Which file of the state directory is whose.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
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

/**
 * One line for the log where nothing is kept for this command line yet, but something for others: after a change of `--vm` or `--network`
 * one looks for leases and forwards in vain. Undefined where there is nothing to say.
 */
export function foreignState(config: Config): string | undefined {
  const { stateDir } = config;
  if (stateDir === undefined) return undefined;
  const own = (['leases', 'state'] as const).map((what) => stateFileName(what, config));
  if (own.some((name) => existsSync(join(stateDir, name)) || existsSync(join(stateDir, `${name}.journal`))))
    return undefined;
  let others: { name: string; at: number }[];
  try {
    others = readdirSync(stateDir)
      .filter((name) => /^(leases|state)-[0-9a-f]{12}\.json(\.journal)?$/.test(name))
      .map((name) => ({ name, at: statSync(join(stateDir, name)).mtimeMs }));
  } catch {
    // No directory, or none that can be read: whoever opens the files tells.
    return undefined;
  }
  if (others.length === 0) return undefined;
  const newest = others.reduce((a, b) => (b.at > a.at ? b : a)).name;
  return `${stateDir} holds nothing for these --vm and --network, only what others left (newest: ${newest}); leases and forwards come back with the --vm and --network that they were made with`;
}
