// The border of the core: every type through which link, forwarder, services and daemon meet the stack. Types only.
//
// A frame or payload crosses as three scalars (buf, off, len), valid until the call returns; who must keep it copies it.
// Addresses cross as IpAddress, which holds both families; `now` is monotonic milliseconds, read once per wake-up by the shell.

import type { Millis } from '../base/clock.ts';
import type { IpAddress } from '../ip/address.ts';
import type { FlowOwner, TcpFlow } from '../tcp/flow.ts';

export { CloseReason, RefuseReason } from '../tcp/flow.ts';
export type { FlowOwner, TcpFlow };

/** What a link offers the stack: room for frames in the batch that its next write sends. Implemented by `link`. */
export interface Egress {
  /**
   * Room for one frame of at most `len` bytes in the packet memory.
   * @param bulk the frame can wait for `writable`: it may not take the last room, which is kept for answers that would be lost
   *   (handshakes, acknowledgements, datagrams, ARP).
   * @returns the offset of the frame's first byte (headers and payload are written there), or -1 if the link does not
   *   drain now; the link then calls `LinkPort.writable` once it does.
   */
  reserve(len: number, bulk?: boolean): number;
  /** Sends the frame reserved last; `len` may be smaller than what was reserved. */
  commit(off: number, len: number): void;
  /**
   * Room for up to `count` frames of `len` bytes each that can wait, the first at `runOffset`, one `runStride` after the other.
   * @returns how many; 0 if the link does not drain now (`writable` follows). A link without it is asked frame by frame.
   */
  reserveRun?(len: number, count: number): number;
  readonly runOffset?: number;
  readonly runStride?: number;
  /** Sends the first `count` frames of the run reserved last. */
  commitRun?(off: number, len: number, count: number): void;
  /** Writes out what was committed since the last flush. The stack calls it at the end of a turn for links it used. */
  flush(): void;
  /** Ends the connection (a VM disconnected by the operator). */
  close(reason: string): void;
}

/** What a link tells the stack. Implemented by the stack, one for each connected VM. */
export interface LinkPort {
  /** Stable number of this connection, from 1 up, never reused in one process. */
  readonly id: number;
  /** One whole frame without FCS, in the packet memory or elsewhere; runts included (they are counted and dropped here). */
  input(buf: Uint8Array, off: number, len: number, now: Millis): void;
  /**
   * After `input` of a frame at `model` of the packet memory: takes in the frames behind it, from `at` on, that do nothing but carry
   * on the same flow, in one go. Each has its length of `prefix` bytes before it (`PacketKernel.receiveRun`).
   * @returns bytes of [at, end) used; the frames in them are counted in `runFrames`. The next frame goes to `input`.
   */
  inputRun?(model: number, at: number, end: number, prefix: number, now: Millis): number;
  /** Frames of the last `inputRun` that used anything. */
  readonly runFrames?: number;
  /** After the last frame of one read: data goes to the host, acknowledgements and answers leave in one write. */
  endTurn(now: Millis): void;
  /** The link drains again after `reserve` refused. */
  writable(now: Millis): void;
  /** The connection is gone: its flows end with their host sockets, at once. Idempotent. */
  close(now: Millis): void;
}

/** What a link says of a VM when it connects. */
export interface LinkInfo {
  /** For logs and status, e.g. `qemu:/run/vm.sock#3`. */
  readonly name: string;
  /** Largest IP packet of this link, 576 to 65,520. */
  readonly mtu: number;
  /** True when the handshake told the guest its MTU, so that frames up to it need no proof first (vpnkit). */
  readonly mtuTold: boolean;
  /** The MAC that the handshake gave this VM (vpnkit): several connections of one VM may have the same. */
  readonly mac?: Uint8Array;
}

/** Where links attach. Implemented by the stack. */
export interface LinkHost {
  attach(egress: Egress, info: LinkInfo, now: Millis): LinkPort;
}

/** Who sent a datagram to a service of ours. Reused between calls: copy what is kept. */
export interface DatagramMeta {
  vm: LinkPort;
  /** Source MAC, 6 bytes at `macOff` of `macBuf`. */
  macBuf: Uint8Array;
  macOff: number;
  src: IpAddress;
  srcPort: number;
  dst: IpAddress;
  dstPort: number;
}

