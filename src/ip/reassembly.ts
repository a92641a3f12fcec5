// Reassembly of IPv4: fragments of guests become whole packets in packet memory. It owns what waits, its limits and its
// time-out; it sends nothing (the time-exceeded message is its sink's to send). Ranges are fragment-set.ts, so that IPv6 needs
// only another key. RFC 791 3.2, RFC 815, RFC 1122 3.3.2, tiny fragments RFC 1858 and 3128, overlaps as in RFC 5722.
//
// A datagram's block holds a 20-byte header and the payload in its place, so a complete one is a plain packet to parse again.
// A discarded one stays without memory until its time is up, so that its late fragments start nothing new.

import { copyBytes } from '../base/bytes.ts';
import { type Millis, NEVER } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';
import { Slab } from '../base/slab.ts';
import { FRAGMENT_CONFLICT, FRAGMENT_DUPLICATE, FRAGMENT_NEW, FragmentSet } from './fragment-set.ts';
import { emitIpv4Header, IPV4_HEADER, IPV4_MAX, IPV4_MF, type Ipv4View, PROTO_TCP } from './ipv4.ts';

/** `add` took the fragment; the datagram is not complete (or the fragment was a duplicate). */
export const REASSEMBLY_HELD = -1;
/** `add` completed a datagram: read it at `off`, then `release`. */
export const REASSEMBLY_COMPLETE = -2;
/** One of the two above, or why the fragment was dropped. */
export type ReassemblyResult = Drop | typeof REASSEMBLY_HELD | typeof REASSEMBLY_COMPLETE;

/** Hears of datagrams that were not completed in time. */
export interface ReassemblySink {
  /**
   * The time of a datagram of `vmId` is up. If fragment 0 was here, [off, off+len) is that fragment's header (without options)
   * and payload, for ICMP time exceeded code 1; else `len` is 0 and nothing may be sent. Valid until the call returns.
   */
  onReassemblyTimeout(vmId: number, buf: Uint8Array, off: number, len: number, now: Millis): void;
}

export interface ReassemblyOptions {
  /** Default 30,000 ms after the first fragment. Deviation: RFC 1122 3.3.2 (SHOULD) says 60 to 120 s; 30 s as Linux (IP4-09). */
  readonly timeoutMs?: number;
  /** Packet memory in all, at least 64 KiB. Default 4 MiB. */
  readonly maxBytes?: number;
  /** Datagrams in all. Default 256. */
  readonly maxDatagrams?: number;
  /** Datagrams of one source address of one VM. Default 64. */
  readonly maxPerSource?: number;
  /** Fragments of one datagram. Default 128: 65,535 bytes at the smallest MTU, 576. */
  readonly maxFragments?: number;
}

const BUCKETS = 256;

class Datagram {
  vmId = 0;
  src = 0;
  dst = 0;
  protocol = 0;
  id = 0;
  bucket = 0;
  expiresAt: Millis = 0;
  /** Discarded: takes no more fragments, holds no memory. */
  dead = false;
  ttl = 0;
  off = -1;
  cap = 0;
  readonly set: FragmentSet;
  /** Chain of the bucket. */
  next: Datagram | undefined = undefined;
  /** By age, oldest first. */
  older: Datagram | undefined = undefined;
  newer: Datagram | undefined = undefined;

  constructor(maxFragments: number) {
    this.set = new FragmentSet(maxFragments);
  }
}

function bump(counts: Map<number, number>, key: number, by: number): void {
  const n = (counts.get(key) ?? 0) + by;
  if (n === 0) counts.delete(key);
  else counts.set(key, n);
}

/** Fragments of all VMs of one network. */
export class Ipv4Reassembler {
  /** Datagrams waiting, discarded ones included. */
  size = 0;
  /** Packet memory held, the completed datagram's included until `release`. */
  bytes = 0;
  fragments = 0;
  completed = 0;
  duplicates = 0;
  /** Datagrams discarded for overlapping or contradicting fragments. */
  conflicts = 0;
  timeouts = 0;
  /** Datagrams dropped because a limit was reached. */
  evicted = 0;
  /** After REASSEMBLY_COMPLETE: offset of the whole packet in the slab's memory (20-byte header without MF and offset). */
  off = -1;
  /** After REASSEMBLY_COMPLETE: length of the whole packet. */
  len = 0;

  readonly #slab: Slab;
  readonly #sink: ReassemblySink;
  readonly #timeoutMs: number;
  readonly #maxBytes: number;
  readonly #maxDatagrams: number;
  readonly #maxPerSource: number;
  readonly #maxFragments: number;
  readonly #seed: number;
  readonly #buckets: (Datagram | undefined)[] = new Array<Datagram | undefined>(BUCKETS).fill(undefined);
  readonly #bytesOfVm = new Map<number, number>();
  readonly #datagramsOfVm = new Map<number, number>();
  readonly #pool: Datagram[] = [];
  #oldest: Datagram | undefined = undefined;
  #newest: Datagram | undefined = undefined;
  #doneCap = 0;

