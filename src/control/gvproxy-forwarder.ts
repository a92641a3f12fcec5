// gvproxy's `/services/forwarder/*` (gvisor-tap-vsock, pkg/services/forwarder): the three requests that publish ports, with its fields,
// statuses and error texts. The same code serves the host's socket and the gateway's port 80 inside guests, where a caller may only
// publish ports of its own.

import type { ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import { OperatorError } from '../host/operator-error.ts';
import { asApiError } from './api-error.ts';
import { type CompatForwards, endsOf, LOCAL_LABEL, REMOTE_LABEL, splitHostPort } from './compat-forwards.ts';
import { field, GoError } from './go-http.ts';
import { type DialGuest, parseSshRemote, SshTunnel } from './ssh-tunnel.ts';

/** Who asks. */
export interface GvproxyCaller {
  /** Address of the guest; undefined: somebody on the host. */
  readonly guest: string | undefined;
}

/** One entry of `/services/forwarder/all`. */
export interface GvproxyForward {
  readonly local: string;
  readonly remote: string;
  readonly protocol: string;
}

/** Ports that one guest may publish by itself. */
const GUEST_FORWARDS_MAX = 512;

export class GvproxyForwarder {
  readonly #forwards: CompatForwards;
  readonly #dial: DialGuest | undefined;
  /** Through SSH, by local path; undefined while one is being made. */
  readonly #tunnels = new Map<string, SshTunnel | undefined>();

  /** @param dial for forwards through SSH; undefined: there are none, as for guests. */
  constructor(forwards: CompatForwards, dial?: DialGuest) {
    this.#forwards = forwards;
    this.#dial = dial;
  }

  /** Ends the forwards through SSH; the others are the table's. */
  stop(): void {
    for (const tunnel of this.#tunnels.values()) tunnel?.close(true);
    this.#tunnels.clear();
  }

  /** Sorted by local, then protocol. Guests see their own. */
  all({ guest }: GvproxyCaller): GvproxyForward[] {
    const listed = guest === undefined ? this.#forwards.all() : this.#ofGuest(guest);
    const tunnels = guest === undefined ? [...this.#tunnels.values()].filter((tunnel) => tunnel !== undefined) : [];
    const entries: GvproxyForward[] = [
      ...listed.map(endsOf).filter((e) => e !== undefined),
      ...tunnels.map(({ local, remote }) => ({ local, remote: remote.text, protocol: 'unix' })),
    ];
    return entries.sort((a, b) => compare(a.local, b.local) || compare(a.protocol, b.protocol));
  }

  /** @throws GoError with gvproxy's status and text. */
  async expose(body: Readonly<Record<string, unknown>>, caller: GvproxyCaller): Promise<void> {
    const local = field(body, 'local', 'ExposeRequest');
    const remote = field(body, 'remote', 'ExposeRequest');
    const protocol = field(body, 'protocol', 'ExposeRequest') || 'tcp';
    if (protocol === 'unix' && /^ssh-tunnel:/i.test(remote) && caller.guest === undefined) {
      await this.#exposeTunnel(local, remote);
      return;
    }
    const ends = protocol === 'tcp' || protocol === 'udp' ? remoteOf(remote, caller) : remote;
    const { listen, target } = endsFor(protocol, local, ends, caller);
    const labels = { [LOCAL_LABEL]: local, [REMOTE_LABEL]: ends };
    if (this.#tunnels.has(local) || this.#find(protocol, local, undefined) !== undefined)
      throw running(protocol, local);
    if (caller.guest !== undefined && this.#ofGuest(caller.guest).length >= GUEST_FORWARDS_MAX)
      throw new GoError(500, `a guest publishes at most ${GUEST_FORWARDS_MAX} ports`);
    try {
      const { created } = await this.#forwards.add(nameOf(protocol, local), listen, target, labels);
      // Somebody was quicker with the same.
      if (!created) throw running(protocol, local);
    } catch (error) {
      if (error instanceof GoError) throw error;
      throw listenError(error, protocol, local);
    }
  }

  /** @throws GoError */
  async unexpose(body: Readonly<Record<string, unknown>>, caller: GvproxyCaller): Promise<void> {
    const local = field(body, 'local', 'UnexposeRequest');
    const protocol = field(body, 'protocol', 'UnexposeRequest') || 'tcp';
    const tunnel = protocol === 'unix' && caller.guest === undefined ? this.#tunnels.get(local) : undefined;
    if (tunnel !== undefined) {
      this.#tunnels.delete(local);
      tunnel.close(false);
      return;
    }
    const found = this.#find(protocol, local, caller.guest);
    if (found === undefined || !(await this.#forwards.remove(found.id))) throw new GoError(500, 'proxy not found');
  }

  async #exposeTunnel(local: string, text: string): Promise<void> {
    const remote = parseSshRemote(text);
    if (this.#tunnels.has(local) || this.#find('unix', local, undefined) !== undefined) throw running('unix', local);
    if (this.#dial === undefined)
      throw new GoError(500, 'remote protocol for unix forwarder is not implemented: ssh-tunnel');
    this.#tunnels.set(local, undefined);
    try {
      this.#tunnels.set(local, await SshTunnel.open(local, remote, this.#dial));
    } catch (error) {
      this.#tunnels.delete(local);
      if (error instanceof OperatorError)
        throw new GoError(
          500,
          error.code === 'ERR_SOCKET_IN_USE' ? `listen unix ${local}: bind: address already in use` : error.message,
        );
      throw error;
    }
  }

  #ofGuest(guest: string): readonly ReturnType<CompatForwards['own']>[number][] {
    return this.#forwards.own().filter(({ spec }) => spec.target.kind === 'guest' && spec.target.guest === guest);
  }

  #find(protocol: string, local: string, guest: string | undefined): ReturnType<CompatForwards['find']> {
    if (guest !== undefined)
      return this.#ofGuest(guest).find((f) => f.key === `${this.#forwards.owner}:${nameOf(protocol, local)}`);
    // One that the option, the CLI or another protocol has made: by the key that it has by default.
    const at = splitHostPort(local);
    const host = at?.host === '' ? '::' : at?.host;
    const key =
      at === undefined ? `${protocol}:${local}` : `${protocol}:${host?.includes(':') ? `[${host}]` : host}:${at.port}`;
    return this.#forwards.find(nameOf(protocol, local), key);
  }
}

function nameOf(protocol: string, local: string): string {
  return `${protocol}:${local}`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function running(protocol: string, local: string): GoError {
  return new GoError(500, `proxy already running for ${protocol} on ${local}`);
}

/** `:port` is a port of the caller. */
function remoteOf(remote: string, { guest }: GvproxyCaller): string {
  const colon = remote.lastIndexOf(':');
  if (colon < 0) throw new GoError(400, `address ${remote}: missing port in address`);
  if (colon > 0) return remote;
  // A unix socket's peer has no address; this is how Go's own text comes out.
  if (guest === undefined) throw new GoError(400, 'address @: missing port in address');
  return `${guest}${remote}`;
}

function endsFor(
  protocol: string,
  local: string,
  remote: string,
  caller: GvproxyCaller,
): { listen: ForwardListen; target: ForwardTarget } {
  switch (protocol) {
    case 'tcp':
    case 'udp': {
      const target = guestTarget(remote, caller);
      const at = splitHostPort(local);
      if (at === undefined) throw new GoError(500, `listen ${protocol}: address ${local}: ${portProblem(local)}`);
      // As in Go, no address or an unspecified one is both families.
      const any = at.host === '' || at.host === '0.0.0.0' || at.host === '::';
      const listen: ForwardListen = any
        ? { kind: protocol, address: '::', port: at.port, v6Only: false }
        : { kind: protocol, address: at.host, port: at.port };
      return { listen, target };
    }
    case 'unix': {
      if (caller.guest !== undefined) throw new GoError(500, 'unix sockets of the host are not for guests to make');
      return { listen: { kind: 'unix', path: local }, target: unixTarget(remote, caller) };
    }
    case 'npipe':
      throw new GoError(500, 'named pipes are not supported by this platform');
    default:
      throw new GoError(500, `unknown protocol ${protocol}`);
  }
}

function unixTarget(remote: string, caller: GvproxyCaller): ForwardTarget {
  const url = /^([a-z][a-z0-9+.-]*):\/\/([^/?]*)([^?]*)(?:\?(.*))?$/i.exec(remote);
  const scheme = url?.[1]?.toLowerCase() ?? '';
  switch (scheme) {
    case 'tcp':
      return guestTarget(url![2]!, caller);
    default:
      throw new GoError(500, `remote protocol for unix forwarder is not implemented: ${scheme}`);
  }
}

function guestTarget(remote: string, { guest }: GvproxyCaller): ForwardTarget {
  const at = splitHostPort(remote);
  if (at === undefined || at.port === 0) throw new GoError(400, `address ${remote}: ${portProblem(remote)}`);
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(at.host)) throw new GoError(400, `invalid IP address: ${at.host}`);
  if (guest !== undefined && at.host !== guest)
    throw new GoError(
      400,
      `${at.host} is not the address of the caller, ${guest}: a guest publishes its own ports only`,
    );
  return { kind: 'guest', guest: at.host, port: at.port };
}

function portProblem(address: string): string {
  const colon = address.lastIndexOf(':');
  if (colon < 0) return 'missing port in address';
  return /^\d+$/.test(address.slice(colon + 1)) ? 'invalid port' : `unknown port ${address.slice(colon + 1)}`;
}

/** In the words of Go's net package where it has words for it. */
function listenError(error: unknown, protocol: string, local: string): GoError {
  const refusal = asApiError(error);
  if (refusal === undefined) throw error;
  const words: Record<string, string> = {
    ERR_PORT_IN_USE: 'address already in use',
    ERR_FORWARD_EXISTS: 'address already in use',
    ERR_ADDRESS_NOT_LOCAL: 'cannot assign requested address',
    ERR_PORT_PRIVILEGED: 'permission denied',
  };
  const why = words[refusal.code];
  return new GoError(500, why === undefined ? refusal.message : `listen ${protocol} ${local}: bind: ${why}`);
}
