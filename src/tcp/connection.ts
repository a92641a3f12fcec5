// One TCP connection between a guest and us (RFC 9293), sans I/O: the TCB and the calls of its owner.
//
// Theory of operation. A connection is a record of plain fields, named as in the RFCs, and is changed in four places:
//   input.ts     a segment has come in (RFC 9293 3.10.7, in its order)
//   output.ts    something may be sent: retransmissions, new data, FIN, acknowledgement, in that order
//   timers.ts    a deadline has come (retransmission, probe, persist, delayed ACK, TIME-WAIT, ...)
//   this file    the owner (the forwarder's end of the flow) accepts, writes, consumes, shuts down, aborts
// with recovery.ts (loss) as the helper of the first three.
//
// Nothing here calls the owner in the middle of a change, and nothing sends a segment as it goes: changes set `events` and
// wake the connection; at the end of the turn the stack calls `turn`, which first tells the owner what happened and then lets
// output send. So an acknowledgement stands for a whole batch of segments, rides on the owner's answer if it gave one at
// once, and carries the window after the owner took its bytes. Exceptions are answers that stand for one segment: resets and
// challenge ACKs.
//
// Memory: bytes from the guest lie in `rcv` until the host took them, bytes from the host in `snd` until the guest acknowledged
// them. Both rings are blocks of the one slab, made when needed and given back when empty.
//
// Time is the `now` handed in; deadlines are numbers (`nextDeadline`), armed in the environment's queue by `turn`.

import { type Millis, NEVER } from '../base/clock.ts';
import type { Deadlined } from '../base/deadline-queue.ts';
import type { IpAddress } from '../ip/address.ts';
import { Assembler } from './assembler.ts';
import type { CongestionControl } from './congestion.ts';
import type { TcpEnv } from './env.ts';
import { CloseReason, type FlowOwner, type RefuseReason, type TcpFlow, type VmRef } from './flow.ts';
import { newCongestion, takeSyn } from './handshake.ts';
import { RCV_WND_SHIFT } from './limits.ts';
import { output, sendReset, sendSyn, sendSynAck, windowUpdateDue } from './output.ts';
import { ReceiveBuffer } from './receive-buffer.ts';
import { RttEstimator } from './rtt.ts';
import type { SegmentView } from './segment.ts';
import { SendBuffer } from './send-buffer.ts';
import { SentQueue } from './sent-queue.ts';
import { type Seq, seqAdd } from './seq.ts';
import { canSend, EVENT_CLOSED, EVENT_ESTABLISHED, EVENT_READABLE, EVENT_WRITABLE, Recovery, State } from './state.ts';
import { earliest, onDeadline } from './timers.ts';

export class Connection implements TcpFlow, Deadlined {
  readonly env: TcpEnv;
  readonly guest: IpAddress;
  readonly guestPort: number;
  readonly remote: IpAddress;
  readonly remotePort: number;
  vm: VmRef;
  /** The stack's: where frames of this flow go. */
  path: unknown = undefined;
  owner: FlowOwner | undefined = undefined;
  /** The stack's flow table: hash of the 4-tuple. */
  hash = 0;
  heapAt: Millis = NEVER;
  heapIndex = -1;
  /** On the list of connections whose `turn` is due. */
  awake = false;
  /** Waiting for the link to drain. */
  blocked = false;
  /** It has sent something since the link last drained. */
  served = false;
  /** Bytes on their way that the sink has counted. */
  counted = 0;
  /** `bytesToGuest` when a segment last left with nothing before it on its way. */
  leftAlone = 0;
  /** Counted among the opens in progress. */
  opening = true;
  events = 0;
  state: State = State.Closed;
  /** True where we sent the first SYN (a published port). */
  readonly active: boolean;
  closeReason: CloseReason = CloseReason.Done;
  readonly createdAt: Millis;

  // Send sequence space, RFC 9293 3.3.1.
  iss: Seq = 0;
  /** SND.NXT of the flow whose 4-tuple this one takes over; our ISN lies above it (RFC 6191, RFC 9293 MAY-2). */
  issAbove: Seq | undefined = undefined;
  sndUna: Seq = 0;
  /** Next to be sent for the first time. */
  sndNxt: Seq = 0;
  sndWnd = 0;
  sndWl1: Seq = 0;
  sndWl2: Seq = 0;
  /** Largest window the peer ever offered: Max(SND.WND). */
  sndWndMax = 0;
  sndWndShift = 0;
  /** The first window the guest showed, 0 before that: bounds the MSS. */
  firstWnd = 0;
  /** What the peer's MSS, our link and the path allow. */
  pathMss: number;
  /** Effective send MSS, without options. */
  effSndMss: number;
  /** Our own MSS, from the link's MTU. */
  linkMss: number;
  readonly snd: SendBuffer;
  /** The owner has said that no more bytes come. */
  finQueued = false;
  finSent = false;
  /** Sequence number of our FIN, once sent. */
  finSeq: Seq = 0;