  constructor(slab: Slab, random: Random, sink: ReassemblySink, options: ReassemblyOptions = {}) {
    this.#slab = slab;
    this.#sink = sink;
    this.#seed = random.i32();
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.#maxBytes = options.maxBytes ?? 4 * 1024 * 1024;
    this.#maxDatagrams = options.maxDatagrams ?? 256;
    this.#maxPerSource = options.maxPerSource ?? 64;
    this.#maxFragments = options.maxFragments ?? 128;
  }

  /** Takes a packet with `isFragment`; a completed datagram is valid until `release` or the next call. */
  add(ip: Ipv4View, vmId: number, now: Millis): ReassemblyResult {
    const start = ip.fragmentOffset;
    const length = ip.payloadLength;
    const end = start + length;
    const last = !ip.moreFragments;
    this.release();
    this.fragments++;
    if (length === 0 || (!last && (length & 7) !== 0) || end + IPV4_HEADER > IPV4_MAX) return Drop.FragMalformed;
    if (ip.protocol === PROTO_TCP && (start === 8 || (start === 0 && length < 20))) return Drop.FragMalformed;

    this.#expire(now);
    let d = this.#find(ip.src, ip.dst, ip.protocol, ip.id, vmId);
    if (d === undefined) {
      this.#makeRoomForOne(ip.src, vmId);
      d = this.#create(ip, vmId, now);
    } else if (d.dead) return Drop.FragOverlap;

    const answer = d.set.add(start, end, last);
    if (answer === FRAGMENT_DUPLICATE) {
      this.duplicates++;
      return REASSEMBLY_HELD;
    }
    if (answer !== FRAGMENT_NEW) {
      this.#kill(d);
      if (answer !== FRAGMENT_CONFLICT) {
        this.evicted++;
        return Drop.FragLimit;
      }
      this.conflicts++;
      return Drop.FragOverlap;
    }
    if (!this.#ensure(d, IPV4_HEADER + (last ? end : Math.max(end, d.set.total)), length)) {
      this.evicted++;
      this.#kill(d);
      return Drop.FragLimit;
    }
    // Copy: a fragment outlives its frame.
    copyBytes(ip.buf, ip.payloadOff, this.#slab.mem, d.off + IPV4_HEADER + start, length);
    if (start === 0) d.ttl = ip.ttl;
    if (!d.set.complete) return REASSEMBLY_HELD;

    this.len = IPV4_HEADER + d.set.total;
    emitIpv4Header(this.#slab.mem, d.off, this.len, d.id, 0, d.ttl, d.protocol, d.src, d.dst);
    this.off = d.off;
    this.#doneCap = d.cap;
    this.completed++;
    this.#account(d, -d.cap);
    this.bytes += d.cap;
    d.off = -1;
    d.cap = 0;
    this.#unlink(d);
    return REASSEMBLY_COMPLETE;
  }

  /** Gives back the memory of the completed datagram. Idempotent. */
  release(): void {
    if (this.off < 0) return;
    this.#slab.free(this.off);
    this.bytes -= this.#doneCap;
    this.off = -1;
    this.len = 0;
  }

  /** A VM is gone: forgets its fragments. */
  dropVm(vmId: number): void {
    for (let d = this.#oldest; d !== undefined; ) {
      const newer: Datagram | undefined = d.newer;
      if (d.vmId === vmId) this.#unlink(d);
      d = newer;
    }
  }

  nextDeadline(): Millis {
    return this.#oldest === undefined ? NEVER : this.#oldest.expiresAt;
  }

  /** Drops what is too old, telling the sink. */
  poll(now: Millis): void {
    this.#expire(now);
  }

  #expire(now: Millis): void {
    for (let d = this.#oldest; d !== undefined && d.expiresAt <= now; d = this.#oldest) {
      if (!d.dead) {
        this.timeouts++;
        let len = 0;
        if (d.set.hasFirst) {
          len = IPV4_HEADER + d.set.firstEnd;
          emitIpv4Header(this.#slab.mem, d.off, len, d.id, IPV4_MF, d.ttl, d.protocol, d.src, d.dst);
        }
        this.#sink.onReassemblyTimeout(d.vmId, this.#slab.mem, Math.max(0, d.off), len, now);
      }
      this.#unlink(d);
    }
  }

  #hash(src: number, dst: number, protocol: number, id: number, vmId: number): number {
    let h = Math.imul(src ^ this.#seed, 0x9e3779b1);
    h = Math.imul(h ^ (h >>> 15) ^ dst, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13) ^ ((protocol << 16) | id), 0xc2b2ae35);
    h = Math.imul(h ^ (h >>> 16) ^ vmId, 0x9e3779b1);
    return (h ^ (h >>> 15)) & (BUCKETS - 1);
  }

  #find(src: number, dst: number, protocol: number, id: number, vmId: number): Datagram | undefined {
    let d = this.#buckets[this.#hash(src, dst, protocol, id, vmId)];
    while (
      d !== undefined &&
      (d.id !== id || d.src !== src || d.dst !== dst || d.protocol !== protocol || d.vmId !== vmId)
    ) {
      d = d.next;
    }
    return d;
  }

