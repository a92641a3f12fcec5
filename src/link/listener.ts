// Where VMs connect: a unix socket of ours, an inherited descriptor (connected or listening), or stdio.
// It owns accepting, the limit of links and their end; one connection is vm-link's, the socket file host/socket-file's.
//
// Guest vsock needs no code of its own: hypervisors hand it over as unix sockets (Firecracker and cloud-hypervisor
// connect to `uds_path_PORT`, HyperKit to a folder of sockets), so a listener on that path is the vsock link.

import net from 'node:net';
import { ExitCode } from '../host/exit-code.ts';
import { adoptStream } from '../host/host-stream.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import type { SocketFile } from '../host/socket-file.ts';
import { inspectSocket, pipeProblem } from './inherited-fd.ts';
import { LinkCounters } from './link-counters.ts';
import type { LinkUrl } from './link-url.ts';
import { type LinkContext, type LinkSource, VmLink } from './vm-link.ts';
import { VM_SERVER_OPTIONS, VmSocket } from './vm-socket.ts';

export interface ListenerOptions {
  readonly url: LinkUrl;
  /** Largest IP packet, 576 to 65,520. */
  readonly mtu: number;
  /** The socket of a path if it listens already. */
  readonly socket?: VmSocket | undefined;
  /** Links at once; a VM beyond that is turned away. */
  readonly maxLinks?: number;
  /** The only connection that there will ever be (stdio, connected descriptor) has ended. */
  readonly onFinished?: () => void;
}

export const DEFAULT_MAX_LINKS = 256;

/** One `--vm`. */
export class LinkListener {
  readonly url: LinkUrl;
  readonly mtu: number;
  /** Links that are, in order of arrival. */
  readonly links: Set<VmLink> = new Set();
  /** Connections ever accepted. */
  accepted = 0;
  /** Connections turned away because of `maxLinks`. */
  refused = 0;
  readonly #context: LinkContext;
  readonly #maxLinks: number;
  readonly #onFinished: (() => void) | undefined;
  readonly #past: LinkCounters = new LinkCounters();
  readonly #socket: VmSocket | undefined;
  #server: net.Server | undefined;
  #file: SocketFile | undefined;
  #whenEmpty: (() => void) | undefined;
  #closing = false;
  /** There is one connection and will be no other. */
  #only = false;

  constructor(options: ListenerOptions, context: LinkContext) {
    this.url = options.url;
    this.mtu = options.mtu;
    this.#socket = options.socket;
    this.#maxLinks = options.maxLinks ?? DEFAULT_MAX_LINKS;
    this.#onFinished = options.onFinished;
    this.#context = context;
  }

  /** Counters of all links, gone ones included. */
  totals(): LinkCounters {
    const total = new LinkCounters();
    this.#past.addTo(total);
    for (const link of this.links) link.counters.addTo(total);
    return total;
  }

  /**
   * Resolves once VMs can connect.
   * @throws OperatorError ERR_LINK_FD (78) for a descriptor that carries no link; those of `listenOnSocketFile` for a path.
   */
  async listen(): Promise<void> {
    const { place } = this.url;
    switch (place.kind) {
      case 'path':
        {
          const socket = this.#socket ?? (await VmSocket.listen(place.path));
          this.#server = socket.server;
          this.#file = socket.file;
          this.#watch(socket.server);
          socket.serve((connection) => this.#accept(connection));
        }
        return;
      case 'stdio': {
        const problem = pipeProblem(0) ?? pipeProblem(1);
        if (problem !== undefined) throw this.#badFd(problem, 'connect stdin and stdout to pipes or sockets');
        this.#addOnly((owner) => {
          const input = unreadSocket({ fd: 0, readable: true, writable: false });
          const output = unreadSocket({ fd: 1, readable: false, writable: true });
          return { input: adoptStream(input, owner), output: adoptStream(output, owner) };
        });
        return;
      }
      case 'fd':
        await this.#inherit(place.fd);
    }
  }

  /** Ends all links and stops listening; the socket file is gone when this returns, memory is free when it resolves. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#file?.release();
    this.#server?.close();
    for (const link of this.links) link.close('shutdown');
    if (this.links.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
  }

  #makeServer(): net.Server {
    const server = net.createServer(VM_SERVER_OPTIONS, (socket) => this.#accept(socket));
    this.#server = server;
    return server;
  }

  async #inherit(fd: number): Promise<void> {
    const found = inspectSocket(fd);
    const want = 'pass a stream socket, connected or listening';
    if ('wrong' in found) throw this.#badFd(found.wrong, want);
    if (found.kind === 'connected') {
      this.#addOnly((owner) => {
        const socket = unreadSocket({ fd, readable: true, writable: true, allowHalfOpen: true });
        const stream = adoptStream(socket, owner);
        return { input: stream, output: stream };
      });
      return;
    }
    const server = this.#makeServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        const gone = errnoOf(error) === 'EINVAL' && found.kind === 'maybe-listening';
        const wrong = gone ? `the peer of descriptor ${fd} has gone` : `descriptor ${fd}: ${error.message}`;
        reject(this.#badFd(wrong, want, error));
      });
      server.listen({ fd }, () => {
        server.removeAllListeners('error');
        resolve();
      });
    });
    this.#watch(server);
  }

  /** A failed accept (descriptors used up) costs that one connection. */
  #watch(server: net.Server): void {
    server.on('error', (error) => {
      this.#context.log.warn(
        { event: 'link.accept.failed', link: this.url.text, reason: error.message },
        'accept failed',
      );
    });
  }

  #accept(socket: net.Socket): void {
    if (this.#closing || this.links.size >= this.#maxLinks) {
      this.refused++;
      this.#context.log.warn(
        { event: 'link.refused', link: this.url.text, limit: this.#maxLinks },
        'too many VMs at once: connection turned away',
      );
      socket.destroy();
      return;
    }
    // While it waits for memory it is not read, but it can fail.
    socket.on('error', () => {});
    const source: LinkSource = {
      open: (owner) => {
        if (socket.destroyed) throw new Error('closed before it could be served');
        const stream = adoptStream(socket, owner);
        return { input: stream, output: stream };
      },
      discard: () => socket.destroy(),
    };
    try {
      this.#add(source);
    } catch (error) {
      this.#context.log.warn(
        { event: 'link.accept.failed', link: this.url.text, reason: String(error) },
        'accept failed',
      );
    }
  }

  #addOnly(open: LinkSource['open']): void {
    try {
      this.#add({ open, discard: () => {} });
      this.#only = true;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw this.#badFd(why, 'pass a connected stream socket', error);
    }
  }

  #add(source: LinkSource): void {
    const name = `${this.url.text}#${++this.accepted}`;
    const link = new VmLink(name, this.url.format, this.mtu, source, this.#context, (gone) => this.#gone(gone));
    this.links.add(link);
    link.start();
  }

  #gone(link: VmLink): void {
    this.links.delete(link);
    link.counters.addTo(this.#past);
    if (this.#only && !this.#closing) this.#onFinished?.();
    if (this.links.size === 0) this.#whenEmpty?.();
  }

  #badFd(wrong: string, want: string, cause?: unknown): OperatorError {
    return new OperatorError(`vm: ${this.url.text}: ${wrong}; ${want}`, {
      code: 'ERR_LINK_FD',
      exitCode: ExitCode.Config,
      cause,
    });
  }
}

/** A socket around a descriptor that reads nothing until it is adopted (the type package leaves `manualStart` out). */
function unreadSocket(options: net.SocketConstructorOpts): net.Socket {
  return new net.Socket({ ...options, manualStart: true } as net.SocketConstructorOpts);
}
