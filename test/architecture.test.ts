// The house, checked: which folder may know which (docs/architecture.md), what the pure folders may not touch, and the rules that every file
// keeps. The checker reads a set of files, so it is itself tested on small houses with one thing wrong.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import ts from 'typescript';

interface Room {
  /** No `node:`, no package, no clock, timer, randomness or process. */
  pure?: true;
  /** Folders, or single files of them, that it may import; `type ` in front: for types only. */
  may: readonly string[];
  /** Packages it may import. */
  packages?: readonly string[];
}

/** From low to high; a folder knows nothing above it, and siblings never meet. */
const HOUSE: Record<string, Room> = {
  base: { pure: true, may: [] },
  ethernet: { pure: true, may: ['base'] },
  ip: { pure: true, may: ['base'] },
  tcp: { pure: true, may: ['base', 'ip'] },
  dns: { pure: true, may: ['base', 'ip'] },
  services: { pure: true, may: ['base', 'ip'] },
  stack: { pure: true, may: ['base', 'ethernet', 'ip', 'tcp'] },
  host: { may: ['base'] },
  link: { may: ['base', 'host', 'stack/ports.ts'] },
  forwarder: { may: ['base', 'host', 'ip/address.ts', 'dns', 'stack/ports.ts'] },
  proxy: {
    may: ['base', 'host', 'ip/address.ts', 'dns', 'stack/ports.ts', 'forwarder'],
    packages: ['pac-resolver', 'quickjs-wasi'],
  },
  control: {
    may: ['base', 'host', 'type forwarder', 'type proxy'],
    packages: ['hono', '@hono/node-server', 'ssh2', 'valibot', '@valibot/to-json-schema'],
  },
  guest: { may: ['base', 'ethernet', 'ip', 'tcp', 'dns', 'services', 'stack', 'host', 'link', 'forwarder'] },
  daemon: {
    may: 'base ethernet ip tcp dns services stack host link forwarder proxy control guest'.split(' '),
    packages: ['pino', 'prom-client', 're2js', 'valibot', 'yaml'],
  },
};

const IMPURE = new Set(
  'Date performance setTimeout setInterval setImmediate queueMicrotask process crypto Buffer console Promise globalThis require fetch'.split(
    ' ',
  ),
);
const MAX_LINES = 500;
/** Built here, so that this file does not hold what it looks for. */
const MACHINE_PATHS = ['work', 'root', 'Users'].map((name) => `/${name}/`).concat(`..${'/'}shared`);
const NOUNLESS = /^(utils?|helpers?|common|misc)$/;
const UNDONE = new RegExp(`(?://|\\*).*\\b(TO${'DO'}|FIX${'ME'}|XX${'X'})\\b`);

interface Import {
  to: string;
  typeOnly: boolean;
}

/** What a file imports or re-exports, `import()` and `import('x').T` included. */
function importsOf(source: ts.SourceFile): Import[] {
  const found: Import[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      // `import { type A }` is one of values still: with verbatimModuleSyntax the module is loaded.
      const typeOnly = node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword;
      found.push({ to: (node.moduleSpecifier as ts.StringLiteral).text, typeOnly });
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      found.push({ to: (node.moduleSpecifier as ts.StringLiteral).text, typeOnly: node.isTypeOnly });
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [arg] = node.arguments;
      found.push({ to: arg && ts.isStringLiteralLike(arg) ? arg.text : '(computed)', typeOnly: false });
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      found.push({ to: (node.argument.literal as ts.StringLiteral).text, typeOnly: true });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** A name that is used as a global, not as a member's name. */
function isFreeName(node: ts.Identifier): boolean {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent)) return parent.expression === node;
  if (ts.isQualifiedName(parent)) return parent.left === node;
  const member =
    ts.isPropertyAssignment(parent) ||
    ts.isMethodDeclaration(parent) ||
    ts.isPropertyDeclaration(parent) ||
    ts.isPropertySignature(parent) ||
    ts.isMethodSignature(parent);
  return !(member && parent.name === node);
}

function impurities(source: ts.SourceFile): string[] {
  const found = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node) && IMPURE.has(node.text) && isFreeName(node)) found.add(node.text);
    if (ts.isPropertyAccessExpression(node) && node.getText(source) === 'Math.random') found.add('Math.random');
    if (node.kind === ts.SyntaxKind.AsyncKeyword || ts.isAwaitExpression(node)) found.add('async');
    ts.forEachChild(node, visit);
  };
  visit(source);
  return [...found];
}

