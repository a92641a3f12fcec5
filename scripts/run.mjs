// `node scripts/run.mjs NAME [ARGUMENT…]`: compiles what changed and runs `scripts/NAME.ts`.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { compile, installPackages, root } from './bootstrap.mjs';

const [name, ...rest] = process.argv.slice(2);
try {
  if (name === undefined || !/^[a-z-]+$/.test(name)) throw new Error('give the name of a script, e.g. `mutants`');
  await installPackages();
  compile('tsconfig.test.json', { checked: false });
  const script = join(root, `.build/scripts/${name}.js`);
  const { status } = spawnSync(process.execPath, ['--enable-source-maps', script, ...rest], { stdio: 'inherit' });
  process.exitCode = status ?? 1;
} catch (error) {
  console.error(`run: ${error.message}`);
  process.exitCode = 1;
}
