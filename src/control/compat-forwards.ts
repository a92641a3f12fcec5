// Forwards as other programs' control protocols make them, on the table of all forwards. Theirs last as long as the daemon, as with those
// programs, and are not restored by a restart; each is labelled with what its protocol calls it, so that it is listed as it was asked for.

import type { Forward, ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import { ApiError } from './api-error.ts';
import type { ForwardTable } from './resources.ts';

/** Names of the labels that hold what gvproxy's protocol called the ends. */
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

  /** The forward that this protocol has made under this name. */
  find(name: string): Forward | undefined {
    return this.#table.list({ key: this.#key(name) })[0];
  }

  all(): readonly Forward[] {
    return this.#table.list();
  }

  /** Every port of every forward that these protocols have words for. */
  ports(): CompatPort[] {
    return this.#table.list().flatMap(portsOf);
  }

  /** Those that this protocol has made. */
  own(): readonly Forward[] {
    return this.#table.list({ owner: this.owner });
  }

  /**
   * Ends a forward that is listed as this port.
   * @returns false if it is gone.
   * @throws ApiError for a port of a range: a range has one life, and who ends one port does not mean the others.
   */
  async remove({ forward, ofRange }: CompatPort): Promise<boolean> {
    if (!ofRange) return this.#table.remove(forward.id);
    const { key, id } = forward;
    throw new ApiError(409, 'ERR_FORWARD_RANGE', `it is a port of the range ${key} (id ${id}), which ends as a whole`);
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

/** One port, or one unix socket, that a forward listens on, and where it leads. */
export interface CompatPort {
  readonly forward: Forward;
  /** Place in the range; 0 where there is one port. */
  readonly index: number;
  /** There are others. */
  readonly ofRange: boolean;
  readonly protocol: 'tcp' | 'udp' | 'unix';
  /** Without brackets; a path for `unix`. */
  readonly host: string;
  /** What is really bound; 0 for `unix`. */
  readonly port: number;
  /** Empty: the only VM. */
  readonly guest: string;
  readonly guestPort: number;
}

/** The ports of a forward one by one, as these protocols know no ranges; none where they have no words for its kind. */
export function portsOf(forward: Forward): CompatPort[] {
  const { spec, bound } = forward;
  const { listen, target } = spec;
  if (target.kind !== 'guest') return [];
  const { guest = '' } = target;
  if (listen.kind === 'unix') {
    const { path: host } = listen;
    return [{ forward, index: 0, ofRange: false, protocol: 'unix', host, port: 0, guest, guestPort: target.port }];
  }
  if (listen.kind !== 'tcp' && listen.kind !== 'udp') return [];
  const { kind: protocol, address: host, count = 1 } = listen;
  return Array.from({ length: count }, (_, index) => {
    const port = splitHostPort(bound[index] ?? '')?.port ?? listen.port + index;
    return { forward, index, ofRange: count > 1, protocol, host, port, guest, guestPort: target.port + index };
  });
}

/** `HOST:PORT`, IPv6 in brackets. */
export function joinHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
