// Everything that leads from the host's side to guests, wired: the table of forwards, who opens them, published UDP, and what `--publish` asks
// for. A part of the network; network.ts gives it what it stands on.

import { randomBytes } from 'node:crypto';
import { fstatSync } from 'node:fs';
import type { Clock } from '../base/clock.ts';
import { ClientAddresses } from '../forwarder/client-address.ts';
import type { Destinations } from '../forwarder/destination.ts';
import { type BindRule, ForwardChecker } from '../forwarder/forward-check.ts';
import { ForwardKinds } from '../forwarder/forward-kinds.ts';
import type { ForwardStore } from '../forwarder/forward-records.ts';
import { type Forward, ForwardError, type ForwardSpec } from '../forwarder/forward-spec.ts';
import { Forwards } from '../forwarder/forwards.ts';
import { GuestServices, type ServiceAddresses } from '../forwarder/guest-services.ts';
import { type GuestDirectory, TcpPublisherStats } from '../forwarder/guest-stream.ts';
import type { HostFlowContext } from '../forwarder/host-flow.ts';
import { HostFlowGroups } from '../forwarder/host-flow-groups.ts';
import { UdpPublisher } from '../forwarder/udp-publisher.ts';
import type { UdpSocketContext } from '../forwarder/udp-socket.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import type { DatagramSender, GuestConnector } from '../stack/ports.ts';
import type { NamedDescriptor } from './bind-grammar.ts';
import type { Log } from './log.ts';
import type { ReadyPort } from './network-api.ts';

export interface ForwardingOptions {
  readonly destinations: Destinations;
  readonly connector: GuestConnector;
  readonly sender: DatagramSender;
  readonly guests: GuestDirectory;
  /** VMs that are connected now. */
  readonly vms: () => number;
  readonly addresses: ServiceAddresses;
  /** The context of outgoing TCP flows. */
  readonly flows: HostFlowContext;
  readonly clock: Clock;
  /** Shared with outgoing UDP. */
  readonly sockets: UdpSocketContext;
  readonly onDeadlineChanged: () => void;
  readonly allowBind: readonly BindRule[];
  readonly listenFds: readonly NamedDescriptor[];
  readonly udpIdleMs: number;
  readonly udpMaxClients: number;
  /** Undefined: forwards of the API do not outlive the process. */
  readonly store: ForwardStore | undefined;
  readonly log: Log;
}

export class Forwarding {
  readonly forwards: Forwards;
  /** All flows with host sockets. */
  readonly flows: HostFlowGroups;
  readonly tcpStats: TcpPublisherStats = new TcpPublisherStats();
  readonly udp: UdpPublisher;
  /** Guest-facing addresses; asked about each flow that a guest opens. */
  readonly services: GuestServices;
  readonly #listenFds: readonly NamedDescriptor[];
  readonly #kinds: ForwardKinds;

  constructor(options: ForwardingOptions) {
    const { destinations, connector, sender, guests, clock, onDeadlineChanged, log } = options;
    this.#listenFds = options.listenFds;
    const clients = new ClientAddresses(destinations);
    this.flows = new HostFlowGroups(options.flows);
    this.udp = new UdpPublisher({
      clients,
      sender,
      clock,
      sockets: options.sockets,
      onDeadlineChanged,
      idleMs: options.udpIdleMs,
      maxClients: options.udpMaxClients,
    });
    this.services = new GuestServices(this.flows, options.addresses);
    this.#kinds = new ForwardKinds({
      streams: { connector, groups: this.flows, clients, guests, stats: this.tcpStats },
      datagrams: this.udp,
      services: this.services,
      descriptors: new Map(options.listenFds.map(({ name, fd }) => [name, fd])),
    });
    this.forwards = new Forwards({
      checker: new ForwardChecker({ destinations, allowBind: options.allowBind }),
      opener: this.#kinds,
      admit: ({ target }) => {
        if (target.kind === 'guest' && target.guest === undefined) refuseToChoose(options.vms());
      },
      store: options.store,
      wallClock: Date.now,
      newId: () => randomBytes(6).toString('hex'),
      report: (message) => log.warn({ event: 'forward' }, message),
    });
    this.forwards.onChange(({ type, forward }) => {
      const { id, key, bound, spec } = forward;
      log.info({ event: `forward.${type}`, id, key, bound, owner: spec.owner }, `forward ${type}`);
    });
  }

  /** Before anything of ours is opened, whose descriptor could be mistaken for one. @throws OperatorError */
  checkDescriptors(): void {
    for (const { name, fd } of this.#listenFds) {
      let wrong: string | undefined;
      try {
        if (!fstatSync(fd).isSocket()) wrong = `descriptor ${fd} is no socket`;
      } catch {
        wrong = `descriptor ${fd} is not open`;
      }
      if (wrong === undefined) continue;
      throw new OperatorError(`listen-fd: ${name}=${fd}: ${wrong}; pass a bound socket`, {
        code: 'ERR_LISTEN_FD',
        exitCode: ExitCode.Config,
      });
    }
  }

  /** Opens what `--publish` asks for. @throws OperatorError naming the first that cannot be had. */
  async publish(specs: readonly ForwardSpec[]): Promise<ReadyPort[]> {
    const ready: ReadyPort[] = [];
    for (const spec of specs) {
      try {
        const { forward } = await this.forwards.add(spec, { origin: 'config' });
        ready.push(...readyPorts(forward));
      } catch (error) {
        if (!(error instanceof ForwardError)) throw error;
        throw new OperatorError(`publish: ${error.message}`, {
          code: error.code,
          exitCode: exitCodeOf(error),
          cause: error,
        });
      }
    }
    return ready;
  }

  /** Stops listening and resets what runs. */
  close(): void {
    this.forwards.closeAll();
    this.#kinds.close();
    this.udp.close();
  }
}

/** A forward to the only VM would refuse all its clients: whoever asks for it now is told, instead of them. @throws ForwardError */
function refuseToChoose(vms: number): void {
  if (vms < 2) return;
  throw new ForwardError(
    'ERR_GUEST_AMBIGUOUS',
    `${vms} VMs are connected, and no guest is named; name one by its address, MAC address or host name`,
    { field: 'target.guest' },
  );
}

function readyPorts({ spec, bound }: Forward): ReadyPort[] {
  const { listen, target } = spec;
  const protocol = listen.kind === 'udp' || (listen.kind === 'fd' && listen.protocol === 'udp') ? 'udp' : 'tcp';
  const guest = target.kind === 'guest' ? (target.guest ?? '') : '';
  const port = 'port' in target ? target.port : 0;
  return bound.map((host, i) => ({ protocol, host, guest: `${guest}:${port + i}` }));
}

function exitCodeOf(error: ForwardError): ExitCode {
  switch (error.code) {
    case 'ERR_FORWARD_SPEC':
    case 'ERR_BIND_NOT_ALLOWED':
      return ExitCode.Config;
    case 'ERR_SOCKET_PATH':
      return ExitCode.CannotCreate;
    default:
      return ExitCode.Unavailable;
  }
}
