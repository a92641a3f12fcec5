// The code cache: it is used when it is the program's and private, and only then; whatever is wrong with it, the program runs.

import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import t, { type Test } from 'tap';
import { ProgramLoader } from '../../src/daemon/code-cache.ts';

// What this process has compiled once it would not compile again, whatever the file says.
setFlagsFromString('--no-compilation-cache');

const FILES = ['./program.js', './late.js'];

function text(id: string, body: string): string {
  return `// program ${id.padEnd(52, '0')}\n"use strict";\n${body}`;
}

interface Rig {
  readonly folder: string;
  readonly user: string;
  /** Loads both files. @returns what came from the cache, after what was missing has been saved. */
  start(env?: NodeJS.ProcessEnv, execArgv?: string[]): { fromCache: string[]; answer: unknown };
}

function rig(t: Test): Rig {
  const root = t.testdir({
    program: {
      'package.json': '{ "type": "commonjs" }',
      'program.js': text('a', 'exports.add = (a, b) => a + b; exports.late = () => require("./late.js").sum();'),
      'late.js': text('b', 'exports.sum = () => require("./program.js").add(40, 2);'),
    },
    user: {},
  });
  const folder = join(root, 'program');
  const user = join(root, 'user');
  chmodSync(folder, 0o755);
  const start: Rig['start'] = (env = {}, execArgv = []) => {
    const require = createRequire(join(folder, 'main.js'));
    const host = { env: { XDG_CACHE_HOME: user, ...env }, execArgv, sourceMapsEnabled: false };
    const loader = new ProgramLoader(folder, FILES, require, host);
    const program = loader.load('./program.js') as { late(): number };
    const answer = program.late();
    loader.saveCaches();
    return { fromCache: loader.fromCache, answer };
  };
  return { folder, user, start };
}

function caches(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.includes('.cache')) : [];
}

function cacheOf(folder: string): string {
  return join(folder, caches(folder).find((name) => name.startsWith('program-'))!);
}

t.test('the first start makes it, the second uses it, and the files share one module each', (t) => {
  const { folder, user, start } = rig(t);
  t.strictSame(start(), { fromCache: [], answer: 42 });
  const made = caches(folder);
  t.equal(made.length, 2);
  for (const name of made) {
    t.ok(name.includes(process.version) && name.includes(process.arch), name);
    t.equal(statSync(join(folder, name)).mode & 0o022, 0, 'nobody else may write it');
  }
  t.strictSame(caches(join(user, 'isthmus')), [], 'one place is enough');
  t.strictSame(start(), { fromCache: FILES, answer: 42 });
  t.end();
});

t.test('a program of the same size but with another identity compiles, and replaces it', (t) => {
  const { folder, start } = rig(t);
  start();
  const file = join(folder, 'program.js');
  writeFileSync(file, readFileSync(file, 'latin1').replace('program a', 'program c').replace('a + b', 'a - b'));
  t.strictSame(start(), { fromCache: ['./late.js'], answer: 38 });
  t.strictSame(start(), { fromCache: FILES, answer: 38 });
  t.end();
});

t.test('rubbish, half a file and an empty one are passed over and replaced', (t) => {
  const { folder, start } = rig(t);
  start();
  const whole = readFileSync(cacheOf(folder));
  const wrongs = [
    Buffer.alloc(0),
    whole.subarray(0, 64),
    whole.subarray(0, whole.length / 2),
    Buffer.from('x'.repeat(999)),
  ];
  for (const wrong of [...wrongs, Buffer.concat([whole.subarray(0, 64), Buffer.alloc(4096, 0xa5)])]) {
    writeFileSync(cacheOf(folder), wrong);
    t.strictSame(start(), { fromCache: ['./late.js'], answer: 42 }, `${wrong.length} bytes`);
    t.strictSame(start(), { fromCache: FILES, answer: 42 }, 'replaced');
  }
  t.end();
});

t.test('one that somebody else could have written is not run', (t) => {
  const { folder, start } = rig(t);
  start();
  chmodSync(cacheOf(folder), 0o664);
  t.strictSame(start().fromCache, ['./late.js'], 'group-writable');
  t.equal(statSync(cacheOf(folder)).mode & 0o022, 0, 'replaced');
  chmodSync(folder, 0o777);
  t.strictSame(start({ XDG_CACHE_HOME: '/dev/null' }).fromCache, [], 'a folder that others may write to');
  t.end();
});

t.test('a symbolic link is not followed', (t) => {
  const { folder, start } = rig(t);
  start();
  const name = cacheOf(folder);
  const target = join(dirname(folder), 'elsewhere');
  writeFileSync(target, readFileSync(name));
  symlinkSync(target, `${name}.new`);
  t.strictSame(start().fromCache, FILES, 'before');
  renameSync(`${name}.new`, name);
  t.strictSame(start().fromCache, ['./late.js']);
  t.end();
});

t.test('without a place of the program, the user has one', (t) => {
  const { folder, user, start } = rig(t);
  chmodSync(folder, 0o777);
  t.strictSame(start().fromCache, []);
  t.strictSame(caches(folder), [], 'nothing is written where others may write');
  const own = join(user, 'isthmus');
  t.equal(caches(own).length, 2);
  t.equal(statSync(own).mode & 0o777, 0o700);
  t.strictSame(start().fromCache, FILES);
  chmodSync(own, 0o770);
  t.strictSame(start().fromCache, [], 'nor is anything read where others may write');
  t.end();
});

t.test('no place at all is no error', (t) => {
  const { folder, start } = rig(t);
  chmodSync(folder, 0o777);
  for (const env of [{ XDG_CACHE_HOME: '/dev/null' }, { XDG_CACHE_HOME: 'relative', HOME: undefined }]) {
    t.strictSame(start(env), { fromCache: [], answer: 42 });
  }
  t.end();
});

t.test('NODE_DISABLE_COMPILE_CACHE: none is used and none is made', (t) => {
  const { folder, start } = rig(t);
  const off = { NODE_DISABLE_COMPILE_CACHE: '1' };
  t.strictSame(start(off), { fromCache: [], answer: 42 });
  t.strictSame(caches(folder), []);
  start();
  t.strictSame(start(off), { fromCache: [], answer: 42 });
  t.end();
});

t.test("a start with options of node's own makes none: its bytecode would fit no other", (t) => {
  const { folder, start } = rig(t);
  start({}, ['--cpu-prof']);
  start({ NODE_OPTIONS: '--no-opt' });
  t.strictSame(caches(folder), []);
  t.end();
});