  // Receive sequence space.
  irs: Seq = 0;
  /** Data bytes on the guest's SYN: not kept, but a refusal acknowledges them (RFC 9293 3.10.7.1). */
  synData = 0;
  rcvNxt: Seq = 0;
  /** Right edge of the window as last advertised; never moves left. */
  rcvAdv: Seq = 0;
  rcvWndShift = 0;
  /** What our SYN offers; `rcvWndShift` is it once agreed upon. */
  readonly ownWndShift: number = RCV_WND_SHIFT;
  readonly rcv: ReceiveBuffer;
  /** Ranges beyond a hole; undefined until the first one. */
  assembler: Assembler | undefined = undefined;
  /** The guest's FIN was seen at this place, perhaps beyond a hole. */
  finAt: Seq = 0;
  finSeen = false;
  /** RCV.NXT is past the FIN. */
  finReceived = false;
  /** Largest payload the guest sent: what a "full segment" is for our acknowledgements. */
  rcvMss = 536;
  /** D-SACK to report, RFC 2883; count 0 = none. */
  dsackLeft: Seq = 0;
  dsackRight: Seq = 0;

  // Options agreed upon.
  tsOk = false;
  sackOk = false;
  wndScaleOk = false;
  tsRecent = 0;
  tsRecentAt: Millis = 0;
  lastAckSent: Seq = 0;
  readonly tsOffset: number;

  // Acknowledging.
  ackPending = false;
  ackNow = false;
  /** Segments with data since the last acknowledgement. */
  unackedSegs = 0;
  /** Segments that are acknowledged at once before delaying is tried; refilled when a delay expired in vain. */
  quickAcks = 16;
  delackDeadline: Millis = NEVER;
  challengeCount = 0;
  challengeSince: Millis = 0;

  // Retransmission and recovery (RFC 6298, 6675, 8985).
  readonly sent: SentQueue = new SentQueue();
  readonly rtt: RttEstimator;
  cc: CongestionControl;
  rtoDeadline: Millis = NEVER;
  /** Retransmissions of the first unacknowledged segment in a row. */
  backoffs = 0;
  synTries = 0;
  /** The SYN or SYN-ACK could not go out yet. */
  handshakeDue = false;
  recovery: Recovery = Recovery.Open;
  /** SND.NXT when recovery began. */
  recover: Seq = 0;
  dupAcks = 0;
  sackedBytes = 0;
  lostBytes = 0;
  prrDelivered = 0;
  prrOut = 0;
  recoverFs = 0;
  /** RFC 8985: the most recently sent segment that was delivered. */
  rackXmitAt: Millis = -1;
  rackEndSeq: Seq = 0;
  rackRtt = 0;
  rackReordering = false;
  rackReoWndMult = 1;
  rackFack: Seq = 0;
  reoDeadline: Millis = NEVER;
  ptoDeadline: Millis = NEVER;
  tlpEnd: Seq = 0;
  tlpOut = false;
  tlpIsRetrans = false;
  /** TSval of the first retransmission of this episode, for RFC 3522; 0 = none. */
  undoTs = 0;
  undoRetrans = 0;
  /** SND.UNA at its start: D-SACKs of older bytes say nothing about it. */
  undoUna: Seq = 0;
  cwndLimited = false;
  lastSendAt: Millis = 0;
  lastRecvAt: Millis = 0;

  // Other deadlines.
  persistDeadline: Millis = NEVER;
  persistBackoff = 0;
  probesUnanswered = 0;
  swsDeadline: Millis = NEVER;
  swsOverride = false;
  lifeDeadline: Millis = NEVER;
  keepaliveDeadline: Millis = NEVER;
  keepaliveProbes = 0;
  orphaned = false;
  /** Nothing more is to be said to the guest; the owner may still have bytes to take. */
  finished = false;
  wantWritable = false;

  // For status and logs.
  bytesToHost = 0;
  bytesToGuest = 0;
  retransmits = 0;