/** A service of the gateway behind a UDP port (DNS, NTP, DHCP). Structural: dns and services do not import this. */
export interface DatagramService {
  onDatagram(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): void;
}

/** How services and the forwarder send datagrams to a guest. Implemented by the stack. */
export interface DatagramSender {
  /**
   * Sends one UDP datagram to a guest, fragmented where it is larger than the guest takes.
   * @returns false if it was dropped (counted): the guest is unknown, or its link does not drain.
   */
  sendDatagram(
    src: IpAddress,
    srcPort: number,
    dst: IpAddress,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): boolean;

  /**
   * Tells a guest that a datagram of its was not delivered: ICMP destination unreachable with `code` (3 port, 4 frag needed with
   * `mtu`, 0 net, 1 host, 13 prohibited), quoting that datagram's IP and UDP headers.
   */
  sendUnreachable(
    code: number,
    mtu: number,
    guest: IpAddress,
    guestPort: number,
    remote: IpAddress,
    remotePort: number,
    payloadLen: number,
    now: Millis,
  ): void;
}

/** Decides about new TCP flows of guests. Implemented by the forwarder. */
export interface FlowAcceptor {
  /** A guest's SYN: set `flow.owner`, dial, and later `accept` or `refuse` (also at once). */
  onSyn(flow: TcpFlow, now: Millis): void;
}

/** Opens flows towards guests, for published ports. Implemented by the stack. */
export interface GuestConnector {
  /**
   * Starts a connection to a guest's port, from an address that the guest can answer to. Set `owner` on the result at once:
   * `onEstablished` or `onClosed` follows with a later turn; bytes may be written at once and wait for the handshake.
   * @param srcPort taken if it is free towards that guest's port; another one if it is not, or if not given.
   * @returns undefined when no source port is free, or a limit is hit.
   */
  connect(src: IpAddress, guest: IpAddress, guestPort: number, now: Millis, srcPort?: number): TcpFlow | undefined;
}

/** Takes datagrams of guests that are not for a service. Implemented by the forwarder. */
export interface DatagramAcceptor {
  /** @returns false if the destination has nobody for it: the guest is told "port unreachable". What was dropped for another reason is counted. */
  onDatagram(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): boolean;
  /** A VM has gone: its UDP flows end. */
  onVmGone(vm: LinkPort, now: Millis): void;
}

/** A guest's echo request to an address that is not ours. Reused between calls: copy what is kept. */
export interface EchoRequest {
  vm: LinkPort;
  guest: IpAddress;
  remote: IpAddress;
  id: number;
  seq: number;
  /** As the guest sent it, 2 or more; the gateway is a hop. */
  ttl: number;
  dontFragment: boolean;
  /** Bytes behind the ICMP header. */
  dataLength: number;
}

/** Carries guests' echo requests to the outside. Implemented by the forwarder. */
export interface EchoAcceptor {
  /**
   * `[off, off+len)` is the guest's whole IPv4 packet; the answer needs it, so it is copied if one may come.
   * @returns false if nobody will answer it; counted as a drop.
   */
  onEcho(request: EchoRequest, buf: Uint8Array, off: number, len: number, now: Millis): boolean;
}

/** How answers to echo requests reach the guest. Implemented by the stack. `packet` is what `onEcho` was given. */
export interface EchoSender {
  /** The reply of `from`: identifier, sequence number and data are the request's. @returns false if it was dropped. */
  sendEchoReply(vm: LinkPort, packet: Uint8Array, from: IpAddress, ttl: number, now: Millis): boolean;
  /** ICMP time exceeded about the request, quoting it. @param from the router that said so. @param code 0 TTL, 1 reassembly. */
  sendEchoExceeded(vm: LinkPort, packet: Uint8Array, from: IpAddress, code: number, now: Millis): void;
  /**
   * ICMP destination unreachable about the request, quoting it.
   * @param from the router that said so; undefined: the gateway.
   * @param mtu with code 4, else 0.
   */
  sendEchoUnreachable(
    vm: LinkPort,
    packet: Uint8Array,
    from: IpAddress | undefined,
    code: number,
    mtu: number,
    now: Millis,
  ): void;
}
