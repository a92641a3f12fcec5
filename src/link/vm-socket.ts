// The unix socket of one `--vm`, listening before anything behind it is loaded: a launcher waits for the file, and a VM that connects
// at once waits in `early` for the few milliseconds until its link can be made. It owns the server and the file; what a connection is,
// is the listener's business.

import { createServer, type Server, type Socket } from 'node:net';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';

/** Options of every server that VMs connect to: nothing is read before a link reads it, and either side may end first. */
export const VM_SERVER_OPTIONS = { pauseOnConnect: true, allowHalfOpen: true } as const;

/** Connections that may wait to be served; the kernel keeps further ones in its backlog, as `accept` stops with the event loop. */
const EARLY_MAX = 256;

/** A listening unix socket of mode 0600. */
export class VmSocket {
  readonly server: Server;
  readonly file: SocketFile;
  readonly #early: Socket[];

  private constructor(server: Server, file: SocketFile, early: Socket[]) {
    this.server = server;
    this.file = file;
    this.#early = early;
  }

  /** @throws OperatorError, see listenOnSocketFile. */
  static async listen(path: string): Promise<VmSocket> {
    const early: Socket[] = [];
    const server = createServer(VM_SERVER_OPTIONS);
    server.on('connection', (socket) => {
      if (early.length === EARLY_MAX) socket.destroy();
      else early.push(socket.on('error', ignore));
    });
    const file = await listenOnSocketFile(server, path, 'vm');
    return new VmSocket(server, file, early);
  }

  /** Hands every connection to `accept`, those that came early first. To be called once. */
  serve(accept: (socket: Socket) => void): void {
    this.server.removeAllListeners('connection');
    this.server.on('connection', accept);
    for (const socket of this.#early.splice(0)) {
      socket.off('error', ignore);
      if (!socket.destroyed) accept(socket);
    }
  }

  /** For a start that failed before anybody served it. */
  close(): void {
    this.file.release();
    this.server.close();
    for (const socket of this.#early.splice(0)) socket.destroy();
  }
}

/** What happens to a connection that nobody serves yet is seen when it is served. */
function ignore(): void {}
