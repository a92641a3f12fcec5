// The packet kernel, in AssemblyScript: sums, copies and headers in place in the one packet memory, with SIMD.
// Built by scripts/kernel.mjs into ../packet-kernel-wasm.ts. What each function promises is said in ../packet-kernel.ts, whose
// `PlainKernel` is the twin and oracle. Sums inside are of native (little-endian) words, in 64 bits: adding 32-bit words is adding
// 16-bit words, as 2^16 is 1 modulo 65,535 (RFC 1071 2).

/** Folds to 16 bits. */
function fold(sum: u64): u32 {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  let s = <u32>((sum & 0xffff) + (sum >> 16));
  s = (s & 0xffff) + (s >> 16);
  return (s & 0xffff) + (s >> 16);
}

function lanes(a: v128): u64 {
  return (
    <u64>(<u32>i32x4.extract_lane(a, 0)) +
    <u64>(<u32>i32x4.extract_lane(a, 1)) +
    <u64>(<u32>i32x4.extract_lane(a, 2)) +
    <u64>(<u32>i32x4.extract_lane(a, 3))
  );
}

/** Words of [off, off + len); len is at most 512 KiB, or lanes overflow. */
function words(off: usize, len: usize): u64 {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  const end = off + len;
  const blocks = off + (len & ~31);
  while (off < blocks) {
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(off)));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(off, 16)));
    off += 32;
  }
  let sum = lanes(i32x4.add(a, b));
  while (off + 4 <= end) {
    sum += load<u32>(off);
    off += 4;
  }
  if (off + 2 <= end) {
    sum += load<u16>(off);
    off += 2;
  }
  return off < end ? sum + load<u8>(off) : sum;
}

/** The same while it copies them to `dst`. */
function copyWords(dst: usize, off: usize, len: usize): u64 {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  const end = off + len;
  const blocks = off + (len & ~31);
  while (off < blocks) {
    const x = v128.load(off);
    const y = v128.load(off, 16);
    v128.store(dst, x);
    v128.store(dst, y, 16);
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(x));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(y));
    off += 32;
    dst += 32;
  }
  let sum = lanes(i32x4.add(a, b));
  while (off + 4 <= end) {
    const x = load<u32>(off);
    store<u32>(dst, x);
    sum += x;
    off += 4;
    dst += 4;
  }
  if (off + 2 <= end) {
    const x = load<u16>(off);
    store<u16>(dst, x);
    sum += x;
    off += 2;
    dst += 2;
  }
  if (off < end) {
    const x = load<u8>(off);
    store<u8>(dst, x);
    sum += x;
  }
  return sum;
}

export function sum(off: usize, len: usize): u32 {
  return bswap<u16>(<u16>fold(words(off, len)));
}

export function copySum(dst: usize, off: usize, len: usize): u32 {
  return bswap<u16>(<u16>fold(copyWords(dst, off, len)));
}

export function segmentize(
  frame: usize,
  stride: usize,
  count: u32,
  headerLen: usize,
  tcpAt: usize,
  mss: usize,
  ring: usize,
  ringCap: usize,
  ringAt: usize,
  partial: u32,
  lastFlags: u32,
): void {
  let seq = bswap<u32>(load<u32>(frame + tcpAt + 4));
  // The header without sequence number and checksum, in native order.
  const rest = <u64>bswap<u16>(<u16>partial);
  const flags = <u32>load<u8>(frame + tcpAt + 13);
  let at = frame;
  for (let i: u32 = 0; i < count; i++) {
    // Up to 15 bytes more than the header: payload is written over them.
    if (i > 0) for (let n: usize = 0; n < headerLen; n += 16) v128.store(at + n, v128.load(frame + n));
    const tcp = at + tcpAt;
    let sum = rest;
    if (i + 1 === count && lastFlags !== flags) {
      store<u8>(tcp, lastFlags, 13);
      // The flags are the second byte of their word: the high one in native order.
      sum += ((<u64>lastFlags) << 8) + <u64>(~(flags << 8) & 0xffff);
    }
    const s = bswap<u32>(seq);
    store<u32>(tcp, s, 4);
    sum += s;
    const to = at + headerLen;
    if (ringAt + mss <= ringCap) sum += copyWords(to, ring + ringAt, mss);
    else {
      const first = ringCap - ringAt;
      memory.copy(to, ring + ringAt, first);
      memory.copy(to + first, ring, mss - first);
      sum += words(to, mss);
    }
    store<u16>(tcp, ~fold(sum), 16);
    ringAt += mss;
    if (ringAt >= ringCap) ringAt -= ringCap;
    seq += <u32>mss;
    at += stride;
  }
}

