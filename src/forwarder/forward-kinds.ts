// Opens forwards of every kind: which listener and which way to the target a spec asks for. It keeps nothing but the inherited descriptors
// that have been used up.

import type { ForwardOpener, OpenForward } from './forward-opener.ts';
import { type CheckedForward, ForwardError, type ForwardListen } from './forward-spec.ts';
import type { GuestServices } from './guest-services.ts';
import type { GuestStreamsOptions } from './guest-stream.ts';
import { type HostListener, type ListenerOwner, listenFd, listenTcp, listenUnix } from './host-listener.ts';
import { vsockListenPath } from './hybrid-vsock.ts';
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
  readonly #usedDescriptors = new Set<string>();

  constructor(options: ForwardKindsOptions) {
    this.#options = options;
  }

  async open(spec: CheckedForward): Promise<OpenForward> {
    const { streams, datagrams, services } = this.#options;
    const { listen } = spec;
    const protocol = listen.kind === 'fd' ? listen.protocol : listen.kind;
    if (protocol === 'udp')
      return this.#giveBack(listen, () => UdpForward.open(datagrams, streams.guests, spec, this.#descriptorOf(listen)));
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
        return await this.#giveBack(listen, () => listenFd(listen.name, this.#descriptorOf(listen)!, owner));
      case 'vsock':
        return await listenUnix(vsockListenPath(listen), owner);
      default:
        throw new ForwardError('ERR_FORWARD_SPEC', `listen.kind is ${listen.kind}, which is no listener of streams`, {
          field: 'listen.kind',
        });
    }
  }

  /** A descriptor that was no good is still there for another try. */
  async #giveBack<T>(listen: ForwardListen, open: () => T | Promise<T>): Promise<T> {
    try {
      return await open();
    } catch (error) {
      if (listen.kind === 'fd' && error instanceof ForwardError && error.code === 'ERR_LISTEN_FD')
        this.#usedDescriptors.delete(listen.name);
      throw error;
    }
  }

  /** The descriptor of an `fd` listener, which is used up by this: closing the forward closes it. */
  #descriptorOf(listen: ForwardListen): number | undefined {
    if (listen.kind !== 'fd') return undefined;
    const { name } = listen;
    const fd = this.#options.descriptors.get(name);
    if (fd === undefined) {
      throw new ForwardError('ERR_LISTEN_FD', `listen.name is ${name}, which no --listen-fd ${name}=FD has handed in`, {
        field: 'listen.name',
      });
    }
    if (this.#usedDescriptors.has(name)) {
      throw new ForwardError(
        'ERR_LISTEN_FD_USED',
        `the descriptor of --listen-fd ${name} was closed with the forward that had it; start the daemon with it anew`,
        { field: 'listen.name' },
      );
    }
    this.#usedDescriptors.add(name);
    return fd;
  }
}