function forbiddenSyntax(source: ts.SourceFile): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isEnumDeclaration(node)) found.push('an enum');
    if (ts.isModuleDeclaration(node) && !(node.flags & ts.NodeFlags.GlobalAugmentation)) found.push('a namespace');
    if (ts.isExportAssignment(node) || node.kind === ts.SyntaxKind.DefaultKeyword) {
      if (!ts.isDefaultClause(node)) found.push('a default export');
    }
    if (ts.isParameterPropertyDeclaration(node, node.parent)) found.push('a parameter property');
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** The package's entry stands beside the daemon: it may know everything. */
const folderOf = (path: string): string =>
  path === 'src/index.ts' ? 'daemon' : path.startsWith('src/') ? path.split('/')[1]! : '';

function mayImport(from: string, to: Import, target: string): boolean {
  const folder = folderOf(target);
  if (folder === from) return true;
  const inside = target.slice('src/'.length);
  return HOUSE[from]!.may.some((rule) => {
    const forTypes = rule.startsWith('type ');
    const place = forTypes ? rule.slice(5) : rule;
    return (place === folder || place === inside) && (!forTypes || to.typeOnly);
  });
}

/** Every circle of files along `edges`, each once, smallest name first. */
function circles(edges: Map<string, string[]>): string[] {
  const found = new Set<string>();
  const done = new Set<string>();
  const walk = (file: string, trail: string[]): void => {
    const at = trail.indexOf(file);
    if (at >= 0) {
      const circle = trail.slice(at);
      const first = circle.indexOf([...circle].sort()[0]!);
      found.add([...circle.slice(first), ...circle.slice(0, first), circle[first]!].join(' -> '));
      return;
    }
    if (done.has(file)) return;
    for (const next of edges.get(file) ?? []) walk(next, [...trail, file]);
    done.add(file);
  };
  for (const file of edges.keys()) walk(file, []);
  return [...found];
}

/** Every rule that the files break, one line each. */
function check(files: Map<string, string>): string[] {
  const problems: string[] = [];
  const values = new Map<string, string[]>();
  const across = new Map<string, string[]>();
  for (const [path, text] of files) {
    const say = (what: string): void => void problems.push(`${path}: ${what}`);
    checkText(path, text, say);
    if (!path.endsWith('.ts')) continue;
    const source = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true);
    for (const what of forbiddenSyntax(source)) say(what);
    if (!path.startsWith('src/')) continue;
    const from = folderOf(path);
    const room = HOUSE[from];
    if (room === undefined) {
      say(`no folder of the house: ${from}`);
      continue;
    }
    if (room.pure) for (const name of impurities(source)) say(`a pure folder uses ${name}`);
    for (const to of importsOf(source)) {
      if (!to.to.startsWith('.')) {
        const name = to.to.startsWith('@') ? to.to.split('/').slice(0, 2).join('/') : to.to.split('/')[0]!;
        const allowed = to.to.startsWith('node:') ? !room.pure : room.packages?.includes(name);
        if (!allowed) say(`${from} may not import ${to.to}`);
        continue;
      }
      const target = posix.join(posix.dirname(path), to.to);
      if (!files.has(target)) say(`imports ${to.to}, which is no file`);
      else if (!mayImport(from, to, target)) say(`${from} may not import ${target}${to.typeOnly ? ' (a type)' : ''}`);
      if (!to.typeOnly) values.set(path, [...(values.get(path) ?? []), target]);
      if (from !== folderOf(target)) across.set(from, [...(across.get(from) ?? []), folderOf(target)]);
    }
  }
  // Types may go in a circle inside one folder; values never, and folders never.
  for (const circle of [...circles(values), ...circles(across)]) problems.push(`circle: ${circle}`);
  return problems;
}

/** What holds for the text of any file of the project. */
function checkText(path: string, text: string, say: (what: string) => void): void {
  for (const place of MACHINE_PATHS) if (text.includes(place)) say(`names a path of a machine: ${place}`);
  if (!/\.(ts|mjs|c)$/.test(path)) return;
  const lines = text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
  if (lines > MAX_LINES) say(`${lines} lines; at most ${MAX_LINES}`);
  const isTest = /\.(test|bench)\.ts$/.test(path);
  const opening = text.replace(/^#!.*\n/, '');
  if (!isTest && !opening.startsWith('//') && !opening.startsWith('/*'))
    say('does not open with a comment that says what it owns');
  // tap's own directive is a word of its protocol, not a promise.
  if (UNDONE.test(text)) say('leaves something to do');
  const name = posix.basename(path).replace(/\..*$/, '');
  if (NOUNLESS.test(name)) say(`"${name}" says nothing of what is inside`);
  if (!/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name)) say('a file name is in kebab-case');
}

