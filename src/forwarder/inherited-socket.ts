// Sockets that were handed in (`--listen-fd`). The descriptor is all there is of one: closed, it could not be had again. So it stays open when its
// forward is withdrawn, and turns clients away until the next forward takes it.

import net from 'node:net';
import { ACCEPT_OPTIONS } from '../host/host-stream.ts';
import { errnoOf } from './errno.ts';
import { ForwardError } from './forward-spec.ts';
import { formatAddress, type HostListener, type ListenerOwner, listening, serve } from './host-listener.ts';
import type { PublishedUdp } from './udp-publisher.ts';

/** A descriptor by its name, and what it has turned out to be. */
export class InheritedSocket {
  readonly name: string;
  readonly fd: number;
  /** The open UDP port that it is. */
  udp: PublishedUdp | undefined = undefined;
  #stream: InheritedStream | undefined;

  constructor(name: string, fd: number) {
    this.name = name;
    this.fd = fd;
  }

  /** Clients are this owner's until the listener is closed. @throws ForwardError ERR_LISTEN_FD; it may be tried again. */
  async listen(owner: ListenerOwner): Promise<HostListener> {
    if (this.udp !== undefined) throw this.wrongKind('a bound stream socket');
    this.#stream ??= await InheritedStream.open(this);
    return this.#stream.lead(owner);
  }

  /** @throws ForwardError ERR_LISTEN_FD if it has turned out to be no UDP socket. */
  checkUdp(): void {
    if (this.#stream !== undefined) throw this.wrongKind('a bound UDP socket');
  }

  /** The error for one that is none of the kind that is asked for. */
  wrongKind(wanted: string, why = `is not ${wanted}`, cause?: unknown): ForwardError {
    return new ForwardError(
      'ERR_LISTEN_FD',
      `the descriptor ${this.fd} of --listen-fd ${this.name} ${why}; hand in one`,
      {
        field: 'listen.name',
        cause,
      },
    );
  }

  /** Closes the descriptor for good. */
  close(): void {
    this.#stream?.close();
    this.udp?.close();
  }
}

class InheritedStream {
  readonly #server: net.Server;
  readonly #bound: string;
  #owner: ListenerOwner | undefined;

  private constructor(server: net.Server, name: string) {
    this.#server = server;
    const at = server.address();
    const isPipe = at === null || typeof at === 'string';
    this.#bound = isPipe ? (at ?? `fd:${name}`) : formatAddress(at.address, at.port);
    serve(
      server,
      {
        onClient: (arrival, pipe) => {
          if (this.#owner === undefined) arrival.refuse();
          else this.#owner.onClient(arrival, pipe);
        },
        onAcceptFailed: () => this.#owner?.onAcceptFailed(),
      },
      isPipe,
    );
  }

  static async open(socket: InheritedSocket): Promise<InheritedStream> {
    const server = net.createServer(ACCEPT_OPTIONS);
    try {
      await listening(server, { fd: socket.fd });
    } catch (error) {
      const errno = errnoOf(error);
      const why = errno === 'EINVAL' ? undefined : `cannot be listened on (${errno})`;
      throw socket.wrongKind('a bound stream socket', why, error);
    }
    return new InheritedStream(server, socket.name);
  }

  lead(owner: ListenerOwner): HostListener {
    this.#owner = owner;
    return {
      bound: this.#bound,
      close: () => {
        if (this.#owner === owner) this.#owner = undefined;
      },
    };
  }

  close(): void {
    this.#owner = undefined;
    this.#server.close();
  }
}
