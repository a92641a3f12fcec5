// The stack: frames of all VMs in, frames to all VMs out. It owns the switch between VMs, ARP, the walk of a packet up to its
// protocol, and the turn; TCP, UDP and ICMP are layers beside it.
//
// The walk of a frame from a guest: VmPort.input -> here (Ethernet, switch, ARP, IPv4, reassembly) -> tcp-layer, udp-layer or
// icmp-layer -> connection or service. Nothing leaves on the way but answers that stand for one packet. Then, at the end of the
// link's read: `endTurn`, which lets every connection that was touched tell its owner and send, and flushes each VM's batch
// with one write. A turn that the host side causes (bytes from a socket, a deadline) ends the same way.

import { getU16 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import { type PacketKernel, PlainKernel } from '../base/packet-kernel.ts';
import type { Random } from '../base/random.ts';
import type { Slab } from '../base/slab.ts';
import {
  ARP_DO_LEARN,
  ARP_DO_REPLY,
  ARP_LENGTH,
  ARP_REPLY,
  ARP_REQUEST,
  ArpView,
  emitArp,
  judgeArp,
} from '../ethernet/arp.ts';
import {
  ETHERNET_HEADER,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  emitEthernet,
  FrameView,
} from '../ethernet/frame.ts';
import { BROADCAST_MAC, equalMac } from '../ethernet/mac.ts';
import { MacTable } from '../ethernet/mac-table.ts';
import { type Neighbour, type NeighbourSink, Neighbours } from '../ethernet/neighbours.ts';
import { type Cidr4, IpAddress } from '../ip/address.ts';
import {
  IPV4_HEADER,
  IpIds,
  Ipv4View,
  isBroadcastOrGroup,
  isMartianSource,
  type MartianRules,
  PROTO_ICMP,
  PROTO_TCP,
  PROTO_UDP,
} from '../ip/ipv4.ts';
import { Ipv4Reassembler, REASSEMBLY_COMPLETE, REASSEMBLY_HELD, type ReassemblySink } from '../ip/reassembly.ts';
import { UDP_HEADER } from '../ip/udp.ts';
import type { TcpFlow } from '../tcp/flow.ts';
import type { TcpLimits } from '../tcp/limits.ts';
import { EchoLayer } from './echo-layer.ts';
import { EgressWriter } from './egress.ts';
import { IcmpLayer } from './icmp-layer.ts';
import type { DatagramAcceptor, Egress, FlowAcceptor, GuestConnector, LinkHost, LinkInfo, LinkPort } from './ports.ts';
import { StackStats } from './stats.ts';
import { TcpLayer, type TcpUplink } from './tcp-layer.ts';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT, UdpLayer } from './udp-layer.ts';
import { type Path, type PortOwner, VmPort } from './vm-port.ts';

/** How long a MAC or address heard on one port stays its own against another port that claims it. */
const MOVE_HOLD_MS = 50;

export interface StackConfig {
  readonly network: Cidr4;
  /** int32. */
  readonly gateway: number;
  /** int32; undefined: there is none. */
  readonly hostAlias: number | undefined;
  /** The gateway's and host alias's MAC, 6 bytes. */
  readonly mac: Uint8Array;
  readonly tcp: TcpLimits;
  /** Over the slab's memory; the plain one without. */
  readonly kernel?: PacketKernel | undefined;
}

/** What the stack asks of its shell. */
export interface StackHooks {
  /** A turn is wanted outside of one: call `endTurn` soon (once the host's other events of this moment are in). */
  onTurnWanted(): void;
  /** A turn is over: `nextDeadline` may have changed. */
  onTurnEnd(now: Millis): void;
  onVmConnected(port: VmPort): void;
  onVmGone(port: VmPort): void;
  /** A MAC is new on this port; 6 bytes at `off`, valid until the call returns. */
  onMacLearned?(port: VmPort, mac: Uint8Array, off: number): void;
  /** A contradiction of our own; one flow or frame was lost to it. */
  onBug(error: unknown, what: string): void;
}