// --- The checker can fail.

const CLEAN: [string, string][] = [
  ['src/base/bytes.ts', '// Bytes.\nexport const a = 1;\n'],
  ['src/stack/ports.ts', "// The border.\nimport type { A } from '../base/bytes.ts';\nexport type { A };\n"],
  [
    'src/link/listener.ts',
    "// Listens.\nimport net from 'node:net';\nimport { a } from '../stack/ports.ts';\nexport { a, net };\n",
  ],
];

function problemsWith(...files: [string, string][]): string[] {
  return check(
    new Map([
      ...CLEAN,
      ...files.map(([path, text]): [string, string] => [
        path,
        text.startsWith('!') ? text.slice(1) : `// It.\n${text}`,
      ]),
    ]),
  );
}

t.test('a house in order has no problems', (t) => {
  t.same(problemsWith(), []);
  t.same(
    problemsWith(
      [
        'src/base/ring.ts',
        "// Buffer, setTimeout and process: only words here.\nexport const text = 'Date.now() Buffer';\nclass A { process(): void {} }\nexport { A };",
      ],
      ['src/tcp/a.ts', "import type { B } from './b.ts';\nexport interface A { b: B; Date: number }"],
      ['src/tcp/b.ts', "import type { A } from './a.ts';\nexport interface B { a: A }"],
      [
        'src/control/server.ts',
        "import { Hono } from 'hono/tiny';\nimport type { F } from '../forwarder/flow.ts';\nexport { Hono, type F };",
      ],
      ['src/forwarder/flow.ts', 'export interface F { a: 1 }'],
      ['src/daemon/main.ts', "!#!/usr/bin/env node\n// Starts.\nawait import('../control/server.ts');"],
      ['test/base/ring.test.ts', "!import t from 'tap';\nt.end();"],
    ),
    [],
  );
  t.end();
});

const VIOLATIONS: [string, string, string][] = [
  ['src/base/a.ts', "import '../ip/ipv4.ts';", 'base may not import src/ip/ipv4.ts'],
  ['src/tcp/a.ts', "import type { X } from '../dns/x.ts';", 'tcp may not import src/dns/x.ts (a type)'],
  ['src/dns/a.ts', "export * from '../services/x.ts';", 'dns may not import src/services/x.ts'],
  ['src/ip/a.ts', "import { x } from '../ethernet/x.ts';", 'ip may not import src/ethernet/x.ts'],
  ['src/link/a.ts', "import { x } from '../stack/stack.ts';", 'link may not import src/stack/stack.ts'],
  ['src/forwarder/a.ts', "import { x } from '../link/listener.ts';", 'forwarder may not import src/link/listener.ts'],
  ['src/control/a.ts', "import { x } from '../forwarder/x.ts';", 'control may not import src/forwarder/x.ts'],
  ['src/control/a.ts', "import { type X } from '../forwarder/x.ts';", 'control may not import src/forwarder/x.ts'],
  ['src/guest/a.ts', "const x: import('../daemon/x.ts').X = 1;", 'guest may not import src/daemon/x.ts (a type)'],
  ['src/stack/a.ts', "await import('../forwarder/x.ts');", 'stack may not import src/forwarder/x.ts'],
  ['src/services/a.ts', "import { now } from 'node:perf_hooks';", 'services may not import node:perf_hooks'],
  ['src/dns/a.ts', "import packet from 'dns-packet';", 'dns may not import dns-packet'],
  ['src/host/a.ts', "import pino from 'pino';", 'host may not import pino'],
  ['src/link/a.ts', "import { x } from './x.ts';", 'imports ./x.ts, which is no file'],
  ['src/tools/a.ts', 'export const a = 1;', 'no folder of the house: tools'],
  ...[...IMPURE].map((name): [string, string, string] => [
    'src/ip/a.ts',
    `export const a = ${name};`,
    `a pure folder uses ${name}`,
  ]),
  ['src/ip/a.ts', 'export const a = (): Promise<void> => b();', 'a pure folder uses Promise'],
  ['src/ip/a.ts', 'export const a = Math.random();', 'a pure folder uses Math.random'],
  ['src/ip/a.ts', 'export async function a(): Promise<void> {}', 'a pure folder uses async'],
  ['src/ip/a.ts', 'enum A { B }', 'an enum'],
  ['src/ip/a.ts', 'const enum A { B }', 'an enum'],
  ['src/ip/a.ts', 'namespace A { export const b = 1; }', 'a namespace'],
  ['src/ip/a.ts', 'class A { constructor(private readonly b: number) {} }', 'a parameter property'],
  ['src/ip/a.ts', 'export default 1;', 'a default export'],
  ['src/ip/a.ts', 'export default class A {}', 'a default export'],
  ['src/ip/a.ts', `// ${'TO'}DO: later`, 'leaves something to do'],
  ['src/ip/a.ts', `/* FIX${'ME'} */`, 'leaves something to do'],
  ['src/ip/a.ts', '!export const a = 1;', 'does not open with a comment'],
  ['src/ip/utils.ts', 'export const a = 1;', '"utils" says nothing'],
  ['src/ip/ipHeader.ts', 'export const a = 1;', 'kebab-case'],
  ['src/ip/a.ts', '\n'.repeat(500), '501 lines; at most 500'],
  ['test/ip/a.test.ts', '\n'.repeat(500), '501 lines; at most 500'],
  ['docs/a.md', `see /${'work'}/main`, 'names a path of a machine'],
  ['scripts/a.mjs', `cd ..${'/'}shared`, 'names a path of a machine'],
];

