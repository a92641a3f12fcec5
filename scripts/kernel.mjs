// `npm run kernel`: compiles the AssemblyScript kernel and writes it as bytes into src/base/packet-kernel-wasm.ts. With --check it only
// says whether that file is what the source gives.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const target = join(root, 'src/base/packet-kernel-wasm.ts');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-kernel-'));
const wasm = join(folder, 'kernel.wasm');
const flags =
  '--importMemory --initialMemory 1 --maximumMemory 16384 --runtime stub --enable simd -O3 --noAssert'.split(' ');
const source = 'src/base/kernel/packet.as.ts';
const asc = join(root, 'node_modules/assemblyscript/bin/asc.js');
const { status, stderr } = spawnSync(process.execPath, [asc, source, ...flags, '-o', wasm], {
  cwd: root,
  encoding: 'utf8',
});
if (status !== 0) {
  console.error(`kernel: ${source} does not compile\n${stderr}`);
  process.exit(1);
}
const bytes = [...readFileSync(wasm)];
rmSync(folder, { recursive: true });
const lines = [];
for (let i = 0; i < bytes.length; i += 32) lines.push(`  ${bytes.slice(i, i + 32).join(', ')},`);
const text = `// The packet kernel as WebAssembly. Made by scripts/kernel.mjs from kernel/packet.as.ts; do not edit.

/** A module that imports \`env.memory\` and exports what \`PacketKernel\` of packet-kernel.ts has. */
// biome-ignore format: bytes
export const PACKET_KERNEL: Uint8Array<ArrayBuffer> = Uint8Array.of(
${lines.join('\n')}
);
`;
if (!process.argv.includes('--check')) writeFileSync(target, text);
else if (readFileSync(target, 'utf8') !== text) {
  console.error('kernel: src/base/packet-kernel-wasm.ts is not what its source gives; run npm run kernel');
  process.exit(1);
}
