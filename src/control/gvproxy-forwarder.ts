// gvproxy's `/services/forwarder/*` (gvisor-tap-vsock, pkg/services/forwarder): the three requests that publish ports, with its fields,
// statuses and error texts. The same code serves the host's socket and the gateway's port 80 inside guests, where a caller may only
// publish ports of its own.

import type { Forward, ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import { OperatorError } from '../host/operator-error.ts';
import { asApiError } from './api-error.ts';
import {
  type CompatForwards,
  type CompatPort,
  joinHostPort,
  LOCAL_LABEL,
  portsOf,
  REMOTE_LABEL,
  splitHostPort,
} from './compat-forwards.ts';
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

/** Owners of what is made on the host, and by guests. */
export const OWNER = 'gvproxy';
export const GUEST_OWNER = 'gvproxy-guest';
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
    const listed = guest === undefined ? this.#forwards.ports() : this.#ofGuest(guest).flatMap(portsOf);
    const tunnels = guest === undefined ? [...this.#tunnels.values()].filter((tunnel) => tunnel !== undefined) : [];
    const entries: GvproxyForward[] = [
      ...listed.map(entryOf),
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
    if (protocol === 'unix' && this.#tunnels.has(local)) throw running(protocol, local);
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
    if (found === undefined || !(await this.#forwards.remove(found))) throw new GoError(500, 'proxy not found');
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

  #ofGuest(guest: string): readonly Forward[] {
    return this.#forwards.own().filter(({ spec }) => spec.target.kind === 'guest' && spec.target.guest === guest);
  }

  /** What is listed under this name; guests find only what they have made. */
  #find(protocol: string, local: string, guest: string | undefined): CompatPort | undefined {
    const own = this.#forwards.find(nameOf(protocol, local));
    const [port] = own === undefined ? [] : portsOf(own);
    if (guest !== undefined) return port?.guest === guest ? port : undefined;
    if (port !== undefined) return port;
    const at = protocol === 'unix' ? undefined : splitHostPort(local);
    const canonical = at === undefined ? local : joinHostPort(at.host === '' ? '::' : at.host, at.port);
    return this.#forwards
      .ports()
      .find((p) => p.protocol === protocol && (entryOf(p).local === local || boundAt(p) === canonical));
  }
}

function boundAt({ protocol, host, port }: CompatPort): string {
  return protocol === 'unix' ? host : joinHostPort(host, port);
}

/** As it was asked for where that was by this protocol. */
function entryOf(port: CompatPort): GvproxyForward {
  const { forward, protocol, guest, guestPort } = port;
  const { owner, labels } = forward.spec;
  const given = owner === OWNER || owner === GUEST_OWNER ? labels : undefined;
  const remote = `${protocol === 'unix' ? 'tcp://' : ''}${guest}:${guestPort}`;
  return { local: given?.[LOCAL_LABEL] ?? boundAt(port), remote: given?.[REMOTE_LABEL] ?? remote, protocol };
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
      // Go would ask the resolver.
      const host = at.host === 'localhost' ? '127.0.0.1' : at.host;
      const any = host === '' || host === '0.0.0.0' || host === '::';
      const listen: ForwardListen = any
        ? { kind: protocol, address: '::', port: at.port, v6Only: false }
        : { kind: protocol, address: host, port: at.port };
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
  // Another forward of this table has the place, whoever made it.
  const ours = 'holder' in (error as object) && (error as { holder?: unknown }).holder !== undefined;
  if (ours) return running(protocol, local);
  const words: Record<string, string> = {
    ERR_PORT_IN_USE: 'address already in use',
    ERR_ADDRESS_NOT_LOCAL: 'cannot assign requested address',
    ERR_PORT_PRIVILEGED: 'permission denied',
  };
  const why = words[refusal.code];
  if (why !== undefined) return new GoError(500, `listen ${protocol} ${local}: bind: ${why}`);
  const message = refusal.message.replace(/^target\.\w+/, 'remote').replace(/^listen\.\w+/, 'local');
  return new GoError(refusal.key?.startsWith('target.') === true ? 400 : 500, message);
}
