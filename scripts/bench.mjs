// `npm run bench [-- AREA…]`: compiles, then runs the benchmarks one process each, all or those whose path holds an AREA.

import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { compile, installPackages, root } from './bootstrap.mjs';

const wanted = process.argv.slice(2);
await installPackages();
await compile('tsconfig.test.json', { checked: true });
const files = readdirSync(join(root, 'bench'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.bench.ts'))
  .filter((name) => wanted.length === 0 || wanted.some((w) => name.includes(w)))
  .sort();
if (files.length === 0) {
  console.error(`bench: nothing matches ${wanted.join(' ')}`);
  process.exit(64);
}
for (const file of files) {
  const compiled = join(root, '.build/bench', file.replace(/\.ts$/, '.js'));
  const { status } = spawnSync(process.execPath, ['--expose-gc', compiled], { stdio: 'inherit' });
  if (status !== 0) process.exit(1);
}
