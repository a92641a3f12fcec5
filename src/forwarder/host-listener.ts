// Listening stream sockets of the host: TCP ports and unix sockets. Bound exactly as asked; what goes wrong becomes a
// ForwardError that says what would be right. Whoever is accepted is the caller's.

import { readFileSync } from 'node:fs';
import net from 'node:net';
import { ACCEPT_OPTIONS, acceptStreams } from '../host/host-stream.ts';
import { OperatorError } from '../host/operator-error.ts';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';
import type { Arrival } from '../host/stream.ts';
import { formatV4 } from '../ip/address.ts';
import { errnoOf } from './errno.ts';
import { ForwardError, type ForwardErrorCode } from './forward-spec.ts';

/** Clients that may wait to be accepted. */
const BACKLOG = 1024;

export interface HostListener {
  /** `ADDRESS:PORT`, or the path. */
  readonly bound: string;
  /** Stops; the address is free when it returns. Idempotent. */
  close(): void;
}

export interface ListenerOwner {
  /** A client; nothing of it is read yet. @param isPipe it came over a unix socket. */
  onClient(arrival: Arrival, isPipe: boolean): void;
  /** A client could not be accepted (out of descriptors). */
  onAcceptFailed(): void;
}

export function formatAddress(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Clients are the owner's from now on. Accepting may fail later: the listener lives on, the client is refused by the kernel or waits. */
export function serve(server: net.Server, owner: ListenerOwner, isPipe: boolean): void {
  acceptStreams(server, (arrival) => owner.onClient(arrival, isPipe));
  server.on('error', () => owner.onAcceptFailed());
  server.on('drop', () => owner.onAcceptFailed());
}

/** @throws the system's error */
export function listening(server: net.Server, options: net.ListenOptions | { readonly fd: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    // The type package knows a descriptor only as "any handle".
    server.listen({ backlog: BACKLOG, ...options } as net.ListenOptions, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A TCP port. @param port 0 for any. @throws ForwardError */
export async function listenTcp(
  address: string,
  port: number,
  v6Only: boolean,
  owner: ListenerOwner,
): Promise<HostListener> {
  const server = net.createServer(ACCEPT_OPTIONS);
  try {
    await listening(server, { host: address, port, ipv6Only: address.includes(':') && v6Only });
  } catch (error) {
    throw bindError('tcp', address, port, errnoOf(error), error);
  }
  serve(server, owner, false);
  const bound = server.address() as net.AddressInfo;
  return { bound: formatAddress(address, bound.port), close: () => void server.close() };
}

/** A unix socket of mode 0600; a stale file is replaced. @throws ForwardError */
export async function listenUnix(path: string, owner: ListenerOwner): Promise<HostListener> {
  const server = net.createServer(ACCEPT_OPTIONS);
  let file: SocketFile;
  try {
    file = await listenOnSocketFile(server, path, 'listen.path');
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    const code = error.code === 'ERR_SOCKET_IN_USE' ? 'ERR_PORT_IN_USE' : 'ERR_SOCKET_PATH';
    throw new ForwardError(code, error.message, { field: 'listen.path', cause: error });
  }
  serve(server, owner, true);
  return {
    bound: path,
    close: () => {
      file.release();
      server.close();
    },
  };
}

/** Why an address cannot be bound, and what would be right. */
export function bindError(
  protocol: 'tcp' | 'udp',
  address: string,
  port: number,
  errno: string,
  cause?: unknown,
): ForwardError {
  const at = formatAddress(address, port);
  const make = (code: ForwardErrorCode, problem: string, field?: string): ForwardError =>
    new ForwardError(code, `${protocol} ${at} cannot be bound: ${problem}`, {
      ...(field === undefined ? {} : { field }),
      cause,
    });
  switch (errno) {
    case 'EADDRINUSE': {
      const held = port === 0 ? undefined : heldAddress(protocol, address, port);
      return make(
        'ERR_PORT_IN_USE',
        held === undefined
          ? 'another program holds the port; stop it or choose another host port'
          : `another program holds ${held}; stop it or choose another host port`,
        'listen.port',
      );
    }
    case 'EACCES':
      return make(
        'ERR_PORT_PRIVILEGED',
        `port ${port} is privileged; choose one from ${firstUnprivilegedPort()} up, or allow it (sysctl net.ipv4.ip_unprivileged_port_start=${port}, or the capability CAP_NET_BIND_SERVICE), or hand in a bound socket (--listen-fd NAME=FD)`,
        'listen.port',
      );
    case 'EADDRNOTAVAIL':
      return make('ERR_ADDRESS_NOT_LOCAL', `no interface of this host has the address ${address}`, 'listen.address');
    case 'EAFNOSUPPORT':
      return make(
        'ERR_ADDRESS_NOT_LOCAL',
        `this host has no IPv6, so it cannot have the address ${address}`,
        'listen.address',
      );
    case 'EMFILE':
    case 'ENFILE':
    case 'ENOBUFS':
    case 'ENOMEM':
      return make('ERR_HOST_LIMIT', `the system has no more to give (${errno}); raise its limit (ulimit -n)`);
    default:
      return make('ERR_FORWARD', errno === '' ? 'the system refused' : errno);
  }
}

function firstUnprivilegedPort(): number {
  try {
    return Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8')) || 1024;
  } catch {
    return 1024;
  }
}

/** The address that stands in the way, by the kernel's own list: it may be another than was asked for. Linux only. */
function heldAddress(protocol: 'tcp' | 'udp', address: string, port: number): string | undefined {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  const found: string[] = [];
  for (const table of [protocol, `${protocol}6`]) {
    let text: string;
    try {
      text = readFileSync(`/proc/net/${table}`, 'utf8');
    } catch {
      continue;
    }
    for (const line of text.split('\n')) {
      // TCP: state 0A is LISTEN; UDP: 07 is an unconnected socket.
      const m = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ (0A|07) /.exec(line);
      if (m?.[2] === wanted) found.push(formatAddress(addressOfHex(m[1]!), port));
    }
  }
  return found.find((held) => held === formatAddress(address, port)) ?? found[0];
}

/** The kernel prints words in the host's byte order; every machine that Node runs Linux on is little-endian, or nearly. */
function addressOfHex(hex: string): string {
  const bytes = Buffer.from(hex, 'hex');
  for (let i = 0; i < bytes.length; i += 4) bytes.subarray(i, i + 4).reverse();
  if (bytes.length === 4) return formatV4(bytes.readInt32BE(0));
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  return new net.SocketAddress({ address: groups.join(':'), family: 'ipv6' }).address;
}
