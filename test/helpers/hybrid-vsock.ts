// Stand-ins for hypervisors' hybrid vsock sockets: the guest's side of Firecracker's and HyperKit's conventions, with services on ports.

import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Test } from 'tap';

type Service = (socket: Socket) => void;

export class FakeHypervisor {
  /** Lines that hosts have said first. */
  readonly said: string[] = [];
  readonly services = new Map<number, Service>();
  /** How it answers instead of `OK`. */
  answer: ((socket: Socket, port: number) => void) | undefined;
  /** Connections that are open. */
  readonly sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(parse: (line: string) => number, hasAnswer: boolean) {
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      this.sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => this.sockets.delete(socket));
      let text = Buffer.alloc(0);
      const onData = (chunk: Buffer): void => {
        text = Buffer.concat([text, chunk]);
        const at = text.indexOf(10);
        if (at < 0) return;
        socket.off('data', onData);
        socket.pause();
        const line = text.toString('latin1', 0, at);
        this.said.push(line);
        const port = parse(line);
        if (at + 1 < text.length) socket.unshift(text.subarray(at + 1));
        if (this.answer !== undefined) {
          this.answer(socket, port);
          socket.on('end', () => socket.destroy());
          socket.resume();
          return;
        }
        const service = this.services.get(port);
        // Both close without a word where nobody listens.
        if (service === undefined) {
          socket.destroy();
          return;
        }
        if (hasAnswer) socket.write(`OK ${1_073_741_824 + this.said.length}\n`);
        service(socket);
        socket.resume();
      };
      socket.on('data', onData);
    });
  }

  /** `CONNECT PORT\n` on a socket at `path`. */
  static async firecracker(t: Test, path: string): Promise<FakeHypervisor> {
    const it = new FakeHypervisor((line) => Number(/^CONNECT (\d+)$/.exec(line)?.[1] ?? -1), true);
    await it.#listen(t, path);
    return it;
  }

  /** `CID.PORT\n` on `connect` in a directory. */
  static async hyperkit(t: Test, directory: string, cid: number): Promise<FakeHypervisor> {
    const it = new FakeHypervisor((line) => {
      const m = /^([0-9a-f]{8})\.([0-9a-f]{8})$/.exec(line);
      return m !== null && Number.parseInt(m[1]!, 16) === cid ? Number.parseInt(m[2]!, 16) : -1;
    }, false);
    await it.#listen(t, join(directory, 'connect'));
    return it;
  }

  async #listen(t: Test, path: string): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(path, resolve));
    t.teardown(() => {
      for (const socket of this.sockets) socket.destroy();
      return new Promise((resolve) => this.#server.close(resolve));
    });
  }
}
