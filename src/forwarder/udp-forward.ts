// One open forward of datagrams: a published UDP port, or a range of them, as one. What a port does is udp-publisher's.

import { IpAddress, parseAddress } from '../ip/address.ts';
import type { OpenForward } from './forward-opener.ts';
import type { CheckedForward, ForwardCounters, GuestTarget } from './forward-spec.ts';
import type { GuestDirectory } from './guest-stream.ts';
import { bindError, formatAddress } from './host-listener.ts';
import type { InheritedSocket } from './inherited-socket.ts';
import type { PublishedUdp, UdpPublisher } from './udp-publisher.ts';

export class UdpForward implements OpenForward {
  readonly #guests: GuestDirectory;
  readonly #inherited: boolean;
  readonly #ports: PublishedUdp[] = [];
  #bound: readonly string[] = [];

  private constructor(guests: GuestDirectory, inherited: boolean) {
    this.#guests = guests;
    this.#inherited = inherited;
  }

  /** @param inherited the socket of an `fd` listener. @throws ForwardError; then nothing is left open. */
  static open(
    publisher: UdpPublisher,
    guests: GuestDirectory,
    spec: CheckedForward,
    inherited: InheritedSocket | undefined,
  ): UdpForward {
    inherited?.checkUdp();
    const forward = new UdpForward(guests, inherited !== undefined);
    const { listen } = spec;
    const host = listen.kind === 'udp' ? parseAddress(listen.address)! : IpAddress.v4(0);
    const first = listen.kind === 'udp' ? listen.port : 0;
    const count = listen.kind === 'udp' ? (listen.count ?? 1) : 1;
    const v6Only = listen.kind === 'udp' ? (listen.v6Only ?? true) : true;
    for (let i = 0; i < count; i++) {
      const { guestOf, guestPort } = forward.#way(spec, i);
      const options = { mode: spec.client, v6Only, fd: inherited?.fd };
      const port = inherited?.udp ?? publisher.publish(host, first + i, guestOf, guestPort, options);
      if (typeof port === 'string') {
        forward.close();
        throw inherited?.wrongKind('a bound UDP socket') ?? bindError('udp', host.toString(), first + i, port);
      }
      if (inherited !== undefined) {
        inherited.udp = port;
        port.restart(guestOf, guestPort, spec.client);
      }
      forward.#ports.push(port);
    }
    forward.#bound = forward.#ports.map((port) =>
      formatAddress(inherited === undefined ? host.toString() : port.socket.address, port.hostPort),
    );
    return forward;
  }

  get bound(): readonly string[] {
    return this.#bound;
  }

  get counters(): ForwardCounters {
    const sum = { connections: 0, active: 0, refused: 0, bytesToTarget: 0, bytesToClient: 0 };
    for (const port of this.#ports) {
      sum.connections += port.clientsOpened;
      sum.active += port.size;
      sum.refused += port.refused;
      sum.bytesToTarget += port.bytesToGuest;
      sum.bytesToClient += port.bytesToHost;
    }
    return sum;
  }

  retarget(spec: CheckedForward): void {
    for (const [i, port] of this.#ports.entries()) Object.assign(port, this.#way(spec, i), { mode: spec.client });
  }

  /** Its clients are gone with the socket: without it no answer could reach them. */
  close(): void {
    for (const port of this.#ports.splice(0)) {
      if (this.#inherited) port.park();
      else port.close();
    }
  }

  reset(): void {
    this.close();
  }

  #way(spec: CheckedForward, index: number): { guestOf: () => IpAddress | undefined; guestPort: number } {
    const target = spec.target as GuestTarget;
    return { guestOf: () => this.#guests.find(target.guest), guestPort: target.port + index };
  }
}
