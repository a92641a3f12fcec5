// Guest-facing addresses: TCP ports inside the virtual network that lead to a socket of the host, which is how a guest reaches an engine's or
// an agent's socket. It owns which (address, port) is whose; the addresses themselves are answered for by the stack.

import type { Millis } from '../base/clock.ts';
import { dialPath, dialTcp } from '../host/host-stream.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';
import { RefuseReason, type TcpFlow } from '../stack/ports.ts';
import type { OpenForward } from './forward-opener.ts';
import {
  type CheckedForward,
  type ForwardCounters,
  ForwardError,
  type GuestListen,
  type HostTcpTarget,
  type HostUnixTarget,
} from './forward-spec.ts';
import { HostFlow, type HostFlowContext } from './host-flow.ts';
import { type HostFlowGroups, killFlows } from './host-flow-groups.ts';
import { formatAddress } from './host-listener.ts';

/** The addresses that the network answers for. */
export interface ServiceAddresses {
  /** True for the gateway and the host alias, which are there anyway. */
  isOwn(address: IpAddress): boolean;
  /** What of isthmus's own listens there on TCP, in words; undefined for nothing. */
  serviceAt(address: IpAddress, port: number): string | undefined;
  /** Takes an address for ourselves. @returns false if a VM has it, or is to have it. */
  claim(address: IpAddress): boolean;
  release(address: IpAddress): void;
}

/** Takes flows of guests before anybody else does. */
export interface FlowInterceptor {
  /** @returns false if it is none of its own. */
  onSyn(flow: TcpFlow, now: Millis): boolean;
}

/** A key of (IPv4 address, port): 48 bits. */
function keyOf(address: IpAddress, port: number): number {
  return (address.v4 >>> 0) * 65536 + port;
}

class GuestService implements OpenForward {
  readonly bound: readonly string[];
  readonly address: IpAddress;
  readonly port: number;
  readonly count: number;
  readonly context: HostFlowContext;
  target: HostTcpTarget | HostUnixTarget;
  readonly #services: GuestServices;

  constructor(services: GuestServices, spec: CheckedForward, context: HostFlowContext) {
    const listen = spec.listen as GuestListen;
    this.#services = services;
    this.context = context;
    this.target = spec.target as HostTcpTarget | HostUnixTarget;
    this.address = parseAddress(listen.address)!;
    this.port = listen.port;
    this.count = listen.count ?? 1;
    this.bound = Array.from({ length: this.count }, (_, i) => formatAddress(listen.address, this.port + i));
  }

  get counters(): ForwardCounters {
    const { stats, live } = this.context;
    const { dialled, dialFailed: refused, bytesToHost: bytesToTarget, bytesToGuest: bytesToClient } = stats;
    return { connections: dialled, active: live.size, refused, bytesToTarget, bytesToClient };
  }

  retarget(spec: CheckedForward): void {
    this.target = spec.target as HostTcpTarget | HostUnixTarget;
  }

  close(): void {
    this.#services.close(this);
  }

  reset(): void {
    killFlows(this.context);
  }
}

export class GuestServices implements FlowInterceptor {
  readonly #groups: HostFlowGroups;
  readonly #addresses: ServiceAddresses;
  readonly #byPort = new Map<number, GuestService>();
  /** How many services each address has, of those that are only here for them. */
  readonly #uses = new Map<number, number>();

  constructor(groups: HostFlowGroups, addresses: ServiceAddresses) {
    this.#groups = groups;
    this.#addresses = addresses;
  }

  /** @throws ForwardError */
  open(spec: CheckedForward): OpenForward {
    const listen = spec.listen as GuestListen;
    const address = parseAddress(listen.address)!;
    const count = listen.count ?? 1;
    const own = this.#addresses.isOwn(address);
    for (let port = listen.port; own && port < listen.port + count; port++) {
      const what = this.#addresses.serviceAt(address, port);
      if (what === undefined) continue;
      throw new ForwardError(
        'ERR_PORT_IN_USE',
        `${formatAddress(listen.address, port)} is isthmus's own ${what}; choose another port`,
        { field: 'listen.port' },
      );
    }
    if (!own) {
      const uses = this.#uses.get(address.v4) ?? 0;
      if (uses === 0 && !this.#addresses.claim(address)) {
        throw new ForwardError(
          'ERR_ADDRESS_TAKEN',
          `listen.address is ${address}, which is a VM's; give an address of the network that no VM has`,
          { field: 'listen.address' },
        );
      }
      this.#uses.set(address.v4, uses + 1);
    }
    const service = new GuestService(this, spec, this.#groups.open());
    for (let i = 0; i < count; i++) this.#byPort.set(keyOf(address, listen.port + i), service);
    return service;
  }

  close(service: GuestService): void {
    const { address, port, count, context } = service;
    const key = keyOf(address, port);
    if (this.#byPort.get(key) !== service) return;
    for (let i = 0; i < count; i++) this.#byPort.delete(key + i);
    this.#groups.close(context);
    const uses = this.#uses.get(address.v4);
    if (uses === undefined) return;
    if (uses > 1) this.#uses.set(address.v4, uses - 1);
    else {
      this.#uses.delete(address.v4);
      this.#addresses.release(address);
    }
  }

  onSyn(flow: TcpFlow, now: Millis): boolean {
    if (this.#byPort.size === 0 || !flow.remote.isV4) return false;
    const service = this.#byPort.get(keyOf(flow.remote, flow.remotePort));
    if (service !== undefined) {
      dial(flow, service);
      return true;
    }
    if (!this.#uses.has(flow.remote.v4)) return false;
    // Ours, and nobody there.
    flow.refuse(RefuseReason.Refused, now);
    return true;
  }
}

function dial(flow: TcpFlow, { target, context, port }: GuestService): void {
  const hostFlow = new HostFlow(flow, context, false);
  flow.owner = hostFlow;
  context.stats.dialled++;
  const stream =
    target.kind === 'unix'
      ? dialPath(target.path, hostFlow)
      : dialTcp(target.address, target.port + (flow.remotePort - port), hostFlow);
  hostFlow.attach(stream, true);
}
