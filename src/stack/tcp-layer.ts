// The TCP of all guests: which connection a segment belongs to, who may open one, and the environment that connections live in
// (packet memory, deadlines, wake-ups, segment egress). The connection itself is tcp/.

import { setU16 } from '../base/bytes.ts';
import { finish, fold, sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { DeadlineQueue } from '../base/deadline-queue.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';
import type { Slab } from '../base/slab.ts';
import { IpAddress, isLoopbackV4, isMulticastV4 } from '../ip/address.ts';
import { UNREACHABLE_HOST, UNREACHABLE_NET, UNREACHABLE_PROHIBITED } from '../ip/icmp.ts';
import { type Ipv4View, PROTO_TCP, pseudoHeaderSumV4 } from '../ip/ipv4.ts';
import { Connection } from '../tcp/connection.ts';
import type { SegmentSink, TcpEnv } from '../tcp/env.ts';
import { CloseReason, RefuseReason, type TcpFlow } from '../tcp/flow.ts';
import { input } from '../tcp/input.ts';
import type { TcpLimits } from '../tcp/limits.ts';
import {
  emitTcpHeader,
  FLAG_ACK,
  FLAG_FIN,
  FLAG_RST,
  FLAG_SYN,
  SegmentView,
  TCP_HEADER,
  TCP_HEADER_MAX,
} from '../tcp/segment.ts';
import { State } from '../tcp/state.ts';
import type { TcpStats } from '../tcp/stats.ts';
import { Verdict } from '../tcp/verdict.ts';
import { WindowBudget } from '../tcp/window-budget.ts';
import type { EgressWriter } from './egress.ts';
import { FlowTable } from './flow-table.ts';
import { InitialNumbers } from './initial-numbers.ts';
import type { FlowAcceptor } from './ports.ts';
import { RunTaker } from './run-taker.ts';
import type { StackStats } from './stats.ts';
import type { Path, VmPort } from './vm-port.ts';

/** IPv4 and TCP, in bytes. */
const HEADERS = 40;
/** A flow from which nothing has come for so long does not need the window it once grew. */
const IDLE_WINDOW_MS = 2000;

/** What the TCP layer asks of the rest of the stack. */
export interface TcpUplink {
  /** Somebody's `turn` is due and no turn is running. */
  onAwake(): void;
  /** ICMP unreachable about a SYN of a guest. */
  unreachable(path: Path, code: number, c: Connection, now: Millis): void;
  /** The way to a guest; undefined: it is asked for, `pathKnown` or `pathFailed` follows; false: it cannot be asked for now. */
  resolve(guest: IpAddress, now: Millis): Path | undefined | false;
  /** A contradiction of our own; the flow has been reset. */
  onBug(error: unknown, c: Connection): void;
}

export class TcpLayer implements TcpEnv, SegmentSink {
  readonly slab: Slab;
  readonly limits: TcpLimits;
  readonly stats: TcpStats;
  readonly sink: SegmentSink = this;
  /**
   * An eighth of the memory: less than it could keep, but what many uploads have on their way at once is what their
   * acknowledgements wait behind, and a guest that waits too long probes for losses that are none.
   */
  readonly windows: WindowBudget;
  readonly deadlines: DeadlineQueue<Connection> = new DeadlineQueue();
  readonly table: FlowTable;
  readonly runs: RunTaker;
  /** Opens in progress. */
  opening = 0;
  readonly #stackStats: StackStats;
  readonly #egress: EgressWriter;
  readonly #acceptor: FlowAcceptor;
  readonly #uplink: TcpUplink;
  readonly #random: Random;
  readonly #numbers: InitialNumbers;
  readonly #seg = new SegmentView();
  /** TIME-WAIT, oldest first. */
  readonly #waiting = new Set<Connection>();
  #awake: Connection[] = [];
  #spare: Connection[] = [];
  /** The time of the call that is running. */
  #now: Millis = 0;
  #reclaimedAt: Millis = Number.NEGATIVE_INFINITY;
  /** Connections whose guest is being resolved. */
  readonly #unresolved = new Map<string, Connection[]>();

  constructor(
    slab: Slab,
    limits: TcpLimits,
    stats: StackStats,
    egress: EgressWriter,
    acceptor: FlowAcceptor,
    uplink: TcpUplink,
    random: Random,
  ) {
    this.slab = slab;
    this.limits = limits;
    this.windows = new WindowBudget(slab.size / 8, () => this.#reclaimWindows());
    this.stats = stats.tcp;
    this.#stackStats = stats;
    this.#egress = egress;
    this.#acceptor = acceptor;
    this.#uplink = uplink;
    this.#random = random;
    this.#numbers = new InitialNumbers(random);
    this.table = new FlowTable(random.i32());
    this.runs = new RunTaker(slab, egress.kernel);
  }

  /** Flows that are not in TIME-WAIT. */
  get flows(): number {
    return this.table.size - this.#waiting.size;
  }

  get timeWaits(): number {
    return this.#waiting.size;
  }

  /** A TCP packet from `port`, whole and checked as IPv4. `srcMacOff` is the frame's source MAC in `macBuf`. */
  onPacket(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, srcMacOff: number, now: Millis): Drop {
    this.#now = now;
    const seg = this.#seg;
    const off = ip.payloadOff;
    const len = ip.end - off;
    const malformed = seg.wrap(ip.buf, off, ip.end);
    if (malformed !== Drop.None) return malformed;
    const src = ip.src;
    const dst = ip.dst;
    const sum = pseudoHeaderSumV4(src, dst, PROTO_TCP, len) + this.#egress.sumOf(ip.buf, off, len);
    if (fold(sum) !== 0xffff) return Drop.TcpBadChecksum;
    const c = this.table.find4(src, seg.srcPort, dst, seg.dstPort);
    if (c === undefined) return this.#unknown(port, ip, macBuf, srcMacOff, now);
    if ((c.path as Path | undefined)?.port !== port) return Drop.TcpWrongVm;
    // TIME-WAIT goes on where the next connection could not begin.
    if (c.state === State.TimeWait && (seg.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN)) === FLAG_SYN) {
      const drop = this.#limited(port);
      if (drop !== Drop.None) return drop;
    }
    try {
      const verdict = input(c, seg, now);
      if (verdict === Verdict.NewSyn) return this.#unknown(port, ip, macBuf, srcMacOff, now, c.sndNxt);
      if (verdict === Verdict.Reset) this.#resetFor(c.path as Path, dst, src, now);
      // The frame is one piece in the packet memory, without IP options, and is what the kernel takes as its model.
      const plain = off === srcMacOff + 28 && macBuf === this.slab.mem && ip.buf === macBuf;
      if (plain) this.runs.note(c, seg);
    } catch (error) {
      this.#bug(c, error, now);
    }
    return Drop.None;
  }

  /** The frames behind one that was just input, as far as they carry on; see `LinkPort.inputRun`. */
  takeRun(port: VmPort, model: number, at: number, end: number, prefix: number, now: Millis): number {
    const c = this.runs.flow;
    try {
      return this.runs.take(port, model, at, end, prefix);
    } catch (error) {
      if (c !== undefined) this.#bug(c, error, now);
      return this.runs.used;
    }
  }

  /** Over the caps a SYN is dropped, not refused: it is sent again when there may be room (RFC 4987 3.1). */
  #limited(port: VmPort): Drop {
    // One VM may use part of the places: its SYNs into a black hole must not stop the others' opens.
    if (this.opening >= this.limits.pendingMax || port.opening >= this.limits.pendingPerVm) return Drop.TcpSynLimit;
    return this.flows >= this.limits.flowsMax ? Drop.TcpFlowLimit : Drop.None;
  }

  /** RFC 9293 3.10.7.1 and 3.10.7.2 for `#seg`. */
  #unknown(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, srcMacOff: number, now: Millis, issAbove?: number): Drop {
    const seg = this.#seg;
    const { flags } = seg;
    // TCP-SYN-23. Other addresses that nobody has (240/4, 0/8) are the forwarder's to refuse.
    if (ip.dst === 0 || isLoopbackV4(ip.dst) || isMulticastV4(ip.dst) || ip.src === ip.dst) return Drop.TcpMartian;
    if (flags & FLAG_RST) return Drop.TcpNoFlow;
    if (flags & FLAG_ACK) {
      this.#resetFor(port.pathTo(macBuf, srcMacOff), ip.dst, ip.src, now);
      return Drop.TcpNoFlow;
    }
    if (!(flags & FLAG_SYN) || flags & FLAG_FIN) return Drop.TcpBadFlags;
    if (seg.srcPort === 0 || seg.dstPort === 0) return Drop.TcpPortZero;
    const limited = this.#limited(port);
    if (limited !== Drop.None) return limited;
    if (seg.mss > 0) port.shown(Math.min(seg.mss, 65_495) + HEADERS);
    const c = new Connection(
      this,
      IpAddress.v4(ip.src),
      seg.srcPort,
      IpAddress.v4(ip.dst),
      seg.dstPort,
      port,
      port.info.mtu - HEADERS,
      false,
      this.#numbers.tsOffset(ip.src, ip.dst, (seg.srcPort << 16) | seg.dstPort, 0),
      now,
    );
    c.path = port.pathTo(macBuf, srcMacOff);
    c.issAbove = issAbove;
    port.flows++;
    this.table.add(c);
    this.opening++;
    port.opening++;
    this.stats.passiveOpens++;
    c.openPassive(seg, now);
    this.wake(c);
    this.#acceptor.onSyn(c, now);
    return Drop.None;
  }

  /** RFC 9293 3.5.2: the RST for `#seg`, which belongs to no connection, or not to this one. Never in answer to a RST. */
  #resetFor(path: Path, src: number, dst: number, now: Millis): void {
    const seg = this.#seg;
    if (seg.flags & FLAG_RST || !path.port.icmpLimiter.take(now)) return;
    const off = this.#egress.reserveIpv4(path.port, TCP_HEADER);
    if (off < 0) return;
    const ack = (seg.flags & FLAG_ACK) !== 0;
    const flags = ack ? FLAG_RST : FLAG_RST | FLAG_ACK;
    const { mem } = this.slab;
    emitTcpHeader(
      mem,
      off,
      seg.dstPort,
      seg.srcPort,
      ack ? seg.segAck : 0,
      ack ? 0 : seg.segSeq + seg.segLen,
      TCP_HEADER,
      flags,
      0,
    );
    this.stats.resetsToGuest++;
    this.#finish(path, off, TCP_HEADER, src, dst);
  }

  // --- Towards the guest.

  /** GuestConnector.connect. */
  connect(src: IpAddress, guest: IpAddress, guestPort: number, now: Millis, srcPort = 0): TcpFlow | undefined {
    if (this.opening >= this.limits.pendingMax || this.flows >= this.limits.flowsMax) return undefined;
    const path = this.#uplink.resolve(guest, now);
    if (path === false) return undefined;
    const own = srcPort > 0 && this.table.find(guest, guestPort, src, srcPort) === undefined;
    const port = own ? srcPort : this.table.freePort(src, guest, guestPort, this.#random);
    if (port < 0) return undefined;
    const vm: { id: number } = path?.port ?? { id: 0 };
    const mtu = path?.port.info.mtu ?? 1500;
    const ts = this.#numbers.tsOffset(guest.w3, src.w3, (guestPort << 16) | port, 1);
    const c = new Connection(this, guest, guestPort, src, port, vm, mtu - HEADERS, true, ts, now);
    this.table.add(c);
    this.opening++;
    this.stats.activeOpens++;
    c.path = path;
    if (path === undefined) {
      const key = guest.toString();
      const waiting = this.#unresolved.get(key);
      if (waiting) waiting.push(c);
      else this.#unresolved.set(key, [c]);
    } else path.port.flows++;
    c.openActive(now);
    return c;
  }

  /** A guest's address was resolved: SYNs that waited go out. */
  pathKnown(guest: IpAddress, path: Path, now: Millis): void {
    const key = guest.toString();
    const waiting = this.#unresolved.get(key);
    if (!waiting) return;
    this.#unresolved.delete(key);
    for (const c of waiting) {
      if (c.state !== State.SynSent) continue;
      c.path = path;
      c.vm = path.port;
      c.linkMss = path.port.info.mtu - HEADERS;
      path.port.flows++;
      c.blocked = false;
      c.retrySyn(now);
    }
  }

  /** Nobody answered for a guest's address. */
  pathFailed(guest: IpAddress, _now: Millis): void {
    const key = guest.toString();
    const waiting = this.#unresolved.get(key);
    if (!waiting) return;
    this.#unresolved.delete(key);
    for (const c of waiting) if (c.state === State.SynSent) c.close(CloseReason.Unreachable, true);
  }

  // --- SegmentSink.
  reserve(c: Connection, len: number): number {
    const path = c.path as Path | undefined;
    if (path === undefined) return -1;
    // A segment without data is small and stands for something that would be lost: it may take the last room.
    const off = this.#egress.reserveIpv4(path.port, len, len > TCP_HEADER_MAX);
    if (off < 0 && !c.blocked && c.state !== State.Closed) {
      c.blocked = true;
      path.port.blocked.add(c);
    }
    return off;
  }

  reserveRun(c: Connection, len: number, count: number): number {
    const path = c.path as Path | undefined;
    if (path === undefined) return 0;
    const n = this.#egress.reserveRunIpv4(path.port, len, count);
    if (n === 0 && !c.blocked && c.state !== State.Closed) {
      c.blocked = true;
      path.port.blocked.add(c);
    }
    return n;
  }

  mayQueue(c: Connection): boolean {
    if ((c.path as Path).port.budget.admits(c, this.#now)) return true;
    this.stats.budgetWaits++;
    return false;
  }

  get runOffset(): number {
    return this.#egress.runOffset;
  }

  commitRun(c: Connection, off: number, headerLen: number, mss: number, count: number, lastFlags: number): void {
    const { path, remote, guest, snd } = c;
    c.served = true;
    const { mem } = this.slab;
    const pseudo = pseudoHeaderSumV4(remote.w3, guest.w3, PROTO_TCP, headerLen + mss);
    // Without sequence number and checksum.
    const partial = fold(pseudo + sumBytes(mem, off, 4) + sumBytes(mem, off + 8, headerLen - 8));
    this.#egress.commitRunIpv4(
      path as Path,
      off,
      headerLen,
      mss,
      count,
      remote.w3,
      guest.w3,
      snd.ring,
      (c.sndNxt - c.sndUna) | 0,
      partial,
      lastFlags,
    );
  }

  commit(c: Connection, off: number, len: number): void {
    c.served = true;
    if (c.snd.used > 0 && c.sndNxt === c.sndUna) (c.path as Path).port.budget.alone(c, this.#now);
    this.#finish(c.path as Path, off, len, c.remote.w3, c.guest.w3);
  }

  #finish(path: Path, off: number, len: number, src: number, dst: number): void {
    const egress = this.#egress;
    const sum = pseudoHeaderSumV4(src, dst, PROTO_TCP, len) + egress.sumOf(egress.mem, off, len);
    setU16(egress.mem, off + 16, finish(sum));
    egress.commitIpv4(path.port, path.mac, off, len, PROTO_TCP, src, dst);
  }

  unreachable(c: Connection, reason: RefuseReason, now: Millis): void {
    this.stats.unreachable++;
    if (c.path !== undefined) this.#uplink.unreachable(c.path as Path, codeOf(reason), c, now);
  }

  // --- TcpEnv.

  wake(c: Connection): void {
    if (c.awake) return;
    c.awake = true;
    this.#awake.push(c);
    if (this.#awake.length === 1) this.#uplink.onAwake();
  }

  arm(c: Connection): void {
    this.deadlines.update(c);
    const next = (c.path as Path | undefined)?.port.budget.count(c, this.#now);
    if (next !== undefined) this.wake(next);
  }

  gone(c: Connection): void {
    this.table.remove(c);
    this.deadlines.remove(c);
    this.#waiting.delete(c);
    const path = c.path as Path | undefined;
    if (path === undefined) return;
    path.port.flows--;
    const next = path.port.budget.forget(c, this.#now);
    if (next !== undefined) this.wake(next);
    if (c.blocked) path.port.blocked.delete(c);
  }

  opened(c: Connection): void {
    this.opening--;
    if (!c.active) (c.path as Path).port.opening--;
  }

  timeWait(c: Connection): void {
    this.#waiting.add(c);
    if (this.#waiting.size <= this.limits.timeWaitMax) return;
    for (const oldest of this.#waiting) {
      this.stats.timeWaitEvicted++;
      oldest.close(CloseReason.Done, true);
      break;
    }
  }

  isn(c: Connection, now: Millis): number {
    return this.#numbers.isn(c, now);
  }

  // --- The stack's calls.

  /** Runs the timers that are due. */
  runDeadlines(now: Millis): void {
    this.#now = now;
    this.deadlines.run(now, (c, error) => this.#bug(c, error, now));
  }

  /** Runs the turns that are due, a bounded number of rounds. @returns false if some are left for the next turn. */
  runTurns(now: Millis): boolean {
    this.#now = now;
    for (let round = 0; round < 4 && this.#awake.length > 0; round++) {
      const list = this.#awake;
      this.#awake = this.#spare;
      this.#spare = list;
      for (let i = 0; i < list.length; i++) {
        const c = list[i]!;
        c.awake = false;
        try {
          c.turn(now);
        } catch (error) {
          this.#bug(c, error, now);
        }
      }
      list.length = 0;
    }
    return this.#awake.length === 0;
  }

  /** Flows that have been idle give back the window they grew; looked for at most once a second. */
  #reclaimWindows(): void {
    const now = this.#now;
    if (now - this.#reclaimedAt < IDLE_WINDOW_MS / 2) return;
    this.#reclaimedAt = now;
    for (const c of this.table.all()) if (now - c.lastRecvAt > IDLE_WINDOW_MS) c.rcv.lower();
  }

  /**
   * The VM's link drains again. Those that got nothing through since the last time go first: a flow that fills it each time would
   * else keep the others out until it is done.
   */
  unblock(port: VmPort): void {
    for (const served of [false, true]) {
      for (const c of port.blocked) {
        if (c.served !== served) continue;
        port.blocked.delete(c);
        c.blocked = false;
        c.served = false;
        this.wake(c);
      }
    }
  }

  /** Ends every flow of a VM that is gone; owners hear of it in the turn that follows. */
  dropVm(port: VmPort): void {
    for (const c of this.table.all())
      if ((c.path as Path | undefined)?.port === port) c.close(CloseReason.VmGone, true);
    port.blocked.clear();
  }

  /** Resets every flow: the daemon stops. */
  abortAll(now: Millis): void {
    for (const c of this.table.all()) {
      const owner = c.owner;
      c.abort(CloseReason.Shutdown, now);
      owner?.onClosed(CloseReason.Shutdown, now);
    }
  }

  #bug(c: Connection, error: unknown, now: Millis): void {
    this.#stackStats.bugs++;
    this.stats.bugs++;
    const owner = c.owner;
    try {
      c.abort(CloseReason.Bug, now);
    } catch {
      // What broke it may break its end, too.
      c.close(CloseReason.Bug, false);
    }
    owner?.onClosed(CloseReason.Bug, now);
    this.#uplink.onBug(error, c);
  }
}

/** The ICMP code of a refusal. */
function codeOf(reason: RefuseReason): number {
  if (reason === RefuseReason.NetUnreachable) return UNREACHABLE_NET;
  return reason === RefuseReason.Prohibited ? UNREACHABLE_PROHIBITED : UNREACHABLE_HOST;
}
