// Runs of frames from a guest: after a segment that came in order, or an acknowledgement that carried nothing else, the frames behind it
// in the same read that do nothing but carry on are taken in with one call of the packet kernel. It knows which connection that is, and
// for how long; what a run changes in a connection is tcp/run's.

import { getU32 } from '../base/bytes.ts';
import type { PacketKernel } from '../base/packet-kernel.ts';
import type { Slab } from '../base/slab.ts';
import { ETHERNET_HEADER } from '../ethernet/frame.ts';
import type { Connection } from '../tcp/connection.ts';
import { carryOn, startsAckRun, startsRun } from '../tcp/run.ts';
import { type SegmentView, TCP_HEADER } from '../tcp/segment.ts';
import type { VmPort } from './vm-port.ts';

/** Bytes of an Ethernet and an IPv4 header. */
const FRAME_HEADERS = ETHERNET_HEADER + 20;
const TIMESTAMPS = 12;
/** Frames of one run: more than a link reads at once. */
const RUN_MAX = 65_536;

export class RunTaker {
  /** Whose frame it was that came last, if the frames behind it may carry on. */
  flow: Connection | undefined = undefined;
  readonly #slab: Slab;
  readonly #kernel: PacketKernel;
  /** Bytes of input that the last run used, also where what came of them failed: the answer stands where a length was. */
  used = 0;
  #acks = false;

  constructor(slab: Slab, kernel: PacketKernel) {
    this.#slab = slab;
    this.#kernel = kernel;
  }

  /** `seg` has just been input to `c`. */
  note(c: Connection, seg: SegmentView): void {
    const acks = seg.payloadLen === 0;
    if (!(acks ? startsAckRun(c, seg) : startsRun(c, seg))) return;
    this.flow = c;
    this.#acks = acks;
  }

  /**
   * Takes in what carries on the frame at `model`; see `LinkPort.inputRun`. Leaves the number of frames in `port.runFrames`.
   * @returns bytes of [at, end) used.
   */
  take(port: VmPort, model: number, at: number, end: number, prefix: number): number {
    const c = this.flow;
    this.flow = undefined;
    this.used = 0;
    if (c === undefined) return 0;
    const header = FRAME_HEADERS + (c.tsOk ? TCP_HEADER + TIMESTAMPS : TCP_HEADER);
    return this.#acks
      ? this.#passOver(c, port, model, at, end, prefix, header)
      : this.#takeIn(c, port, model, at, end, prefix, header);
  }

  #passOver(
    c: Connection,
    port: VmPort,
    model: number,
    at: number,
    end: number,
    prefix: number,
    header: number,
  ): number {
    const used = this.#kernel.skipAcks(at, end, prefix, model, header, c.rcvNxt, c.sndUna, c.sndNxt, c.tsRecent);
    port.runFrames = used / (prefix + header);
    c.env.stats.segmentsFromGuest += port.runFrames;
    return used;
  }

  #takeIn(c: Connection, port: VmPort, model: number, at: number, end: number, prefix: number, header: number): number {
    const room = c.rcv.runRoom(Math.min((c.rcvAdv - c.rcvNxt) | 0, end - at));
    if (room <= 0) return 0;
    const to = c.rcv.ring.tailOffset;
    const { rcvNxt, tsRecent } = c;
    const frames = this.#kernel.receiveRun(at, end, prefix, model, header, rcvNxt, tsRecent, to, room, RUN_MAX);
    port.runFrames = frames;
    if (frames === 0) return 0;
    const { mem } = this.#slab;
    this.used = getU32(mem, at);
    const longest = getU32(mem, at + 8);
    carryOn(c, frames, getU32(mem, at + 4), longest - header, getU32(mem, at + 12));
    port.shown(longest - ETHERNET_HEADER);
    return this.used;
  }
}
