// Opens forwards of every kind: which listener and which way to the target a spec asks for. It keeps nothing but the inherited
// sockets.

import type { ForwardOpener, OpenForward } from './forward-opener.ts';
import { type CheckedForward, ForwardError, type ForwardListen } from './forward-spec.ts';
import type { GuestServices } from './guest-services.ts';
import type { GuestStreamsOptions } from './guest-stream.ts';
import { type HostListener, type ListenerOwner, listenTcp, listenUnix } from './host-listener.ts';
import { vsockListenPath } from './hybrid-vsock.ts';
import { InheritedSocket } from './inherited-socket.ts';
import { StreamForward } from './stream-forward.ts';
import { UdpForward } from './udp-forward.ts';
import type { UdpPublisher } from './udp-publisher.ts';

export interface ForwardKindsOptions {
  readonly streams: GuestStreamsOptions;
  /** What guests connect to inside the network. */
  readonly services: GuestServices;
  readonly datagrams: UdpPublisher;
  /** `--listen-fd`: descriptors by name. */
  readonly descriptors: ReadonlyMap<string, number>;
}

export class ForwardKinds implements ForwardOpener {
  readonly #options: ForwardKindsOptions;
  readonly #sockets: ReadonlyMap<string, InheritedSocket>;

  constructor(options: ForwardKindsOptions) {
    this.#options = options;
    this.#sockets = new Map([...options.descriptors].map(([name, fd]) => [name, new InheritedSocket(name, fd)]));
  }

  async open(spec: CheckedForward): Promise<OpenForward> {
    const { streams, datagrams, services } = this.#options;
    const { listen } = spec;
    const protocol = listen.kind === 'fd' ? listen.protocol : listen.kind;
    if (protocol === 'udp') {
      const inherited = listen.kind === 'fd' ? this.#inherited(listen.name) : undefined;
      return UdpForward.open(datagrams, streams.guests, spec, inherited);
    }
    if (listen.kind === 'guest') return services.open(spec);
    const count = 'count' in listen ? (listen.count ?? 1) : 1;
    return await new StreamForward(streams, spec).open(count, (index, owner) => this.#listen(listen, index, owner));
  }

  async #listen(listen: ForwardListen, index: number, owner: ListenerOwner): Promise<HostListener> {
    switch (listen.kind) {
      case 'tcp':
        return await listenTcp(listen.address, listen.port + index, listen.v6Only ?? true, owner);
      case 'unix':
        return await listenUnix(listen.path, owner);
      case 'fd':
        return await this.#inherited(listen.name).listen(owner);
      case 'vsock':
        return await listenUnix(vsockListenPath(listen), owner);
      default:
        throw new ForwardError('ERR_FORWARD_SPEC', `listen.kind is ${listen.kind}, which is no listener of streams`, {
          field: 'listen.kind',
        });
    }
  }

  /** The socket of an `fd` listener. @throws ForwardError ERR_LISTEN_FD */
  #inherited(name: string): InheritedSocket {
    const socket = this.#sockets.get(name);
    if (socket !== undefined) return socket;
    throw new ForwardError('ERR_LISTEN_FD', `listen.name is ${name}, which no --listen-fd ${name}=FD has handed in`, {
      field: 'listen.name',
    });
  }

  /** Closes the inherited sockets, which forwards leave open. */
  close(): void {
    for (const socket of this.#sockets.values()) socket.close();
  }
}
