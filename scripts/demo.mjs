// `npm run demo`: from a fresh clone to the running demo. Installs and compiles what is missing, then hands over to demo/main.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { compile, installPackages, installPrograms, root } from './bootstrap.mjs';

const PROGRAMS = { 'qemu-system-x86_64': 'qemu-system-x86', curl: 'curl' };

try {
  const [missing] = await Promise.all([
    process.argv.includes('embedded') ? [] : installPrograms(PROGRAMS),
    installPackages(),
  ]);
  for (const reason of missing) console.log(`..    ${reason}`);
  compile('scripts/tsconfig.json', { checked: false });
} catch (error) {
  console.error(`demo: ${error.message}`);
  process.exit(1);
}

const child = spawn(process.execPath, [join(root, '.build/scripts/demo/main.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
});
// The terminal's Ctrl-C reaches the child by itself; it cleans up and we end with it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (signal !== 'SIGINT') child.kill(signal);
  });
}
child.on('exit', (code) => {
  process.exitCode = code ?? 1;
});
