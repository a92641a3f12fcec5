// A UDP socket of the embedded guest: a port, datagrams out, datagrams and ICMP errors in.

import type { Clock, Millis } from '../base/clock.ts';
import { IpAddress, parseAddress } from '../ip/address.ts';
import { codedError } from './guest-link.ts';
import { errnoOfUnreachable } from './guest-socket.ts';
import type { GuestStack } from './guest-stack.ts';
import type { DatagramReceiver } from './guest-udp.ts';

/** The other end of a datagram. */
export interface UdpPeer {
  readonly address: string;
  readonly port: number;
}

export class GuestUdpSocket implements DatagramReceiver {
  readonly port: number;
  /** A datagram has come; the bytes are the callee's. */
  onMessage: (data: Buffer, from: UdpPeer) => void = () => {};
  /** A datagram to `to` was not delivered; `error.code` as Linux maps the ICMP error, EMSGSIZE with the next hop's `mtu`. */
  onError: (error: NodeJS.ErrnoException & { readonly mtu?: number }, to: UdpPeer) => void = () => {};
  readonly #stack: GuestStack;
  readonly #clock: Clock;

  /** @param port 0: any free one. @throws EADDRINUSE */
  constructor(stack: GuestStack, clock: Clock, port: number) {
    this.#stack = stack;
    this.#clock = clock;
    this.port = stack.udp.bind(port, this);
    if (this.port < 0) throw codedError('EADDRINUSE', `UDP port ${port}`);
  }

  /** @throws EMSGSIZE, ENETUNREACH, ENOBUFS; TypeError for what is no IPv4 address. */
  send(data: Uint8Array, address: string, port: number): void {
    const dst = v4Of(address);
    const error = this.#stack.udp.send(this.port, dst, port, data, 0, data.length, this.#clock.now());
    if (error !== '') throw codedError(error, `send to ${address}:${port}`);
  }

  /**
   * Sends, and waits for the first answer from that peer.
   * @throws ETIMEDOUT, and what ICMP says of the datagram (ECONNREFUSED, ...).
   */
  async exchange(data: Uint8Array, address: string, port: number, timeoutMs = 5000): Promise<Buffer> {
    const { onMessage, onError } = this;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        this.onMessage = (answer, from) => {
          if (from.address === address && from.port === port) resolve(answer);
        };
        this.onError = (error, to) => {
          if (to.address === address && to.port === port) reject(error);
        };
        timer = setTimeout(() => reject(codedError('ETIMEDOUT', `${address}:${port} did not answer`)), timeoutMs);
        this.send(data, address, port);
      });
    } finally {
      clearTimeout(timer);
      this.onMessage = onMessage;
      this.onError = onError;
    }
  }

  close(): void {
    this.#stack.udp.unbind(this.port);
  }

  onDatagram(src: number, srcPort: number, buf: Uint8Array, off: number, len: number, _now: Millis): void {
    // Copy: the frame's memory is used again when this returns.
    this.onMessage(Buffer.from(buf.subarray(off, off + len)), { address: IpAddress.v4(src).toString(), port: srcPort });
  }

  onUnreachable(code: number, dst: number, dstPort: number, mtu: number, _now: Millis): void {
    const to = { address: IpAddress.v4(dst).toString(), port: dstPort };
    const name = mtu > 0 ? 'EMSGSIZE' : errnoOfUnreachable(code);
    const error = codedError(name, `${to.address}:${to.port}`);
    this.onError(mtu > 0 ? Object.assign(error, { mtu }) : error, to);
  }
}

/** @throws TypeError for what is no IPv4 address. */
export function v4Of(text: string): number {
  const address = parseAddress(text);
  if (address === undefined || !address.isV4) throw new TypeError(`"${text}" is not an IPv4 address`);
  return address.v4;
}
