// Headers below the transport, for everything that goes to a guest: reserve room in the VM's batch, write the payload there,
// commit fills in Ethernet and IPv4. One place knows how much headroom that is.

import { copyBytes } from '../base/bytes.ts';
import { sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { PacketKernel } from '../base/packet-kernel.ts';
import type { Ring } from '../base/ring.ts';
import { ETHERNET_HEADER, ETHERTYPE_IPV4, emitEthernet } from '../ethernet/frame.ts';
import { FragmentCursor } from '../ip/fragmenter.ts';
import { DEFAULT_TTL, emitIpv4Header, IPV4_DF, IPV4_HEADER, type IpIds, PROTO_TCP } from '../ip/ipv4.ts';
import type { StackStats } from './stats.ts';
import type { Path, VmPort } from './vm-port.ts';

/** Bytes in front of an IPv4 payload. */
export const IPV4_HEADROOM: number = ETHERNET_HEADER + IPV4_HEADER;

/** Below this a call into the kernel costs more than it saves. */
const KERNEL_MIN_BYTES = 32;

/** Sends frames to VMs. */
export class EgressWriter {
  /** The packet memory that every egress reserves from. */
  readonly mem: Uint8Array;
  readonly kernel: PacketKernel;
  /** Ports with frames to flush. */
  readonly dirty: VmPort[] = [];
  /** After `reserveRunIpv4`: where the first payload goes. */
  runOffset = 0;
  #runStride = 0;
  readonly #mac: Uint8Array;
  readonly #ids: IpIds;
  readonly #stats: StackStats;
  readonly #cursor = new FragmentCursor();
  readonly #onDirty: () => void;

  /** @param onDirty something waits for a flush. */
  constructor(
    mem: Uint8Array,
    kernel: PacketKernel,
    mac: Uint8Array,
    ids: IpIds,
    stats: StackStats,
    onDirty: () => void,
  ) {
    this.#onDirty = onDirty;
    this.mem = mem;
    this.kernel = kernel;
    this.#mac = mac;
    this.#ids = ids;
    this.#stats = stats;
  }

  /** Partial sum of bytes in any memory, fast in the packet memory. */
  sumOf(buf: Uint8Array, off: number, len: number): number {
    return buf === this.mem && len >= KERNEL_MIN_BYTES ? this.kernel.sum(off, len) : sumBytes(buf, off, len);
  }

  /** Room for a frame; -1 (counted) if the link does not drain. */
  reserve(port: VmPort, len: number, bulk = false): number {
    const off = port.closed ? -1 : port.egress.reserve(len, bulk);
    if (off < 0) port.refused++;
    return off;
  }

  commit(port: VmPort, off: number, len: number): void {
    port.egress.commit(off, len);
    this.#committed(port, 1, len);
  }

  #committed(port: VmPort, frames: number, bytes: number): void {
    port.framesToGuest += frames;
    port.bytesToGuest += bytes;
    this.#stats.framesToGuest += frames;
    this.#stats.bytesToGuest += bytes;
    if (!port.dirty) {
      port.dirty = true;
      this.dirty.push(port);
      if (this.dirty.length === 1) this.#onDirty();
    }
  }

  /** Room for an IPv4 payload; -1 if the link does not drain. */
  reserveIpv4(port: VmPort, len: number, bulk = false): number {
    const off = this.reserve(port, IPV4_HEADROOM + len, bulk);
    return off < 0 ? -1 : off + IPV4_HEADROOM;
  }

  /** Sends the payload at `off` as one packet that may not be fragmented. */
  commitIpv4(
    port: VmPort,
    mac: Uint8Array,
    off: number,
    len: number,
    protocol: number,
    src: number,
    dst: number,
  ): void {
    const frame = off - IPV4_HEADROOM;
    emitEthernet(this.mem, frame, mac, 0, this.#mac, 0, ETHERTYPE_IPV4);
    // DF is set, so the identification says nothing and is 0 (RFC 6864 4.1).
    emitIpv4Header(this.mem, off - IPV4_HEADER, IPV4_HEADER + len, 0, IPV4_DF, DEFAULT_TTL, protocol, src, dst);
    this.commit(port, frame, IPV4_HEADROOM + len);
  }

  /** Room for up to `count` IPv4 payloads of `len` bytes, the first at `runOffset`; 0 (counted) if the link does not drain. */
  reserveRunIpv4(port: VmPort, len: number, count: number): number {
    const { egress } = port;
    if (egress.reserveRun === undefined || port.closed) {
      this.runOffset = this.reserveIpv4(port, len, true);
      this.#runStride = 0;
      return this.runOffset < 0 ? 0 : 1;
    }
    const n = egress.reserveRun(IPV4_HEADROOM + len, count);
    if (n === 0) port.refused++;
    this.runOffset = (egress.runOffset ?? 0) + IPV4_HEADROOM;
    this.#runStride = egress.runStride ?? 0;
    return n;
  }

  /** Makes and sends a run of TCP segments; see `SegmentSink.commitRun` and `PacketKernel.segmentize`. */
  commitRunIpv4(
    path: Path,
    off: number,
    headerLen: number,
    mss: number,
    count: number,
    src: number,
    dst: number,
    ring: Ring,
    ringAt: number,
    partial: number,
    lastFlags: number,
  ): void {
    const { port, mac } = path;
    const frame = off - IPV4_HEADROOM;
    const len = IPV4_HEADROOM + headerLen + mss;
    emitEthernet(this.mem, frame, mac, 0, this.#mac, 0, ETHERTYPE_IPV4);
    const total = IPV4_HEADER + headerLen + mss;
    emitIpv4Header(this.mem, off - IPV4_HEADER, total, 0, IPV4_DF, DEFAULT_TTL, PROTO_TCP, src, dst);
    const at = (ring.head + ringAt) & (ring.cap - 1);
    const headers = IPV4_HEADROOM + headerLen;
    // Copy: from the send ring into the batch that leaves in one write; the one copy of the way to the guest.
    this.kernel.segmentize(
      frame,
      this.#runStride,
      count,
      headers,
      IPV4_HEADROOM,
      mss,
      ring.off,
      ring.cap,
      at,
      partial,
      lastFlags,
    );
    if (this.#runStride === 0) port.egress.commit(frame, len);
    else port.egress.commitRun?.(frame, len, count);
    this.#committed(port, count, len * count);
  }

  /**
   * Sends a payload that lies elsewhere, in fragments of what the guest takes. @param buf any memory.
   * @returns false (counted) if the link did not take all of it.
   */
  sendIpv4(
    port: VmPort,
    mac: Uint8Array,
    protocol: number,
    src: number,
    dst: number,
    buf: Uint8Array,
    off: number,
    len: number,
    ttl: number = DEFAULT_TTL,
  ): boolean {
    const cursor = this.#cursor;
    cursor.start(len, port.takes);
    let id = 0;
    while (cursor.next()) {
      const at = this.reserve(port, IPV4_HEADROOM + cursor.length);
      if (at < 0) {
        this.#stats.drops.add(Drop.LinkTxFull);
        return false;
      }
      if (cursor.offset === 0) id = cursor.more ? this.#ids.next(src, dst, protocol) : 0;
      emitEthernet(this.mem, at, mac, 0, this.#mac, 0, ETHERTYPE_IPV4);
      const flags = len > cursor.length ? cursor.flagsFragment : IPV4_DF;
      emitIpv4Header(this.mem, at + ETHERNET_HEADER, IPV4_HEADER + cursor.length, id, flags, ttl, protocol, src, dst);
      // Copy: from wherever the payload was made into the batch.
      copyBytes(buf, off + cursor.offset, this.mem, at + IPV4_HEADROOM, cursor.length);
      this.commit(port, at, IPV4_HEADROOM + cursor.length);
    }
    return true;
  }

  /** The turn is over: what was committed leaves, one write a VM. */
  flush(_now: Millis): void {
    const { dirty } = this;
    for (let i = 0; i < dirty.length; i++) {
      const port = dirty[i]!;
      port.dirty = false;
      if (!port.closed) port.egress.flush();
    }
    dirty.length = 0;
  }
}