  #create(ip: Ipv4View, vmId: number, now: Millis): Datagram {
    const d = this.#pool.pop() ?? new Datagram(this.#maxFragments);
    d.vmId = vmId;
    d.src = ip.src;
    d.dst = ip.dst;
    d.protocol = ip.protocol;
    d.id = ip.id;
    d.ttl = ip.ttl;
    d.dead = false;
    d.expiresAt = now + this.#timeoutMs;
    d.set.clear();
    d.bucket = this.#hash(d.src, d.dst, d.protocol, d.id, vmId);
    d.next = this.#buckets[d.bucket];
    this.#buckets[d.bucket] = d;
    d.older = this.#newest;
    d.newer = undefined;
    if (this.#newest === undefined) this.#oldest = d;
    else this.#newest.newer = d;
    this.#newest = d;
    this.size++;
    bump(this.#datagramsOfVm, vmId, 1);
    return d;
  }

  /** Takes a datagram out of every list and frees its memory. */
  #unlink(d: Datagram): void {
    this.#freeBlock(d);
    if (this.#buckets[d.bucket] === d) this.#buckets[d.bucket] = d.next;
    else {
      let p = this.#buckets[d.bucket];
      while (p !== undefined && p.next !== d) p = p.next;
      if (p !== undefined) p.next = d.next;
    }
    if (d.older === undefined) this.#oldest = d.newer;
    else d.older.newer = d.newer;
    if (d.newer === undefined) this.#newest = d.older;
    else d.newer.older = d.older;
    d.next = undefined;
    d.older = undefined;
    d.newer = undefined;
    this.size--;
    bump(this.#datagramsOfVm, d.vmId, -1);
    if (this.#pool.length < 16) this.#pool.push(d);
  }

  #kill(d: Datagram): void {
    this.#freeBlock(d);
    d.dead = true;
  }

  #freeBlock(d: Datagram): void {
    if (d.off < 0) return;
    this.#slab.free(d.off);
    this.#account(d, -d.cap);
    d.off = -1;
    d.cap = 0;
  }

  #account(d: Datagram, by: number): void {
    this.bytes += by;
    bump(this.#bytesOfVm, d.vmId, by);
  }

  /** Over a cap the oldest goes: of the same source first, then of all. */
  #makeRoomForOne(src: number, vmId: number): void {
    let ofSource = 0;
    let first: Datagram | undefined;
    for (let d = this.#oldest; d !== undefined; d = d.newer) {
      if (d.src !== src || d.vmId !== vmId) continue;
      ofSource++;
      first ??= d;
    }
    const victim =
      ofSource >= this.#maxPerSource ? first : this.size >= this.#maxDatagrams ? this.#crowding() : undefined;
    if (victim === undefined) return;
    this.evicted++;
    this.#unlink(victim);
  }

  /** The oldest datagram of the VM with the most datagrams, so that one VM's flood does not push out another's. */
  #crowding(): Datagram | undefined {
    let most = 0;
    for (const n of this.#datagramsOfVm.values()) if (n > most) most = n;
    let d = this.#oldest;
    while (d !== undefined && this.#datagramsOfVm.get(d.vmId) !== most) d = d.newer;
    return d;
  }

  /** Makes the block of `d` at least `need` bytes long; its ranges but the newest `fresh` bytes are moved along. */
  #ensure(d: Datagram, need: number, fresh: number): boolean {
    if (need <= d.cap) return true;
    const size = Slab.blockSize(need);
    while (this.bytes + size - d.cap > this.#maxBytes) {
      const victim = this.#fattest(d);
      if (victim === undefined) return false;
      this.evicted++;
      this.#unlink(victim);
    }
    const off = this.#slab.alloc(size);
    if (off < 0) return false;
    const old = d.off;
    // Copy: the block grows; at most five times for the largest datagram, once when the last fragment comes first.
    if (old >= 0 && d.set.bytes > fresh) {
      copyBytes(this.#slab.mem, old + IPV4_HEADER, this.#slab.mem, off + IPV4_HEADER, d.cap - IPV4_HEADER);
    }
    this.#freeBlock(d);
    d.off = off;
    d.cap = size;
    this.#account(d, size);
    return true;
  }

  /** The oldest datagram but `not` of the VM that holds the most bytes. */
  #fattest(not: Datagram): Datagram | undefined {
    let vm = -1;
    let most = 0;
    for (const [id, n] of this.#bytesOfVm) {
      // What `not` itself holds cannot be taken.
      const bytes = id === not.vmId ? n - not.cap : n;
      if (bytes > most) {
        most = bytes;
        vm = id;
      }
    }
    let d = this.#oldest;
    while (d !== undefined && (d === not || d.vmId !== vm || d.off < 0)) d = d.newer;
    return d;
  }
}
