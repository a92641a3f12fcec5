// The checksum kernel, in AssemblyScript: sums in place in the one packet memory, 32 bytes a step.
// Built by scripts/kernel.mjs into ../checksum-kernel.ts; its plain twin and oracle is `Checksummer` in ../checksum.ts.

/** One's-complement sum of the native 16-bit words of [off, off + len); `len` is a multiple of 32, at most 512 KiB. */
export function sumBlocks(off: usize, len: usize): f64 {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  const end = off + len;
  while (off < end) {
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(off)));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(off, 16)));
    off += 32;
  }
  a = i32x4.add(a, b);
  return <f64>(
    (<u64>(<u32>i32x4.extract_lane(a, 0)) +
      <u64>(<u32>i32x4.extract_lane(a, 1)) +
      <u64>(<u32>i32x4.extract_lane(a, 2)) +
      <u64>(<u32>i32x4.extract_lane(a, 3)))
  );
}
