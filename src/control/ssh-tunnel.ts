// gvproxy's `ssh-tunnel` forwards: a unix socket of the host whose clients are led, through one SSH connection into the guest, to a unix
// socket there (OpenSSH's direct-streamlocal). podman reaches its API in the VM so. The connection is made with the first client and anew
// when it has broken; the host key is not checked, as the network up to the guest is ours.

import { readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Client } from 'ssh2';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';
import { GoError } from './go-http.ts';

/** Where a tunnel leads. */
export interface SshRemote {
  readonly user: string;
  /** The guest. */
  readonly host: string;
  readonly port: number;
  /** The unix socket there. */
  readonly path: string;
  /** File with the private key. */
  readonly key: string;
  readonly passphrase: string | undefined;
  /** As it was asked for. */
  readonly text: string;
}

/** A connection to a port of a guest, or undefined. */
export type DialGuest = (address: string, port: number) => Duplex | undefined;

const READY_TIMEOUT_MS = 5000;
const CLIENTS_MAX = 256;

/** `ssh-tunnel://user@ip[:22]/guest/sock?key=/path[&passphrase=…]`. @throws GoError with gvproxy's texts. */
export function parseSshRemote(text: string): SshRemote {
  let url: URL;
  try {
    // WHATWG URLs know no hosts of schemes of others' making.
    url = new URL(text.replace(/^ssh-tunnel:/i, 'http:'));
  } catch {
    throw new GoError(400, `parse ${JSON.stringify(text)}: invalid URL`);
  }
  const path = unescaped(url.pathname, text);
  if (path === '' || path === '/') throw new GoError(500, 'remote uri must contain a path to a socket file');
  const key = url.searchParams.get('key') ?? '';
  if (key === '') throw new GoError(500, 'key not provided for unix-ssh connection');
  const passphrase = url.searchParams.get('passphrase') ?? undefined;
  const port = url.port === '' ? (/:80(\/|$)/.test(text) ? 80 : 22) : Number(url.port);
  return { user: unescaped(url.username, text) || 'root', host: url.hostname, port, path, key, passphrase, text };
}

function unescaped(part: string, url: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    const wrong = /%(?![0-9a-f]{2}).{0,2}/i.exec(part)?.[0] ?? part;
    throw new GoError(400, `parse ${JSON.stringify(url)}: invalid URL escape ${JSON.stringify(wrong)}`);
  }
}

/** One socket that leads into a guest. */
export class SshTunnel {
  readonly local: string;
  readonly remote: SshRemote;
  readonly #dial: DialGuest;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  #file: SocketFile | undefined;
  #ssh: Promise<Client> | undefined;

  private constructor(local: string, remote: SshRemote, dial: DialGuest) {
    this.local = local;
    this.remote = remote;
    this.#dial = dial;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#onClient(socket));
    this.#server.maxConnections = CLIENTS_MAX;
  }

  /** @throws GoError where the key cannot be read; OperatorError where the socket cannot be made. */
  static async open(local: string, remote: SshRemote, dial: DialGuest): Promise<SshTunnel> {
    const tunnel = new SshTunnel(local, remote, dial);
    tunnel.#key();
    tunnel.#file = await listenOnSocketFile(tunnel.#server, local, 'ssh-tunnel');
    tunnel.#server.on('error', () => {});
    return tunnel;
  }

  /** Stops listening; live connections go on, or end with `all`. */
  close(all: boolean): void {
    this.#file?.release();
    this.#server.close();
    if (all) for (const socket of this.#clients) socket.destroy();
    if (this.#clients.size === 0) this.#end();
  }

  #key(): Buffer {
    try {
      return readFileSync(this.remote.key);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new GoError(500, `open ${this.remote.key}: ${code === 'ENOENT' ? 'no such file or directory' : code}`);
    }
  }

  #onClient(socket: Socket): void {
    this.#clients.add(socket);
    socket.pause();
    socket.on('error', () => socket.destroy());
    socket.once('close', () => {
      this.#clients.delete(socket);
      if (this.#clients.size === 0 && !this.#server.listening) this.#end();
    });
    this.#lead(socket).catch(() => socket.destroy());
  }

  async #lead(socket: Socket): Promise<void> {
    const ssh = await this.#connection();
    const channel = await new Promise<Duplex>((resolve, reject) => {
      ssh.openssh_forwardOutStreamLocal(this.remote.path, (error, stream) => {
        if (error === undefined) resolve(stream);
        else reject(error);
      });
    });
    channel.on('error', () => socket.destroy());
    // What came through it may not have left yet.
    channel.on('close', () => socket.destroySoon());
    socket.on('close', () => channel.destroy());
    socket.pipe(channel).pipe(socket);
  }

  /** The one connection; a broken one is made anew by the next client. */
  #connection(): Promise<Client> {
    if (this.#ssh === undefined) {
      const made = this.#connect();
      this.#ssh = made;
      made.catch(() => {
        if (this.#ssh === made) this.#ssh = undefined;
      });
    }
    return this.#ssh;
  }

  async #connect(): Promise<Client> {
    const { default: ssh2 } = await import('ssh2');
    const { user, host, port, passphrase } = this.remote;
    const sock = this.#dial(host, port);
    if (sock === undefined) throw new Error(`${host} is no guest`);
    sock.on('error', () => {});
    await established(sock);
    const client = new ssh2.Client();
    await new Promise<void>((resolve, reject) => {
      client.once('ready', resolve);
      client.on('error', reject);
      client.on('close', () => {
        this.#ssh = undefined;
        reject(new Error('the SSH connection has ended'));
      });
      client.connect({
        sock,
        username: user,
        privateKey: this.#key(),
        ...(passphrase === undefined ? {} : { passphrase }),
        readyTimeout: READY_TIMEOUT_MS,
        keepaliveInterval: 30_000,
      });
    });
    return client;
  }

  #end(): void {
    this.#ssh?.then((client) => client.end()).catch(() => {});
    this.#ssh = undefined;
  }
}

/** Rejects when the guest refuses, or does not answer in time. */
function established(sock: Duplex): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => sock.destroy(), READY_TIMEOUT_MS);
    sock.once('connect', () => {
      clearTimeout(timer);
      resolve();
    });
    sock.once('close', () => {
      clearTimeout(timer);
      reject(new Error('the guest did not answer'));
    });
  });
}
