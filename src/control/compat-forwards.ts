// Forwards as other programs' control protocols make them, on the table of all forwards. Theirs last as long as the daemon, as with those
// programs, and are not restored by a restart; each is labelled with what its protocol calls it, so that it is listed as it was asked for.

import type { Forward, ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import type { ForwardTable } from './resources.ts';

/** Names of the labels that hold what a protocol called the ends. */
export const LOCAL_LABEL = 'local';
export const REMOTE_LABEL = 'remote';

export class CompatForwards {
  readonly owner: string;
  readonly #table: ForwardTable;
  /** Stands for a control connection that lasts as long as the daemon. */
  readonly #holder: object = {};

  /** @param owner names the protocol. */
  constructor(table: ForwardTable, owner: string) {
    this.#table = table;
    this.owner = owner;
  }

  /** @throws ForwardError ERR_FORWARD_EXISTS where the key is taken by another one. */
  async add(
    name: string,
    listen: ForwardListen,
    target: ForwardTarget,
    labels: Readonly<Record<string, string>>,
  ): Promise<{ readonly forward: Forward; readonly created: boolean }> {
    return this.#table.add(
      { key: this.#key(name), listen, target, lease: 'connection', owner: this.owner, labels },
      { holder: this.#holder },
    );
  }

  /** The forward of this name; else one of anybody's whose key is `fallback`. */
  find(name: string, fallback?: string): Forward | undefined {
    const own = this.#table.list({ key: this.#key(name) })[0];
    return own ?? (fallback === undefined ? undefined : this.#table.list({ key: fallback })[0]);
  }

  /** Those that this protocol has made. */
  own(): readonly Forward[] {
    return this.#table.list({ owner: this.owner });
  }

  all(): readonly Forward[] {
    return this.#table.list();
  }

  remove(id: string): Promise<boolean> {
    return this.#table.remove(id);
  }

  #key(name: string): string {
    return `${this.owner}:${name}`;
  }
}

/** `HOST:PORT` with IPv6 in brackets, as Go's net.SplitHostPort takes it. @returns undefined where it is none. */
export function splitHostPort(text: string): { readonly host: string; readonly port: number } | undefined {
  const m = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (m === null || Number(m[3]) > 65_535) return undefined;
  return { host: m[1] ?? m[2]!, port: Number(m[3]) };
}

/** What a forward listens on, and where it leads, as one address each; undefined where a protocol has no words for it. */
export function endsOf({
  spec,
  bound,
}: Forward): { local: string; remote: string; protocol: 'tcp' | 'udp' | 'unix' } | undefined {
  const { listen, target, labels } = spec;
  if (target.kind !== 'guest') return undefined;
  const remote = labels?.[REMOTE_LABEL] ?? `${target.guest ?? ''}:${target.port}`;
  if (listen.kind === 'unix') return { local: listen.path, remote, protocol: 'unix' };
  if (listen.kind !== 'tcp' && listen.kind !== 'udp') return undefined;
  const host = listen.address.includes(':') ? `[${listen.address}]` : listen.address;
  const local = labels?.[LOCAL_LABEL] ?? bound[0] ?? `${host}:${listen.port}`;
  return { local, remote, protocol: listen.kind };
}
