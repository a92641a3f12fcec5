// The package's own version, read from its package.json: one place to change it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The version of isthmus, e.g. `0.1.0`. */
export function readVersion(): string {
  // The manifest lies two folders above dist/daemon; one more when compiled with the tests beside it.
  for (const up of ['../../', '../../../']) {
    try {
      const manifest: unknown = JSON.parse(readFileSync(join(import.meta.dirname, up, 'package.json'), 'utf8'));
      if (typeof manifest !== 'object' || manifest === null || !('name' in manifest) || !('version' in manifest))
        continue;
      if (manifest.name === 'isthmus' && typeof manifest.version === 'string') return manifest.version;
    } catch {
      // Not here.
    }
  }
  return 'unknown';
}