export class Stack
  implements LinkHost, GuestConnector, PortOwner, NeighbourSink, ReassemblySink, TcpUplink, MartianRules
{
  readonly network: Cidr4;
  readonly config: StackConfig;
  readonly stats: StackStats = new StackStats();
  readonly tcp: TcpLayer;
  readonly udp: UdpLayer;
  readonly icmp: IcmpLayer;
  readonly echo: EchoLayer;
  readonly slab: Slab;
  readonly egress: EgressWriter;
  readonly macTable: MacTable;
  readonly neighbours: Neighbours;
  readonly reassembler: Ipv4Reassembler;
  readonly ports: Map<number, VmPort> = new Map();
  readonly #hooks: StackHooks;
  readonly #datagrams: DatagramAcceptor;
  readonly #frame = new FrameView();
  readonly #arp = new ArpView();
  readonly #ip = new Ipv4View();
  readonly #isOurs: (ip: number) => boolean;
  /** Addresses that we answer for beside the gateway and the host alias, int32. */
  readonly #services = new Set<number>();
  #nextPortId = 1;
  #macChanges = 0;
  #stopped = false;
  /** Between a link's first frame and its `endTurn`, and inside a turn: what is wanted then is done at its end anyway. */
  #inBatch = false;

  constructor(
    config: StackConfig,
    slab: Slab,
    random: Random,
    flows: FlowAcceptor,
    datagrams: DatagramAcceptor,
    hooks: StackHooks,
  ) {
    this.config = config;
    this.network = config.network;
    this.slab = slab;
    this.#hooks = hooks;
    this.#datagrams = datagrams;
    this.#isOurs = (ip) => this.isOurs(ip);
    const kernel = config.kernel ?? new PlainKernel(slab.mem);
    this.egress = new EgressWriter(slab.mem, kernel, config.mac, new IpIds(random), this.stats, () => this.onAwake());
    this.macTable = new MacTable(random, { moveHoldMs: MOVE_HOLD_MS });
    this.neighbours = new Neighbours(this, { moveHoldMs: MOVE_HOLD_MS });
    this.reassembler = new Ipv4Reassembler(slab, random, this);
    this.tcp = new TcpLayer(slab, config.tcp, this.stats, this.egress, flows, this, random);
    this.icmp = new IcmpLayer(config, this.stats, this.egress, this.tcp, this.#isOurs);
    const { icmp, neighbours, ports, stats } = this;
    this.echo = new EchoLayer(config.gateway, stats, this.egress, icmp, neighbours, ports);
    icmp.echo = this.echo;
    this.udp = new UdpLayer(config, slab, this.stats, this.egress, this.icmp, this.neighbours, this.ports, datagrams);
  }

  /** Gateway, host alias, or an address that a service was given. */
  isOurs(ip: number): boolean {
    if (ip === this.config.gateway || ip === this.config.hostAlias) return true;
    return this.#services.size > 0 && this.#services.has(ip);
  }

  /**
   * Answers for `ip` from now on; flows to it are the forwarder's as any other's.
   * @returns false if a guest has been heard with it.
   */
  claimAddress(ip: number): boolean {
    for (const n of this.neighbours.entries()) if (n.ip === ip && n.usable) return false;
    this.#services.add(ip);
    return true;
  }

  releaseAddress(ip: number): void {
    this.#services.delete(ip);
  }

  // --- Links.

  attach(egress: Egress, info: LinkInfo, now: Millis): LinkPort {
    const port = new VmPort(this.#nextPortId++, egress, info, this, now);
    this.ports.set(port.id, port);
    this.#hooks.onVmConnected(port);
    return port;
  }

  onClose(port: VmPort, now: Millis): void {
    this.ports.delete(port.id);
    this.tcp.dropVm(port);
    this.macTable.dropPort(port.id);
    this.neighbours.dropPort(port.id);
    this.reassembler.dropVm(port.id);
    this.#datagrams.onVmGone(port, now);
    this.#hooks.onVmGone(port);
    this.onEndTurn(now);
  }

  onWritable(port: VmPort, now: Millis): void {
    this.tcp.unblock(port);
    this.onEndTurn(now);
  }

  onEndTurn(now: Millis): void {
    if (this.#stopped) return;
    this.stats.turns++;
    this.#inBatch = true;
    const done = this.tcp.runTurns(now);
    this.egress.flush(now);
    this.#inBatch = false;
    if (!done) this.#hooks.onTurnWanted();
    this.#hooks.onTurnEnd(now);
  }

  onAwake(): void {
    if (!this.#inBatch && !this.#stopped) this.#hooks.onTurnWanted();
  }

  // --- Deadlines.

  nextDeadline(): Millis {
    return Math.min(this.tcp.deadlines.next, this.neighbours.nextDeadline(), this.reassembler.nextDeadline());
  }

  /** Does what is due, and ends the turn. */
  poll(now: Millis): void {
    this.#inBatch = true;
    this.tcp.runDeadlines(now);
    if (this.neighbours.nextDeadline() <= now) this.neighbours.poll(now);
    if (this.reassembler.nextDeadline() <= now) this.reassembler.poll(now);
    this.onEndTurn(now);
  }

  /** The daemon stops: guests' flows are reset, and nothing more is sent after it. */
  stop(now: Millis): void {
    if (this.#stopped) return;
    this.tcp.abortAll(now);
    this.tcp.runTurns(now);
    this.egress.flush(now);
    this.#stopped = true;
  }

  // --- The walk.

  onFrame(port: VmPort, buf: Uint8Array, off: number, len: number, now: Millis): void {
    if (this.#stopped) return;
    this.stats.framesFromGuest++;
    this.stats.bytesFromGuest += len;
    this.#inBatch = true;
    this.tcp.runs.flow = undefined;
    try {
      const drop = this.#walk(port, buf, off, len, now);
      if (drop !== Drop.None) this.stats.drops.add(drop);
    } catch (error) {
      this.stats.bugs++;
      this.#hooks.onBug(error, 'frame from a guest');
    }
  }

  /** The frames behind one that TCP has taken in order; see `LinkPort.inputRun`. */
  onRun(port: VmPort, model: number, at: number, end: number, prefix: number, now: Millis): number {
    if (this.tcp.runs.flow === undefined || this.#stopped) return 0;
    const used = this.tcp.takeRun(port, model, at, end, prefix, now);
    this.stats.framesFromGuest += used === 0 ? 0 : port.runFrames;
    this.stats.bytesFromGuest += used === 0 ? 0 : used - port.runFrames * prefix;
    return used;
  }

  #walk(port: VmPort, buf: Uint8Array, off: number, len: number, now: Millis): Drop {
    const frame = this.#frame;
    const drop = frame.wrap(buf, off, off + len);
    if (drop !== Drop.None) return drop;
    // Nobody speaks with the gateway's own MAC.
    if (frame.isFrom(this.config.mac, 0)) return Drop.EthBadSource;
    if (port.isolated && this.#isOfOthers(port, now)) return Drop.EthIsolated;
    // A MAC that the handshake gave to this very VM is its own, also while another connection of it talks.
    const own = port.info.mac !== undefined && frame.isFrom(port.info.mac, 0);
    const learned = this.macTable.learn(frame.srcHi, frame.srcLo, port.id, now, own);
    if (learned !== Drop.None) return learned;
    if (this.macTable.changes !== this.#macChanges) {
      this.#macChanges = this.macTable.changes;
      this.#hooks.onMacLearned?.(port, frame.buf, frame.srcOff);
    }
    // Nor for its addresses, be it to us or to another VM.
    if (frame.etherType === ETHERTYPE_ARP && this.#claimsOurs()) return Drop.ArpMalformed;
    if (frame.isTo(this.config.mac, 0)) return this.#ours(port, now);
    if (frame.toGroup) {
      for (const other of this.ports.values()) {
        const lost = other === port ? Drop.None : this.#forward(port, other, buf, off, len);
        if (lost !== Drop.None) this.stats.drops.add(lost);
      }
      return this.#ours(port, now);
    }
    const target = this.macTable.lookup(frame.dstHi, frame.dstLo, now);
    const other = target === 0 || target === port.id ? undefined : this.ports.get(target);
    return other === undefined ? Drop.EthUnknownDestination : this.#forward(port, other, buf, off, len);
  }

  /** Whether the frame's source is a MAC of a VM that is not isolated: one that is cannot cut it off by speaking with it while it is silent. */
  #isOfOthers(port: VmPort, now: Millis): boolean {
    const holder = this.macTable.lookup(this.#frame.srcHi, this.#frame.srcLo, now);
    return holder !== 0 && holder !== port.id && this.ports.get(holder)?.isolated === false;
  }

  /** An ARP message whose sender says that it has an address of ours. */
  #claimsOurs(): boolean {
    const frame = this.#frame;
    const arp = this.#arp;
    return arp.wrap(frame.buf, frame.payloadOff, frame.end) === Drop.None && this.isOurs(arp.senderIp);
  }

  /** To another VM, as it is. What its link does not take is dropped: a VM that does not drain slows nobody else. */
  #forward(from: VmPort, to: VmPort, buf: Uint8Array, off: number, len: number): Drop {
    if (from.isolated || to.isolated) return Drop.EthIsolated;
    if (len > to.info.mtu + ETHERNET_HEADER) return Drop.LinkTooBig;
    const at = this.egress.reserve(to, len, true);
    if (at < 0) return Drop.LinkTxFull;
    // Copy: frames of two VMs lie in two batches.
    if (buf === this.egress.mem) buf.copyWithin(at, off, off + len);
    else this.egress.mem.set(buf.subarray(off, off + len), at);
    this.egress.commit(to, at, len);
    this.stats.framesSwitched++;
    this.stats.bytesSwitched += len;
    return Drop.None;
  }

  #ours(port: VmPort, now: Millis): Drop {
    const frame = this.#frame;
    switch (frame.etherType) {
      case ETHERTYPE_IPV4:
        return this.#ipv4(port, now);
      case ETHERTYPE_ARP:
        return this.#onArp(port, now);
      case ETHERTYPE_IPV6:
        return Drop.Ip6Unsupported;
      default:
        return Drop.EthUnknownType;
    }
  }

  #onArp(port: VmPort, now: Millis): Drop {
    const frame = this.#frame;
    const arp = this.#arp;
    const drop = arp.wrap(frame.buf, frame.payloadOff, frame.end);
    if (drop !== Drop.None) return drop;
    const act = judgeArp(arp, frame.srcOff, this.#isOurs, 0);
    if (act === 0) return arp.op === ARP_REQUEST ? Drop.None : Drop.ArpMalformed;
    if (act & ARP_DO_LEARN && this.network.contains(arp.senderIp))
      this.#learn(port, arp.senderIp, frame.buf, frame.srcOff, now);
    if (!(act & ARP_DO_REPLY)) return Drop.None;
    const at = this.egress.reserve(port, ETHERNET_HEADER + ARP_LENGTH);
    if (at < 0) return Drop.LinkTxFull;
    const { mem } = this.egress;
    emitEthernet(mem, at, frame.buf, frame.srcOff, this.config.mac, 0, ETHERTYPE_ARP);
    emitArp(
      mem,
      at + ETHERNET_HEADER,
      ARP_REPLY,
      this.config.mac,
      0,
      arp.targetIp,
      arp.buf,
      arp.senderMacOff,
      arp.senderIp,
    );
    this.egress.commit(port, at, ETHERNET_HEADER + ARP_LENGTH);
    this.stats.arpReplies++;
    return Drop.None;
  }

  #ipv4(port: VmPort, now: Millis): Drop {
    const frame = this.#frame;
    const ip = this.#ip;
    const drop = ip.wrap(frame.buf, frame.payloadOff, frame.end);
    if (drop !== Drop.None && !(drop === Drop.Ip4BadChecksum && isUnsummedDhcp(ip))) return drop;
    const { src, dst } = ip;
    // 0.0.0.0 is a client that asks for its address (RFC 2131 4.1), and only that.
    const unspecified = src === 0 && ip.protocol === PROTO_UDP;
    if (isMartianSource(src, this, unspecified)) return Drop.Ip4Martian;
    if (src !== 0) {
      if (!this.network.contains(src)) return Drop.Ip4Martian;
      if (!port.isNoted(src, frame.buf, frame.srcOff, now) && !this.#learn(port, src, frame.buf, frame.srcOff, now))
        return Drop.Ip4WrongGuest;
    }
    port.shown(ip.totalLength);
    // A group's MAC carries only a group's or broadcast address, and the other way round (RFC 1122 3.3.6).
    if (frame.toGroup !== isBroadcastOrGroup(dst, this.network)) return Drop.Ip4Martian;
    if (!ip.isFragment) return this.#deliver(port, ip, now);
    const result = this.reassembler.add(ip, port.id, now);
    if (result === REASSEMBLY_HELD) return Drop.None;
    if (result !== REASSEMBLY_COMPLETE) return result;
    try {
      const at = this.reassembler.off;
      const whole = ip.wrap(this.slab.mem, at, at + this.reassembler.len);
      return whole === Drop.None ? this.#deliver(port, ip, now) : whole;
    } finally {
      this.reassembler.release();
    }
  }

  #deliver(port: VmPort, ip: Ipv4View, now: Millis): Drop {
    const frame = this.#frame;
    switch (ip.protocol) {
      case PROTO_TCP:
        // A connection to a group makes no sense (RFC 9293 MUST-57).
        if (frame.toGroup) return Drop.TcpMartian;
        return this.tcp.onPacket(port, ip, frame.buf, frame.srcOff, now);
      case PROTO_UDP:
        return this.udp.onPacket(port, ip, frame.buf, frame.srcOff, now);
      case PROTO_ICMP:
        return this.icmp.onPacket(port, ip, frame.buf, frame.srcOff, now);
      default:
        if (this.isOurs(ip.dst)) this.icmp.protocolUnreachable(port, ip, frame.buf, frame.srcOff, now);
        return Drop.Ip4UnknownProtocol;
    }
  }

  // --- Neighbours.

  #learn(port: VmPort, ip: number, mac: Uint8Array, macOff: number, now: Millis): boolean {
    const own = port.info.mac !== undefined && equalMac(mac, macOff, port.info.mac, 0);
    // Nor may an isolated VM draw what is for another's address. One that is not there any more is found out by the lookup.
    const holder = port.isolated ? this.neighbours.lookup(ip, now) : undefined;
    if (holder !== undefined && holder.portId !== port.id && this.ports.get(holder.portId)?.isolated === false)
      return false;
    if (!this.neighbours.learn(ip, mac, macOff, port.id, now, own)) return false;
    port.note(ip, mac, macOff, now);
    return true;
  }

  sendArpRequest(n: Neighbour, _now: Millis): void {
    const known = n.usable ? this.ports.get(n.portId) : undefined;
    for (const port of known ? [known] : this.ports.values()) {
      const at = this.egress.reserve(port, ETHERNET_HEADER + ARP_LENGTH);
      if (at < 0) continue;
      const { mem } = this.egress;
      emitEthernet(mem, at, known ? n.mac : BROADCAST_MAC, 0, this.config.mac, 0, ETHERTYPE_ARP);
      emitArp(mem, at + ETHERNET_HEADER, ARP_REQUEST, this.config.mac, 0, this.config.gateway, NO_MAC, 0, n.ip);
      this.egress.commit(port, at, ETHERNET_HEADER + ARP_LENGTH);
      this.stats.arpRequests++;
    }
  }

  sendHeld(n: Neighbour, packet: Uint8Array, now: Millis): void {
    const port = this.ports.get(n.portId);
    if (port === undefined) return;
    // An empty packet stands for TCP connections that wait; where UDP's have taken all room, any packet does.
    this.tcp.pathKnown(IpAddress.v4(n.ip), port.pathTo(n.mac, 0), now);
    if (packet.length > 0) this.udp.sendHeld(port, n.mac, packet);
  }

  onUnresolved(ip: number, packets: number, now: Millis): void {
    for (let i = 0; i < packets; i++) this.stats.drops.add(Drop.ArpUnresolved);
    this.tcp.pathFailed(IpAddress.v4(ip), now);
  }

  onReassemblyTimeout(vmId: number, buf: Uint8Array, off: number, len: number, now: Millis): void {
    this.stats.drops.add(Drop.FragTimeout);
    const port = this.ports.get(vmId);
    if (port !== undefined && len > 0) this.icmp.reassemblyTimeout(port, buf, off, len, this.neighbours, now);
  }

  // --- TcpUplink and GuestConnector.

  resolve(guest: IpAddress, now: Millis): Path | undefined | false {
    const n = this.neighbours.lookup(guest.v4, now);
    const port = n === undefined ? undefined : this.ports.get(n.portId);
    if (n !== undefined && port !== undefined) return port.pathTo(n.mac, 0);
    if (this.neighbours.hold(guest.v4, NO_MAC, 0, 0, now)) this.neighbours.poll(now);
    return this.neighbours.has(guest.v4) ? undefined : false;
  }

  connect(src: IpAddress, guest: IpAddress, guestPort: number, now: Millis, srcPort = 0): TcpFlow | undefined {
    return this.tcp.connect(src, guest, guestPort, now, srcPort);
  }

  unreachable(
    path: Path,
    code: number,
    c: { guest: IpAddress; guestPort: number; remote: IpAddress; remotePort: number; irs: number },
    now: Millis,
  ): void {
    this.icmp.tcpUnreachable(path, code, c, now);
  }

  onBug(error: unknown): void {
    this.#hooks.onBug(error, 'TCP flow');
  }
}

const NO_MAC = new Uint8Array(6);

/**
 * VPNKit's Go client asks for its address with both checksums 0, for ever until it is answered: a header without a checksum is taken,
 * if it is a DHCP client's and nothing else.
 */
function isUnsummedDhcp(ip: Ipv4View): boolean {
  if (getU16(ip.buf, ip.off + 10) !== 0 || ip.headerLength !== IPV4_HEADER || ip.payloadLength < UDP_HEADER)
    return false;
  if (ip.protocol !== PROTO_UDP || ip.src !== 0 || ip.isFragment) return false;
  return getU16(ip.buf, ip.payloadOff) === DHCP_CLIENT_PORT && getU16(ip.buf, ip.payloadOff + 2) === DHCP_SERVER_PORT;
}