  constructor(
    env: TcpEnv,
    guest: IpAddress,
    guestPort: number,
    remote: IpAddress,
    remotePort: number,
    vm: VmRef,
    linkMss: number,
    active: boolean,
    tsOffset: number,
    now: Millis,
  ) {
    this.env = env;
    this.guest = guest;
    this.guestPort = guestPort;
    this.remote = remote;
    this.remotePort = remotePort;
    this.vm = vm;
    this.linkMss = linkMss;
    this.pathMss = linkMss;
    this.effSndMss = linkMss;
    this.active = active;
    this.tsOffset = tsOffset;
    this.createdAt = now;
    this.lastRecvAt = now;
    this.rcv = new ReceiveBuffer(env.slab, env.limits, env.windows);
    this.snd = new SendBuffer(env.slab, env.limits);
    this.rtt = new RttEstimator(env.limits);
    this.cc = newCongestion(env.limits, Math.min(linkMss, 1460));
  }

  get mem(): Uint8Array {
    return this.env.slab.mem;
  }

  // --- The handshake, by the owner or the stack.

  /** A guest's SYN: nothing is sent until the owner accepts or refuses. */
  openPassive(seg: SegmentView, now: Millis): void {
    this.state = State.SynPending;
    takeSyn(this, seg, now);
    this.lifeDeadline = now + this.env.limits.synPendingMs;
  }

  accept(now: Millis): void {
    if (this.state !== State.SynPending) return;
    this.iss = this.env.isn(this, now);
    this.sndUna = this.iss;
    this.recover = this.iss;
    this.sndNxt = seqAdd(this.iss, 1);
    this.sndWl2 = this.iss;
    this.state = State.SynReceived;
    this.lifeDeadline = NEVER;
    this.rtoDeadline = now + this.rtt.rto;
    sendSynAck(this, now);
    this.env.wake(this);
  }

  /** A published port: our SYN goes out. */
  openActive(now: Millis): void {
    this.iss = this.env.isn(this, now);
    this.sndUna = this.iss;
    this.recover = this.iss;
    this.sndNxt = seqAdd(this.iss, 1);
    this.state = State.SynSent;
    this.rtoDeadline = now + this.rtt.rto;
    sendSyn(this, now);
    this.env.wake(this);
  }

  /** The guest's address is known now: the SYN that could not go out does. */
  retrySyn(now: Millis): void {
    this.rtoDeadline = now + this.rtt.rto;
    sendSyn(this, now);
    this.env.wake(this);
  }

  refuse(reason: RefuseReason, now: Millis): void {
    if (this.state !== State.SynPending) return;
    if (reason === 'refused') {
      this.env.stats.refused++;
      sendReset(this, now);
    } else this.env.sink.unreachable(this, reason, now);
    this.close(reason === 'refused' ? CloseReason.Refused : CloseReason.Unreachable, false);
  }

  // --- Guest to host.

  get readable(): number {
    const ring = this.rcv.ring;
    return ring.used === 0 ? 0 : ring.contiguous(0, ring.used);
  }

  get readableOffset(): number {
    return this.rcv.ring.offsetOf(0);
  }

  get ended(): boolean {
    return this.finReceived && this.rcv.ring.used === 0;
  }

  pin(): void {
    this.rcv.pin();
  }

  consume(len: number, _now: Millis): void {
    this.bytesToHost += len;
    this.rcv.consume(len);
    if (this.finished) return this.finish();
    if (this.state === State.Closed) return;
    // The window may have opened (TCP-FCR-03: unprompted), and more may wait behind the ring's edge.
    if (windowUpdateDue(this)) {
      this.ackNow = true;
      this.env.wake(this);
    }
    if (this.rcv.ring.used > 0 || this.finReceived) {
      this.events |= EVENT_READABLE;
      this.env.wake(this);
    }
  }

  // --- Host to guest.

  get writable(): number {
    return canSend(this.state) && !this.finQueued ? this.snd.free : 0;
  }

  get writableLimit(): number {
    return this.snd.limit;
  }

  awaitWritable(): void {
    this.wantWritable = true;
  }

  room(want: number): number {
    if (!canSend(this.state) || this.finQueued) return 0;
    const n = this.snd.room(want);
    if (n === 0) this.wantWritable = true;
    return n;
  }

  get roomOffset(): number {
    return this.snd.ring.tailOffset;
  }

  commit(len: number, _now: Millis): void {
    this.snd.commit(len);
    if (len > 0 && this.state !== State.Closed) this.env.wake(this);
  }

  write(buf: Uint8Array, off: number, len: number, _now: Millis): number {
    if (!canSend(this.state) || this.finQueued) return 0;
    const n = this.snd.write(buf, off, len);
    if (n < len) this.wantWritable = true;
    if (n > 0) this.env.wake(this);
    return n;
  }

