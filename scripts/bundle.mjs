// `npm run bundle [-- FOLDER]`: from src/ to what runs in dist/ (or FOLDER). The library entry is one ES module with its packages outside. The command is CommonJS,
// which starts sooner: a launcher, one program with everything that a start needs, and one file for each package that is loaded
// after readiness. Why so: docs/adr/0016-start.md.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = resolve(root, process.argv[2] ?? 'dist');
const daemon = join(dist, 'daemon');
/** Packages that are needed before the VM's socket listens; they are part of the program. */
const EARLY = new Set(['valibot']);
const CACHE_LIMIT_MS = 10_000;

const common = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20',
  sourcemap: true,
  logLevel: 'warning',
};
const commonjs = {
  ...common,
  format: 'cjs',
  define: { 'import.meta.dirname': '__dirname' },
  // `import()` becomes `require`: the ES module loader takes 10 ms, and is not there in a script with a code cache.
  supported: { 'dynamic-import': false },
  legalComments: 'none',
  metafile: true,
};

/** `@hono/node-server` is in packages/hono-node-server.js, `hono/body-limit` in packages/hono-body-limit.js. */
function fileOf(specifier) {
  return `./packages/${specifier.replace('@', '').replaceAll('/', '-')}.js`;
}

/** Native parts of packages stay out: they are for one machine, and packages that have them do without. */
const nativeParts = {
  name: 'native-parts',
  setup(esbuild) {
    esbuild.onResolve({ filter: /\.node$/ }, ({ path }) => ({ path, namespace: 'native' }));
    esbuild.onLoad({ filter: /./, namespace: 'native' }, ({ path }) => ({
      contents: `throw new Error(${JSON.stringify(`${path} is not in the package`)});`,
    }));
  },
};

/** Turns imports of packages into `require` of their own files, and collects them. */
function packagesApart(found) {
  return {
    name: 'packages-apart',
    setup(esbuild) {
      esbuild.onResolve({ filter: /^[@a-z]/ }, ({ path, kind }) => {
        if (kind === 'entry-point' || path.startsWith('node:') || EARLY.has(path)) return undefined;
        found.add(path);
        return { path: fileOf(path), external: true };
      });
    },
  };
}

/** A module by its path from the root, as esbuild's metafile names it. */
function moduleOf({ path, resolveDir }) {
  return path.startsWith('.') ? relative(root, join(resolveDir, path)) : undefined;
}

/** Turns `import()` of our own modules into what late.js has, and collects them. */
function lateApart(found) {
  return {
    name: 'late-apart',
    setup(esbuild) {
      esbuild.onResolve({ filter: /^\./ }, (args) => {
        if (args.kind !== 'dynamic-import') return undefined;
        found.add(moduleOf(args));
        return { path: moduleOf(args), namespace: 'late' };
      });
      esbuild.onLoad({ filter: /./, namespace: 'late' }, ({ path }) => ({
        contents: `module.exports = require('./late.js')[${JSON.stringify(path)}]();`,
      }));
      esbuild.onResolve({ filter: /./, namespace: 'late' }, ({ path }) => ({ path, external: true }));
    },
  };
}

/** Modules that program.js has too are taken from there: there must be one of each. */
function sharedModules(early) {
  return {
    name: 'shared-modules',
    setup(esbuild) {
      esbuild.onResolve({ filter: /^\./ }, (args) =>
        early.has(moduleOf(args)) ? { path: moduleOf(args), namespace: 'shared' } : undefined,
      );
      esbuild.onLoad({ filter: /./, namespace: 'shared' }, ({ path }) => ({
        contents: `module.exports = require('./program.js').shared[${JSON.stringify(path)}];`,
      }));
      esbuild.onResolve({ filter: /./, namespace: 'shared' }, ({ path }) => ({ path, external: true }));
    },
  };
}

const ownModules = (metafile) => Object.keys(metafile.inputs).filter((path) => path.startsWith('src/'));
const entry = (sourcefile, contents) => ({ stdin: { contents, resolveDir: root, sourcefile, loader: 'js' } });
const quoted = JSON.stringify;

/** The first line of the program, 64 bytes with its end: code-cache.ts tells programs apart by it. */
function programId(hash) {
  return `// program ${hash.slice(0, 52).padEnd(52, '0')}`;
}

