// A VM in this process: the embedded guest, behind the same socket as any VM, with promises on the outside. Tests and the demo use
// it where a kernel is not needed or not to be had. It wires link, stack, DHCP client and codecs, and owns the time-outs of
// what a program asks; protocols are the parts' own.

import type { Clock } from '../base/clock.ts';
import { randomBelow } from '../base/random.ts';
import { formatMac, parseMac } from '../ethernet/mac.ts';
import { HostClock } from '../host/host-clock.ts';
import { HostRandom } from '../host/host-random.ts';
import { WakeTimer } from '../host/wake-timer.ts';
import { IpAddress } from '../ip/address.ts';
import { ICMP_UNREACHABLE } from '../ip/icmp.ts';
import { DEFAULT_TTL } from '../ip/ipv4.ts';
import type { FrameFormat } from '../link/framing.ts';
import { DEFAULT_TCP_LIMITS, type TcpLimits } from '../tcp/limits.ts';
import { DNS_TYPES, type DnsReply, type DnsTypeName, decodeDnsReply, encodeDnsQuery } from './dns-codec.ts';
import { GuestDhcp, type GuestLease } from './guest-dhcp.ts';
import { codedError, GuestLink } from './guest-link.ts';
import { errnoOfUnreachable, GuestSocket } from './guest-socket.ts';
import { GuestStack } from './guest-stack.ts';
import type { GuestStats } from './guest-stats.ts';
import { GuestUdpSocket, v4Of } from './guest-udp-socket.ts';
import { decodeNtpReply, encodeNtpRequest, type NtpReply } from './ntp-codec.ts';

const DNS_PORT = 53;
const NTP_PORT = 123;
const DEFAULT_MEMORY_BYTES = 16 * 1024 * 1024;
const DEFAULT_MTU = 1500;

export interface EmbeddedGuestOptions {
  /** The daemon's unix socket. */
  readonly path: string;
  /** Default qemu. */
  readonly framing?: FrameFormat;
  /** The interface's MTU, whatever DHCP says; default: 1,500 (vpnkit: the handshake's) until option 26 names another. */
  readonly mtu?: number;
  /** `52:54:00:..`; default: random, locally administered. On vpnkit links the handshake's holds. */
  readonly mac?: string;
  /** DHCP option 12. */
  readonly hostName?: string;
  /** vpnkit: the VM's identity. */
  readonly uuid?: string;
  /** vpnkit: address to ask for. */
  readonly preferredAddress?: string;
  /** DHCP option 61. */
  readonly clientId?: Uint8Array;
  /** DHCP: asks for answers by broadcast. */
  readonly dhcpBroadcast?: boolean;
  /** Packet memory, a power of two; default 16 MiB. */
  readonly memoryBytes?: number;
  readonly tcp?: Partial<TcpLimits>;
  /** Sees a copy of every frame that comes in. */
  readonly onFrame?: (frame: Buffer) => void;
}

/** An IPv4 configuration without DHCP. */
export interface StaticAddress {
  readonly address: string;
  readonly prefix: number;
  readonly router?: string;
}

export interface ResolveOptions {
  /** Default: of the lease, else the router. */
  readonly server?: string;
  /** By TCP from the start. UDP goes over to TCP where the answer was cut, unless `keepTruncated`. */
  readonly tcp?: boolean;
  readonly keepTruncated?: boolean;
  /** UDP payload size offered; 0: no EDNS. Default 1,232. */
  readonly ednsBytes?: number;
  readonly timeoutMs?: number;
}

export interface PingReply {
  readonly rttMs: number;
  readonly ttl: number;
  /** The payload came back as it was sent. */
  readonly intact: boolean;
}

/** A listening port of the guest. */
export interface GuestListener {
  readonly port: number;
  close(): void;
}

export class EmbeddedGuest {
  readonly stack: GuestStack;
  readonly link: GuestLink;
  /** Resolves with the reason when the link has ended. */
  readonly closed: Promise<string>;
  readonly #clock: Clock;
  readonly #random = new HostRandom();
  readonly #wake: WakeTimer;
  readonly #dhcp: GuestDhcp;
  #immediate: NodeJS.Immediate | undefined;

