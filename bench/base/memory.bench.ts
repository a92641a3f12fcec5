// What the packet path pays for bytes: checksums, copies, and blocks of the slab.
//
//   npm run bench -- base

import { Checksummer, fold, sumBytes } from '../../src/base/checksum.ts';
import { Slab } from '../../src/base/slab.ts';
import { runSuite } from '../suite.ts';

const mem = new Uint8Array(1 << 20);
for (let i = 0; i < mem.length; i++) mem[i] = i * 31;
const summer = new Checksummer(mem);
const slab = new Slab(new Uint8Array(64 << 20));

const same = (off: number, len: number) => (): string | undefined =>
  fold(summer.sum(off, len)) === fold(sumBytes(mem, off, len)) ? undefined : 'the two sums differ';

runSuite('base', [
  { name: 'checksum 1,460 B, aligned', perRun: 1, check: same(64, 1460), run: () => summer.sum(64, 1460) },
  { name: 'checksum 1,460 B, odd offset', perRun: 1, check: same(65, 1460), run: () => summer.sum(65, 1460) },
  { name: 'checksum 65,480 B, offset 2 mod 4', perRun: 1, check: same(66, 65_480), run: () => summer.sum(66, 65_480) },
  { name: 'checksum 20 B (byte pairs)', perRun: 1, check: same(14, 20), run: () => summer.sum(14, 20) },
  {
    name: 'copy 1,460 B inside the memory',
    perRun: 1,
    check: () => undefined,
    run: () => mem.copyWithin(4096, 66, 66 + 1460).length,
  },
  {
    name: 'slab: take and give back 4 KiB',
    perRun: 1,
    check: () => {
      const off = slab.alloc(4096);
      slab.free(off);
      return slab.usedBytes === 0 && off === 0 ? undefined : 'not the lowest block, or not given back';
    },
    run: () => {
      const off = slab.alloc(4096);
      slab.free(off);
      return off;
    },
  },
]);