/** The licence of every package whose code is in dist/daemon, as each asks for. */
function licences(metafiles) {
  const folders = new Set();
  for (const { inputs } of metafiles) {
    for (const input of Object.keys(inputs)) {
      const [folder] = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input) ?? [];
      if (folder !== undefined) folders.add(folder);
    }
  }
  const parts = [...folders].sort().map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'));
    const file = readdirSync(join(root, folder)).find((entry) => /^(licen[sc]e|copying)/i.test(entry));
    const text = file === undefined ? `Licence: ${license}` : readFileSync(join(root, folder, file), 'utf8').trim();
    return `${name} ${version}\n\n${text}\n`;
  });
  return `The files in this folder contain code of these packages.\n\n${parts.join(`\n${'-'.repeat(80)}\n\n`)}`;
}

/** Starts the daemon once, so that the code cache for this Node.js is there. Whoever cannot have it starts without. */
async function makeCodeCache() {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-bundle-'));
  const args = ['run', '--vm', `qemu:${join(folder, 'vm.sock')}`, '--state-dir', 'none', '--log-level', 'silent'];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(ISTHMUS|NODE|NOTIFY)_/.test(name)));
  const child = spawn(process.execPath, [join(daemon, 'main.js'), ...args], { stdio: 'ignore', env });
  const ended = new Promise((resolve) => {
    child.once('exit', resolve).once('error', resolve);
  });
  const there = () => readdirSync(daemon).filter((name) => name.endsWith('.cache')).length === 2;
  const limit = performance.now() + CACHE_LIMIT_MS;
  while (!there() && child.exitCode === null && performance.now() < limit) {
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  child.kill();
  await ended;
  rmSync(folder, { recursive: true, force: true });
  if (!there()) console.error('bundle: no code cache could be made here; the first start makes one');
}

await build({
  ...common,
  // The thread of PAC files is a program of its own.
  entryPoints: ['src/index.ts', 'src/proxy/pac-worker.ts'],
  format: 'esm',
  splitting: true,
  packages: 'external',
  outbase: 'src',
  outdir: dist,
});
// The program twice: what it needs early is known only after the first time, and so is which of that late.js needs.
const packages = new Set();
const lateModules = new Set();
const plugins = [packagesApart(packages), lateApart(lateModules)];
const start = `export { startProgram } from './src/daemon/program.ts';`;
const first = await build({ ...commonjs, ...entry('program.mjs', start), write: false, outdir: daemon, plugins });
const early = new Set(ownModules(first.metafile));
const lateEntry = `module.exports = {${[...lateModules].map((path) => `${quoted(path)}: () => require(${quoted(`./${path}`)})`)}};`;
const late = await build({
  ...commonjs,
  ...entry('late.cjs', lateEntry),
  outfile: join(daemon, 'late.js'),
  banner: { js: programId('') },
  plugins: [sharedModules(early), packagesApart(packages)],
});
const shared = Object.keys(late.metafile.inputs).flatMap((path) => (path.startsWith('shared:') ? [path.slice(7)] : []));
const program = await build({
  ...commonjs,
  ...entry(
    'program.mjs',
    [
      start,
      ...shared.map((path, i) => `import * as shared${i} from ${quoted(`./${path}`)};`),
      `export const shared = {${shared.map((path, i) => `${quoted(path)}: shared${i}`)}};`,
    ].join('\n'),
  ),
  outfile: join(daemon, 'program.js'),
  banner: { js: programId('') },
  plugins,
});
for (const name of ['program.js', 'late.js']) {
  const file = join(daemon, name);
  const text = readFileSync(file, 'utf8');
  const hash = createHash('sha256').update(text).digest('hex');
  writeFileSync(file, programId(hash) + text.slice(programId('').length));
}
await build({ ...commonjs, entryPoints: { main: 'src/daemon/launcher.ts' }, outdir: daemon });
const bundled = await build({
  ...commonjs,
  entryPoints: Object.fromEntries([...packages].map((name) => [fileOf(name).replace(/^\.\/|\.js$/g, ''), name])),
  outdir: daemon,
  sourcemap: false,
  plugins: [nativeParts],
});
const pacWorker = await build({
  ...commonjs,
  entryPoints: ['src/proxy/pac-worker.ts'],
  outdir: daemon,
  sourcemap: false,
});
copyFileSync(join(root, 'node_modules/quickjs-wasi/quickjs.wasm'), join(daemon, 'quickjs.wasm'));
writeFileSync(join(daemon, 'package.json'), '{ "type": "commonjs" }\n');
writeFileSync(
  join(daemon, 'THIRD-PARTY-LICENCES.txt'),
  licences([program, late, bundled, pacWorker].map(({ metafile }) => metafile)),
);
for (const name of readdirSync(daemon)) if (name.endsWith('.cache')) rmSync(join(daemon, name));
await makeCodeCache();
