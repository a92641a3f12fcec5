// The package as it is built: the command runs from its own files, far from any node_modules, with everything that is loaded late; and
// its code cache is made and used. (All other tests run the modules that it is made from.)

import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import { projectRoot } from '../../scripts/project.ts';

const folder = mkdtempSync(join(tmpdir(), 'isthmus-bundle-'));
const dist = join(folder, 'dist');
const main = join(dist, 'daemon/main.js');
const env = { PATH: process.env.PATH ?? '', HOME: folder };
/** For env(1): the test runner's own hooks would make every start one with options of node's own. */
const NODE = [...WITHOUT_HOOKS, process.execPath];
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

const bundle = join(projectRoot, 'scripts/bundle.mjs');
const made = spawnSync('env', [...NODE, bundle, dist], { env, encoding: 'utf8' });
copyFileSync(join(projectRoot, 'package.json'), join(folder, 'package.json'));

function isthmus(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync('env', [...NODE, main, ...args], { env, encoding: 'utf8', cwd: '/' });
}

function caches(): string[] {
  return readdirSync(join(dist, 'daemon')).filter((name) => name.endsWith('.cache'));
}

interface Running {
  readonly ready: { readonly version: string };
  readonly log: () => string;
  get(path: string): Promise<string>;
  stop(): Promise<number | null>;
}

async function run(t: Test, options: readonly string[] = [], more: Record<string, string> = {}): Promise<Running> {
  const control = join(folder, 'control.sock');
  const args = [
    ...options,
    main,
    'run',
    '--vm',
    `qemu:${join(folder, 'vm.sock')}`,
    '--control',
    control,
    '--state-dir',
    'none',
  ];
  const child = spawn('env', [...NODE, ...args], { env: { ...env, ...more }, cwd: '/' });
  t.teardown(() => child.kill('SIGKILL'));
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  const line = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', resolve);
    void ended.then((code) => reject(new Error(`ended with ${code}: ${log}`)));
  });
  const get = (path: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const asked = request({ socketPath: control, path, agent: false }, (response) => {
        let body = '';
        response.on('data', (chunk: Buffer) => {
          body += chunk.toString();
        });
        response.on('end', () => resolve(body));
      });
      asked.on('error', reject).end();
    });
  const stop = (): Promise<number | null> => {
    child.kill();
    return ended;
  };
  return { ready: JSON.parse(line) as Running['ready'], log: () => log, get, stop };
}

t.test('it is made without a word, and executable', (t) => {
  t.equal(made.status, 0);
  t.equal(made.stdout + made.stderr, '');
  t.ok(statSync(main).mode & 0o100, 'main.js may be executed');
  t.match(readFileSync(main, 'utf8'), /^#!\/usr\/bin\/env node\n/);
  t.equal(caches().length, 2, 'with a code cache for this Node.js');
  t.end();
});

t.test('nothing of it asks for a package, and every package in it has its licence there', (t) => {
  const daemon = join(dist, 'daemon');
  const files = readdirSync(daemon, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.js'));
  t.ok(files.length > 6, files.join(' '));
  const asked = files.flatMap((name) =>
    [...readFileSync(join(daemon, name), 'utf8').matchAll(/\brequire\("([^"]+)"\)/g)].map(([, what]) => what!),
  );
  t.strictSame(
    asked.filter((what) => !what.startsWith('./') && !isBuiltin(what)),
    [],
  );
  const licences = readFileSync(join(daemon, 'THIRD-PARTY-LICENCES.txt'), 'utf8');
  const { dependencies } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  for (const [name, version] of Object.entries(dependencies)) t.ok(licences.includes(`${name} ${version}\n`), name);
  t.end();
});

t.test('version, help, mistakes and --print-config answer as they do elsewhere', (t) => {
  const { version } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as { version: string };
  t.equal(isthmus('version').stdout, `isthmus ${version}\n`);
  t.match(isthmus('run', '--help').stdout, /--vm URL/);
  const wrong = isthmus('run', '--vm', 'qmu:/tmp/x.sock');
  t.equal(wrong.status, 64);
  t.match(wrong.stderr, /^isthmus: vm \(--vm\): .*did you mean qemu\?.*\n$/);
  writeFileSync(join(folder, 'config.yaml'), 'log-level: warn\n');
  const printed = isthmus('run', '--config', join(folder, 'config.yaml'), '--print-config');
  t.equal(printed.status, 0, printed.stderr);
  t.match(printed.stdout, /^log-level: warn/m, 'yaml is there');
  t.end();
});

for (const [what, options, more] of [
  ['with the code cache', [], {}],
  ['without it', [], { NODE_DISABLE_COMPILE_CACHE: '1' }],
  ['with source maps', ['--enable-source-maps'], {}],
] as const) {
  t.test(`run ${what}: ready, logs by pino, control and metrics, and ends`, async (t) => {
    const daemon = await run(t, options, more);
    t.match(await daemon.get('/healthz'), /"status":"ok"/);
    t.match(await daemon.get('/metrics'), /^isthmus_build_info\{.*\} 1$/m);
    t.equal(await daemon.stop(), 0);
    const events = daemon
      .log()
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { event: string }).event);
    t.ok(events.includes('daemon.ready') && events.at(-1) === 'daemon.stopped', events.join(' '));
  });
}

t.test('a code cache that is damaged is replaced, and the daemon runs', async (t) => {
  for (const name of caches()) {
    const file = join(dist, 'daemon', name);
    const whole = readFileSync(file);
    writeFileSync(file, Buffer.concat([whole.subarray(0, 5000), Buffer.alloc(whole.length - 5000, 0x5a)]));
  }
  const before = caches().map((name) => statSync(join(dist, 'daemon', name)).ino);
  const daemon = await run(t);
  const replaced = (): boolean => caches().every((name, i) => statSync(join(dist, 'daemon', name)).ino !== before[i]);
  while (!replaced()) await new Promise((resolve) => setTimeout(resolve, 20));
  t.match(await daemon.get('/healthz'), /"status":"ok"/);
  t.equal(await daemon.stop(), 0);
});

t.test(
  'the thread of PAC files and its WebAssembly are there: QuickJS itself says what is wrong with one',
  async (t) => {
    const pac = join(folder, 'broken.pac');
    writeFileSync(pac, 'this is no script');
    const daemon = await run(t, [], { ISTHMUS_PROXY: `pac:${pac}` });
    while (!daemon.log().includes('proxy.problem')) await new Promise((resolve) => setTimeout(resolve, 20));
    t.match(daemon.log(), /broken\.pac: it does not load: (?!.*(missing|ENOENT|module)).*(expecting|unexpected)/i);
    t.equal(await daemon.stop(), 0);
  },
);

t.test('the library entry is an ES module, with types that its manifest names', (t) => {
  const manifest = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as {
    exports: { '.': { types: string; default: string } };
    files: string[];
  };
  t.equal(manifest.exports['.'].default, './dist/index.js');
  t.match(readFileSync(join(dist, 'index.js'), 'utf8'), /^export \{$/m);
  t.ok(manifest.files.includes('!dist/**/*.cache'), 'a code cache is not published');
  t.end();
});