t.test('each rule is able to fail', (t) => {
  const targets = ['ip/ipv4', 'dns/x', 'services/x', 'ethernet/x', 'stack/stack', 'forwarder/x', 'daemon/x'];
  const house = targets.map((name): [string, string] => [`src/${name}.ts`, 'export const x = 1;']);
  t.same(problemsWith(...house), []);
  for (const [path, text, what] of VIOLATIONS) {
    const problems = problemsWith(...house, [path, text]);
    t.ok(
      problems.some((p) => p.startsWith(`${path}: `) && p.includes(what)),
      `${what}: ${problems.join('; ')}`,
    );
  }
  t.end();
});

t.test('circles are found: of values inside a folder, and of folders', (t) => {
  const values = problemsWith(
    ['src/tcp/a.ts', "import './b.ts';"],
    ['src/tcp/b.ts', "import './c.ts';"],
    ['src/tcp/c.ts', "import './a.ts';"],
  );
  t.same(values, ['circle: src/tcp/a.ts -> src/tcp/b.ts -> src/tcp/c.ts -> src/tcp/a.ts']);
  const folders = problemsWith(
    ['src/host/a.ts', "import type { B } from '../link/b.ts';"],
    ['src/link/b.ts', "import type { A } from '../host/a.ts';"],
  );
  t.same(folders, ['src/host/a.ts: host may not import src/link/b.ts (a type)', 'circle: host -> link -> host']);
  t.end();
});

// --- The project itself.

function projectRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!readdirSync(dir).includes('package-lock.json')) dir = dirname(dir);
  return dir;
}

function projectFiles(): Map<string, string> {
  const root = projectRoot();
  const files = new Map<string, string>();
  const add = (path: string): void =>
    void files.set(path.replaceAll('\\', '/'), readFileSync(join(root, path), 'utf8'));
  for (const folder of ['src', 'test', 'bench', 'scripts', 'docs', 'man', '.ci']) {
    for (const name of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })) {
      if (statSync(join(root, folder, name)).isFile() && !/\.(pcap|pcapng|wasm|png)$/.test(name))
        add(join(folder, name));
    }
  }
  for (const name of readdirSync(root)) if (/\.(md|json)$/.test(name) && name !== 'package-lock.json') add(name);
  return files;
}

t.test('the project keeps the rules of its house', (t) => {
  const files = projectFiles();
  t.ok(
    files.size > 150 && files.has('src/stack/stack.ts') && files.has('test/architecture.test.ts'),
    'the files were found',
  );
  for (const problem of check(files)) t.fail(problem);
  t.end();
});

t.test('every folder of src has a place in the house, and every package it may use is declared', (t) => {
  const root = projectRoot();
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  for (const name of readdirSync(join(root, 'src'))) t.ok(name in HOUSE || name === 'index.ts', name);
  const used = new Set(Object.values(HOUSE).flatMap((room) => room.packages ?? []));
  for (const name of used) t.ok(name in manifest.dependencies, `${name} is a dependency`);
  t.same(
    Object.keys(manifest.dependencies).filter((name) => !used.has(name)),
    [],
    'and none is declared in vain',
  );
  t.end();
});