  private constructor(link: GuestLink, mac: Uint8Array, options: EmbeddedGuestOptions) {
    this.link = link;
    this.#clock = new HostClock();
    this.#wake = new WakeTimer(this.#clock);
    this.stack = new GuestStack(
      {
        mac,
        mtu: options.mtu ?? link.vif?.mtu ?? DEFAULT_MTU,
        tcp: { ...DEFAULT_TCP_LIMITS, ...options.tcp },
      },
      link.egress,
      link.slab,
      this.#random,
      {
        onTurnWanted: () => this.#wantTurn(),
        onTurnEnd: () => this.#wake.update(),
        onBug: (error) => {
          throw error;
        },
      },
    );
    this.#dhcp = new GuestDhcp(
      {
        client: {
          mac,
          hostName: options.hostName ?? '',
          ...(options.clientId === undefined ? {} : { clientId: options.clientId }),
          broadcast: options.dhcpBroadcast ?? false,
        },
        takeMtu: options.mtu === undefined,
      },
      this.stack,
      this.#clock,
      this.#random,
      () => this.#wake.update(),
    );
    this.#wake.add(this.stack);
    this.#wake.add(this.#dhcp);
    this.closed = new Promise((resolve) => {
      link.owner = {
        onFrame: (buf, off, len) => {
          options.onFrame?.(Buffer.from(buf.subarray(off, off + len)));
          this.stack.input(buf, off, len, this.#clock.now());
        },
        onReadEnd: () => this.stack.endTurn(this.#clock.now()),
        onWritable: () => this.stack.writable(this.#clock.now()),
        onClosed: (reason) => {
          this.#wake.close();
          if (this.#immediate !== undefined) clearImmediate(this.#immediate);
          this.#dhcp.close(reason);
          this.stack.linkGone(this.#clock.now());
          resolve(reason);
        },
      };
    });
  }

  /** Connects to the daemon's socket. @throws TypeError for a bad MAC; ENOENT, ECONNREFUSED, ... of the socket or handshake. */
  static async connect(options: EmbeddedGuestOptions): Promise<EmbeddedGuest> {
    const mac = options.mac === undefined ? randomMac(new HostRandom()) : parseMac(options.mac);
    if (mac === undefined) throw new TypeError(`"${options.mac}" is not a MAC address`);
    const link = await GuestLink.connect({
      path: options.path,
      framing: options.framing ?? 'qemu',
      uuid: options.uuid ?? '',
      preferred: options.preferredAddress === undefined ? 0 : v4Of(options.preferredAddress),
      memoryBytes: options.memoryBytes ?? DEFAULT_MEMORY_BYTES,
    });
    return new EmbeddedGuest(link, link.vif?.mac ?? mac, options);
  }

  get mac(): string {
    return formatMac(this.stack.mac);
  }

  /** The guest's address, or undefined. */
  get address(): string | undefined {
    return this.stack.address === 0 ? undefined : IpAddress.v4(this.stack.address).toString();
  }

  get stats(): GuestStats {
    return this.stack.stats;
  }

  // --- Address.

  /** The lease; undefined without one. */
  get lease(): GuestLease | undefined {
    return this.#dhcp.lease;
  }

  /** DISCOVER, REQUEST, and the interface is configured. @throws ETIMEDOUT, ENETDOWN */
  dhcp(timeoutMs = 10_000): Promise<GuestLease> {
    return this.#dhcp.acquire(timeoutMs);
  }

  /** INIT-REBOOT: asks to go on with `address`. @throws EADDRNOTAVAIL if the server says no. */
  dhcpReboot(address: string, timeoutMs = 10_000): Promise<GuestLease> {
    return this.#dhcp.reboot(v4Of(address), timeoutMs);
  }

  /** Renews (unicast), or rebinds (broadcast). */
  dhcpRenew(how: 'renew' | 'rebind' = 'renew', timeoutMs = 10_000): Promise<GuestLease> {
    return this.#dhcp.renew(how, timeoutMs);
  }

  /** Gives the lease back; the guest has no address after it. */
  dhcpRelease(): Promise<void> {
    return this.#dhcp.release();
  }

  /** Tells the server that somebody else uses the address, and asks for another. */
  dhcpDecline(timeoutMs = 10_000): Promise<GuestLease> {
    return this.#dhcp.decline(timeoutMs);
  }

  /** Sets the address by hand. */
  configure(to: StaticAddress): void {
    const router = to.router === undefined ? 0 : v4Of(to.router);
    this.stack.configure({ address: v4Of(to.address), prefix: to.prefix, router });
  }

  // --- TCP.

  /**
   * Opens a connection. @throws ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, ENETDOWN as the network answers,
   *   TypeError for what is no IPv4 address.
   */
  async connect(address: string, port: number): Promise<GuestSocket> {
    const flow = this.stack.tcp.connect(IpAddress.v4(v4Of(address)), port, this.#clock.now());
    if (typeof flow === 'string') throw codedError(flow, `connect to ${address}:${port}`);
    const socket = new GuestSocket(flow, this.#clock);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve();
      });
      socket.once('error', reject);
    });
    return socket;
  }

  /** Accepts connections on a port. @throws EADDRINUSE */
  listen(port: number, onConnection: (socket: GuestSocket) => void): GuestListener {
    const ok = this.stack.tcp.listen(port, (flow, now) => {
      const socket = new GuestSocket(flow, this.#clock);
      // A handshake that fails concerns nobody.
      const early = (): void => {};
      socket.once('error', early);
      socket.once('connect', () => {
        socket.off('error', early);
        onConnection(socket);
      });
      flow.accept(now);
    });
    if (!ok) throw codedError('EADDRINUSE', `TCP port ${port}`);
    return { port, close: () => this.stack.tcp.unlisten(port) };
  }

  // --- UDP and what goes over it.

  /** @param port 0: any free one. @throws EADDRINUSE */
  udp(port = 0): GuestUdpSocket {
    return new GuestUdpSocket(this.stack, this.#clock, port);
  }

  /** One echo request. @throws ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EMSGSIZE (over 65,507 bytes) or ENOBUFS. */
  async ping(
    address: string,
    options: { readonly bytes?: number; readonly ttl?: number; readonly timeoutMs?: number } = {},
  ): Promise<PingReply> {
    const { bytes = 56, ttl = DEFAULT_TTL, timeoutMs = 5000 } = options;
    const dst = v4Of(address);
    const hop = this.stack.route(dst);
    if (hop === undefined) throw codedError('ENETUNREACH', `ping ${address}`);
    const payload = new Uint8Array(bytes);
    for (let i = 0; i < bytes; i++) payload[i] = i * 31 + (i >>> 8);
    const sentAt = this.#clock.now();
    let key: number | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<PingReply>((resolve, reject) => {
        timer = setTimeout(() => reject(codedError('ETIMEDOUT', `ping ${address}`)), timeoutMs);
        key = this.stack.icmp.ping(
          hop,
          this.stack.address,
          dst,
          payload,
          {
            onReply: (_src, replyTtl, buf, off, len, now) => {
              const intact = len === bytes && Buffer.compare(buf.subarray(off, off + len), payload) === 0;
              resolve({ rttMs: now - sentAt, ttl: replyTtl, intact });
            },
            onError: (type, code, src) => {
              const name = type === ICMP_UNREACHABLE ? errnoOfUnreachable(code) : 'EHOSTUNREACH';
              const from = IpAddress.v4(src).toString();
              reject(codedError(name, `ping ${address}: ICMP ${type}/${code} from ${from}`));
            },
          },
          ttl,
          sentAt,
        );
        if (key === undefined) reject(codedError(bytes > 65_507 ? 'EMSGSIZE' : 'ENOBUFS', `ping ${address}`));
      });
    } finally {
      clearTimeout(timer);
      if (key !== undefined) this.stack.icmp.forget(key);
    }
  }

  /** Asks a name server. The reply is given whatever its rcode. @throws ETIMEDOUT, ECONNREFUSED, EPROTO (no reply to the query). */
  async resolve(name: string, type: DnsTypeName | number = 'A', options: ResolveOptions = {}): Promise<DnsReply> {
    const server = options.server ?? this.lease?.dns[0] ?? this.lease?.router;
    if (server === undefined) throw codedError('ENETUNREACH', 'no name server');
    const { ednsBytes = 1232, timeoutMs = 5000 } = options;
    const id = this.#random.i32() & 0xffff;
    const query = encodeDnsQuery(id, name, typeof type === 'number' ? type : DNS_TYPES[type], ednsBytes);
    if (query === undefined) throw new TypeError(`"${name}" is not a domain name`);
    if (options.tcp === true) return this.#resolveTcp(query, server, timeoutMs);
    const socket = this.udp();
    try {
      const answer = await socket.exchange(query, server, DNS_PORT, timeoutMs);
      const reply = decodeDnsReply(query, answer, 0, answer.length);
      if (reply === undefined) throw codedError('EPROTO', `not a reply to the query for ${name}`);
      if (!reply.truncated || options.keepTruncated === true) return reply;
    } finally {
      socket.close();
    }
    return this.#resolveTcp(query, server, timeoutMs);
  }

  async #resolveTcp(query: Uint8Array, server: string, timeoutMs: number): Promise<DnsReply> {
    const socket = await this.connect(server, DNS_PORT);
    const timer = setTimeout(() => socket.destroy(codedError('ETIMEDOUT', `${server} did not answer`)), timeoutMs);
    try {
      const length = Buffer.from([query.length >>> 8, query.length & 255]);
      socket.write(Buffer.concat([length, query]));
      let held = Buffer.alloc(0);
      for await (const chunk of socket) {
        held = Buffer.concat([held, chunk as Buffer]);
        if (held.length < 2 || held.length < 2 + held.readUInt16BE(0)) continue;
        const reply = decodeDnsReply(query, held, 2, held.readUInt16BE(0));
        if (reply === undefined) break;
        return reply;
      }
      throw codedError('EPROTO', 'not a reply to the query');
    } finally {
      clearTimeout(timer);
      socket.end();
      socket.resume();
    }
  }

  /** One SNTP exchange. @throws ETIMEDOUT, EPROTO */
  async ntp(
    server: string | undefined = this.lease?.ntp[0] ?? this.lease?.router,
    timeoutMs = 5000,
  ): Promise<NtpReply> {
    if (server === undefined) throw codedError('ENETUNREACH', 'no time server');
    const request = encodeNtpRequest(this.#random.i32(), this.#random.i32());
    const socket = this.udp();
    try {
      const sentMs = Date.now();
      const answer = await socket.exchange(request, server, NTP_PORT, timeoutMs);
      const reply = decodeNtpReply(request, answer, 0, answer.length, sentMs, Date.now());
      if (reply === undefined) throw codedError('EPROTO', 'not a reply to the request');
      return reply;
    } finally {
      socket.close();
    }
  }

  // --- The link.

  /** Sends a frame as it is (without FCS), whatever it says. @returns false if the link did not take it. */
  sendFrame(frame: Uint8Array): boolean {
    return this.stack.sendFrame(frame);
  }

  /** Ends the link at once: connections end with ENETDOWN, the daemon sees a VM that has gone. Idempotent. */
  async close(): Promise<void> {
    await this.link.close();
  }

  #wantTurn(): void {
    // After what is ready now has all been read: what it brings leaves in one write.
    this.#immediate ??= setImmediate(() => {
      this.#immediate = undefined;
      this.stack.endTurn(this.#clock.now());
    });
  }
}

/** A random locally administered unicast address. */
function randomMac(random: HostRandom): Uint8Array {
  const mac = Uint8Array.from({ length: 6 }, () => randomBelow(random, 256));
  mac[0] = (mac[0]! & 0xfc) | 2;
  return mac;
}