export function receiveRun(
  at: usize,
  end: usize,
  prefix: u32,
  model: usize,
  headerLen: usize,
  seq: u32,
  tsRecent: u32,
  dst: usize,
  room: usize,
  maxFrames: u32,
): u32 {
  const start = at;
  const to = dst;
  const timestamps = headerLen > 54;
  const eth0 = load<u64>(model);
  const eth1 = load<u32>(model, 8);
  const eth2 = load<u32>(model, 12);
  const addresses = load<u64>(model, 26);
  const ports = load<u32>(model, 34);
  const ack = load<u32>(model, 42);
  const offset = load<u8>(model, 46);
  const window = load<u16>(model, 48);
  // Pseudo-header without the length: addresses, and protocol 6 as the second byte of its word.
  const pseudo = (addresses & 0xffffffff) + (addresses >> 32) + 0x0600;
  let frames: u32 = 0;
  let longest: u32 = 0;
  let last: u32 = 0;
  while (frames < maxFrames) {
    if (end - at < <usize>prefix) break;
    const len = prefix === 4 ? bswap<u32>(load<u32>(at)) : <u32>load<u16>(at);
    const f = at + <usize>prefix;
    if (len <= <u32>headerLen || len > 0xffff || end - f < <usize>len) break;
    const payload = <usize>len - headerLen;
    if (payload > room) break;
    if (load<u64>(f) !== eth0 || load<u32>(f, 8) !== eth1 || load<u32>(f, 12) !== eth2) break;
    // Total length; no fragment; protocol.
    if (<u32>bswap<u16>(load<u16>(f, 16)) !== len - 14) break;
    if ((<u32>load<u16>(f, 20) & 0xff3f) !== 0 || load<u8>(f, 23) !== 6) break;
    if (load<u64>(f, 26) !== addresses) break;
    const ip =
      <u64>load<u32>(f, 14) +
      <u64>load<u32>(f, 18) +
      <u64>load<u32>(f, 22) +
      <u64>load<u32>(f, 26) +
      <u64>load<u32>(f, 30);
    if (fold(ip) !== 0xffff) break;
    const s = load<u32>(f, 38);
    if (load<u32>(f, 34) !== ports || bswap<u32>(s) !== seq || load<u32>(f, 42) !== ack) break;
    const flags = load<u8>(f, 47);
    if (load<u8>(f, 46) !== offset || (flags & 0xf7) !== 0x10 || load<u16>(f, 48) !== window) break;
    let sum = pseudo + <u64>bswap<u16>(<u16>(len - 34));
    sum += <u64>ports + <u64>s + <u64>ack + <u64>load<u32>(f, 46) + <u64>load<u32>(f, 50);
    if (timestamps) {
      const kind = load<u32>(f, 54);
      const tsVal = load<u32>(f, 58);
      if (kind !== 0x0a080101 || <i32>(bswap<u32>(tsVal) - tsRecent) < 0) break;
      sum += <u64>kind + <u64>tsVal + <u64>load<u32>(f, 62);
    }
    sum += copyWords(dst, f + headerLen, payload);
    if (fold(sum) !== 0xffff) break;
    frames++;
    seq += <u32>payload;
    dst += payload;
    room -= payload;
    at = f + <usize>len;
    last = <u32>payload;
    if (len > longest) longest = len;
  }
  if (frames > 0) {
    store<u32>(start, bswap<u32>(<u32>(at - start)));
    store<u32>(start, bswap<u32>(<u32>(dst - to)), 4);
    store<u32>(start, bswap<u32>(longest), 8);
    store<u32>(start, bswap<u32>(last), 12);
  }
  return frames;
}

export function skipAcks(
  at: usize,
  end: usize,
  prefix: u32,
  model: usize,
  headerLen: usize,
  seq: u32,
  ack: u32,
  sndNxt: u32,
  tsRecent: u32,
): u32 {
  const start = at;
  const timestamps = headerLen > 54;
  const eth0 = load<u64>(model);
  const eth1 = load<u32>(model, 8);
  const eth2 = load<u32>(model, 12);
  const addresses = load<u64>(model, 26);
  const ports = load<u32>(model, 34);
  const size = <usize>prefix + headerLen;
  const tcpLen = <u32>headerLen - 34;
  const fixed = (addresses & 0xffffffff) + (addresses >> 32) + 0x0600 + <u64>bswap<u16>(<u16>tcpLen) + <u64>ports;
  // The last one is left: it says all that those before it said.
  let last = at;
  while (end - at >= size) {
    const len = prefix === 4 ? bswap<u32>(load<u32>(at)) : <u32>load<u16>(at);
    const f = at + <usize>prefix;
    if (len !== <u32>headerLen) break;
    if (load<u64>(f) !== eth0 || load<u32>(f, 8) !== eth1 || load<u32>(f, 12) !== eth2) break;
    if (<u32>bswap<u16>(load<u16>(f, 16)) !== len - 14) break;
    if ((<u32>load<u16>(f, 20) & 0xff3f) !== 0 || load<u8>(f, 23) !== 6) break;
    if (load<u64>(f, 26) !== addresses) break;
    const ip =
      <u64>load<u32>(f, 14) +
      <u64>load<u32>(f, 18) +
      <u64>load<u32>(f, 22) +
      <u64>load<u32>(f, 26) +
      <u64>load<u32>(f, 30);
    if (fold(ip) !== 0xffff) break;
    const s = load<u32>(f, 38);
    const a = load<u32>(f, 42);
    const next = bswap<u32>(a);
    if (load<u32>(f, 34) !== ports || bswap<u32>(s) !== seq || <i32>(next - ack) <= 0 || <i32>(next - sndNxt) > 0)
      break;
    if (load<u8>(f, 46) !== load<u8>(model, 46) || load<u8>(f, 47) !== 0x10) break;
    let sum = fixed + <u64>s + <u64>a + <u64>load<u32>(f, 46) + <u64>load<u32>(f, 50);
    if (timestamps) {
      const kind = load<u32>(f, 54);
      const tsVal = load<u32>(f, 58);
      if (kind !== 0x0a080101 || <i32>(bswap<u32>(tsVal) - tsRecent) < 0) break;
      sum += <u64>kind + <u64>tsVal + <u64>load<u32>(f, 62);
    }
    if (fold(sum) !== 0xffff) break;
    ack = next;
    last = at;
    at += size;
  }
  return <u32>(last - start);
}