  shutdown(_now: Millis): void {
    if (this.finQueued || this.state === State.Closed || this.state === State.SynPending) return;
    this.finQueued = true;
    this.env.wake(this);
  }

  abort(reason: CloseReason, now: Millis): void {
    if (this.state === State.Closed) return;
    // What the host sent in the same turn as its reset goes first, as far as the guest's window takes it.
    if (reason === CloseReason.HostReset && canSend(this.state)) output(this, now);
    if (this.state !== State.TimeWait && this.state !== State.SynSent) sendReset(this, now);
    this.close(reason, false);
  }

  orphan(now: Millis): void {
    this.orphaned = true;
    // Bytes that nobody will read now (RFC 2525 2.17, TCP-FIN-09).
    if (this.rcv.ring.used > 0) {
      this.release();
      this.abort(CloseReason.HostReset, now);
      return;
    }
    if (this.state !== State.FinWait2) return;
    this.lifeDeadline = now + this.env.limits.finWait2Ms;
    this.env.wake(this);
  }

  // --- The end.

  /** Leaves the flow table. A clean end lets the host take what is still held first; anything else frees it now. */
  close(reason: CloseReason, tell: boolean): void {
    if (this.state === State.Closed) return;
    this.state = State.Closed;
    this.closeReason = reason;
    this.clearTimers();
    if (this.opening) this.opened();
    this.env.gone(this);
    // Bytes that came in one read with the guest's reset go to the host before it (TCP-RST-08).
    const unread = tell && this.owner && reason === CloseReason.GuestReset ? this.events & EVENT_READABLE : 0;
    this.events = 0;
    this.snd.close();
    this.sent.clear();
    this.assembler = undefined;
    if (!tell) this.owner = undefined;
    if (reason === CloseReason.Done && this.owner) this.finish();
    else {
      if (unread === 0) this.rcv.close();
      if (!this.owner) return;
      this.events = EVENT_CLOSED | unread;
      this.env.wake(this);
    }
  }

  /** Both directions are done as far as the guest knows: the owner is told once it has taken every byte. */
  finish(): void {
    this.finished = true;
    if (!this.owner) return;
    this.events |= this.rcv.ring.used > 0 ? EVENT_READABLE : EVENT_CLOSED;
    this.env.wake(this);
  }

  release(): void {
    if (this.rcv.pinned) {
      this.rcv.consume(0);
      this.rcv.close();
    }
    if (this.snd.lent) this.snd.commit(0);
  }

  opened(): void {
    this.opening = false;
    this.env.opened(this);
  }

  clearTimers(): void {
    this.rtoDeadline = NEVER;
    this.persistDeadline = NEVER;
    this.delackDeadline = NEVER;
    this.reoDeadline = NEVER;
    this.ptoDeadline = NEVER;
    this.swsDeadline = NEVER;
    this.lifeDeadline = NEVER;
    this.keepaliveDeadline = NEVER;
  }

  // --- The stack's calls.

  /** The end of a turn: the owner hears what happened, then what may be sent is sent. */
  turn(now: Millis): void {
    const owner = this.owner;
    const events = this.events;
    this.events = 0;
    if (owner) {
      if (events & EVENT_CLOSED) {
        if (events & EVENT_READABLE && this.rcv.ring.used > 0 && !this.rcv.pinned) owner.onReadable(now);
        this.owner = undefined;
        owner.onClosed(this.closeReason, now);
        // Every byte was taken, or nobody takes it any more.
        this.rcv.close();
        if (this.state !== State.Closed) output(this, now);
        return;
      }
      if (events & EVENT_ESTABLISHED) owner.onEstablished(now);
      if (events & EVENT_READABLE && (this.rcv.ring.used > 0 || this.finReceived) && !this.rcv.pinned)
        owner.onReadable(now);
      if (events & EVENT_WRITABLE && this.wantWritable) {
        this.wantWritable = false;
        owner.onWritable(now);
      }
    }
    output(this, now);
  }

  nextDeadline(): Millis {
    return earliest(this);
  }

  onDeadline(now: Millis): void {
    onDeadline(this, now);
  }

  /** Ranges beyond a hole; made on first use, for most flows never have one. */
  assemble(): Assembler {
    this.assembler ??= new Assembler(this.env.limits.oooRanges);
    return this.assembler;
  }

  /** TSval for `now`: milliseconds with a per-flow offset, so that it tells nothing of other flows. RFC 7323 5.4. */
  tsClock(now: Millis): number {
    return (Math.floor(now) + this.tsOffset) | 0;
  }
}
