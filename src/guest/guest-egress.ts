// Headers below the transport for everything that the guest sends: the far end's twin of stack/egress, for one station and one
// link. It owns the interface MTU and fragmentation (RFC 791 3.2); who the next hop is, is guest-stack's question.

import { copyBytes } from '../base/bytes.ts';
import { Checksummer, sumBytes } from '../base/checksum.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';
import { ETHERNET_HEADER, ETHERTYPE_IPV4, emitEthernet } from '../ethernet/frame.ts';
import { FragmentCursor } from '../ip/fragmenter.ts';
import { DEFAULT_TTL, emitIpv4Header, IPV4_DF, IPV4_HEADER, IpIds } from '../ip/ipv4.ts';
import type { Egress } from '../stack/ports.ts';
import type { GuestStats } from './guest-stats.ts';

/** Bytes in front of an IPv4 payload. */
export const IPV4_HEADROOM: number = ETHERNET_HEADER + IPV4_HEADER;

/** Sends frames of one guest. */
export class GuestEgress {
  /** The packet memory that the link reserves from. */
  readonly mem: Uint8Array;
  readonly summer: Checksummer;
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** Largest IP packet sent. */
  mtu: number;
  /** Something waits for a flush. */
  dirty = false;
  readonly #link: Egress;
  readonly #ids: IpIds;
  readonly #stats: GuestStats;
  readonly #cursor = new FragmentCursor();
  readonly #onDirty: () => void;

  constructor(
    mem: Uint8Array,
    link: Egress,
    mac: Uint8Array,
    mtu: number,
    random: Random,
    stats: GuestStats,
    onDirty: () => void,
  ) {
    this.mem = mem;
    this.#link = link;
    this.mac = mac;
    this.mtu = mtu;
    this.summer = new Checksummer(mem);
    this.#ids = new IpIds(random);
    this.#stats = stats;
    this.#onDirty = onDirty;
  }

  /** Partial sum of bytes in any memory, fast in the packet memory. */
  sumOf(buf: Uint8Array, off: number, len: number): number {
    return buf === this.mem ? this.summer.sum(off, len) : sumBytes(buf, off, len);
  }

  /** Room for a frame; -1 if the link does not drain. */
  reserve(len: number): number {
    return this.#link.reserve(len);
  }

  commit(off: number, len: number): void {
    this.#link.commit(off, len);
    this.#stats.framesSent++;
    this.#stats.bytesSent += len;
    if (this.dirty) return;
    this.dirty = true;
    this.#onDirty();
  }

  /** Room for an IPv4 payload; -1 if the link does not drain. */
  reserveIpv4(len: number): number {
    const off = this.reserve(IPV4_HEADROOM + len);
    return off < 0 ? -1 : off + IPV4_HEADROOM;
  }

  /** Sends the payload at `off` as one packet with DF set, so its identification may be 0 (RFC 6864 4.1). */
  commitIpv4(
    mac: Uint8Array,
    macOff: number,
    off: number,
    len: number,
    protocol: number,
    src: number,
    dst: number,
  ): void {
    const frame = off - IPV4_HEADROOM;
    emitEthernet(this.mem, frame, mac, macOff, this.mac, 0, ETHERTYPE_IPV4);
    emitIpv4Header(this.mem, off - IPV4_HEADER, IPV4_HEADER + len, 0, IPV4_DF, DEFAULT_TTL, protocol, src, dst);
    this.commit(frame, IPV4_HEADROOM + len);
  }

  /**
   * Sends a payload that lies anywhere, in fragments of the interface's MTU.
   * @returns false (counted) if the link did not take all of it.
   */
  sendIpv4(
    mac: Uint8Array,
    macOff: number,
    protocol: number,
    src: number,
    dst: number,
    buf: Uint8Array,
    off: number,
    len: number,
    ttl: number = DEFAULT_TTL,
  ): boolean {
    const cursor = this.#cursor;
    cursor.start(len, this.mtu);
    let id = 0;
    while (cursor.next()) {
      const at = this.reserve(IPV4_HEADROOM + cursor.length);
      if (at < 0) {
        this.#stats.drops.add(Drop.LinkTxFull);
        return false;
      }
      if (cursor.offset === 0) id = cursor.more ? this.#ids.next(src, dst, protocol) : 0;
      emitEthernet(this.mem, at, mac, macOff, this.mac, 0, ETHERTYPE_IPV4);
      const flags = len > cursor.length ? cursor.flagsFragment : IPV4_DF;
      emitIpv4Header(this.mem, at + ETHERNET_HEADER, IPV4_HEADER + cursor.length, id, flags, ttl, protocol, src, dst);
      // Copy: from wherever the payload was made into the batch.
      copyBytes(buf, off + cursor.offset, this.mem, at + IPV4_HEADROOM, cursor.length);
      this.commit(at, IPV4_HEADROOM + cursor.length);
    }
    return true;
  }

  /** Writes out what was committed. */
  flush(): void {
    if (!this.dirty) return;
    this.dirty = false;
    this.#link.flush();
  }
}
