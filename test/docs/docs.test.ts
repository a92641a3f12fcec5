// The documents and the code say the same: metrics, drop codes, exit codes, names, options, the house and its imports, links,
// decision records. (Options in full: test/daemon/documents.test.ts.)

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { DROP_NAMES, Drop } from '../../src/base/drop.ts';
import { CLIENT_USAGE } from '../../src/daemon/client-args.ts';
import { loadConfig } from '../../src/daemon/config.ts';
import { OPTION_NAMES } from '../../src/daemon/config-schema.ts';
import { LogRoot } from '../../src/daemon/log.ts';
import { createNetwork } from '../../src/daemon/network.ts';
import { GATEWAY_NAMES, HOST_NAMES } from '../../src/dns/local-names.ts';
import { DnsStats } from '../../src/dns/stats.ts';
import { HostFlowStats } from '../../src/forwarder/host-flow.ts';
import { UdpForwarderStats } from '../../src/forwarder/udp-forwarder.ts';
import { UdpPublisherStats } from '../../src/forwarder/udp-publisher.ts';
import { ExitCode } from '../../src/host/exit-code.ts';
import { LinkCounters } from '../../src/link/link-counters.ts';
import { ProxyStats } from '../../src/proxy/proxy-stats.ts';
import { DhcpStats } from '../../src/services/dhcp-server.ts';
import { NtpStats } from '../../src/services/ntp.ts';
import { StackStats } from '../../src/stack/stats.ts';
import { TcpStats } from '../../src/tcp/stats.ts';

function findRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, 'package-lock.json'))) dir = dirname(dir);
  return dir;
}

const root = findRoot();
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const adrs = readdirSync(join(root, 'docs/adr')).filter((name) => /^\d{4}-/.test(name));
const documents = [
  'README.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'docs/architecture.md',
  'docs/control-api.md',
  'docs/metrics.md',
  'docs/proxies.md',
  'docs/adr/README.md',
  ...adrs.map((name) => `docs/adr/${name}`),
];

function sources(folder: string): string[] {
  return readdirSync(join(root, 'src', folder)).filter((name) => name.endsWith('.ts'));
}

function textOf(folder: string): string {
  return sources(folder)
    .map((name) => read(`src/${folder}/${name}`))
    .join('\n');
}

const folders = readdirSync(join(root, 'src'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name)
  .sort();

/** Rows of all tables below a heading: cells without their backticks. */
function rows(text: string, heading: string): string[][] {
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  return (section ?? '')
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll('`', '')),
    )
    .slice(2);
}

t.test('docs/metrics.md has every metric with its type, and no other', async (t) => {
  const env = {};
  const flags = new Map([
    ['vm', { texts: ['qemu:/nowhere/vm.sock'], source: { kind: 'flag' as const, label: '--vm' } }],
    ['state-dir', { texts: ['none'], source: { kind: 'flag' as const, label: '--state-dir' } }],
    ['memory', { texts: ['8'], source: { kind: 'flag' as const, label: '--memory' } }],
  ] as const);
  const { config } = await loadConfig({ flags, env, uid: 1000, vmOptional: false });
  const log = new LogRoot('silent', { writableLength: 0, write: () => true }).log;
  const exposed = new Map<string, string>();
  for (const m of createNetwork(config, log).stats().metrics) exposed.set(m.name, m.type);
  // The life cycle's own ones are literals there.
  const literal = /name: '(isthmus_\w+)',\s*help: '[^']*',\s*type: '(\w+)'/g;
  for (const [, name, type] of read('src/daemon/life-cycle.ts').matchAll(literal)) exposed.set(name!, type!);
  t.ok(exposed.size > 100 && exposed.has('isthmus_build_info'), `${exposed.size} metrics found`);

  const documented = new Map<string, string>();
  const wrong: string[] = [];
  const text = read('docs/metrics.md');
  for (const [, name, type, meaning] of text.matchAll(/^\| `(isthmus_\w+)` \| (\w+) \| (.*) \|$/gm)) {
    if (documented.has(name!)) wrong.push(`${name} twice`);
    if (!meaning!.endsWith('.')) wrong.push(`${name}: no sentence`);
    documented.set(name!, type!);
  }
  for (const [name] of text.matchAll(/isthmus_\w+/g)) if (!exposed.has(name)) wrong.push(`${name} does not exist`);
  t.strictSame(wrong, []);
  t.strictSame(sorted(documented), sorted(exposed));
});

function sorted(map: ReadonlyMap<string, string>): string[] {
  return [...map].map(([name, type]) => `${name} ${type}`).sort();
}

t.test('every counter is counted somewhere: one that nothing moves would tell a lie', (t) => {
  const owners: readonly (readonly [object, string, readonly string[]])[] = [
    [new TcpStats(), 'stats', ['tcp', 'stack']],
    [new StackStats(), 'stats', ['stack']],
    [new DnsStats(), 'stats', ['dns', 'forwarder']],
    [new HostFlowStats(), 'stats', ['forwarder']],
    [new UdpForwarderStats(), 'stats', ['forwarder']],
    [new UdpPublisherStats(), 'stats', ['forwarder']],
    [new DhcpStats(), 'stats', ['services']],
    [new NtpStats(), 'stats', ['services']],
    [new LinkCounters(), 'counters', ['link']],
    [new ProxyStats(), 'stats', ['proxy']],
  ];
  const still: string[] = [];
  for (const [stats, variable, where] of owners) {
    const text = where.map(textOf).join('\n');
    for (const [field, value] of Object.entries(stats)) {
      const moves = new RegExp(`${variable}\\.${field}(\\+\\+| \\+=)`, 'i');
      if (typeof value === 'number' && !moves.test(text)) still.push(`${stats.constructor.name}.${field}`);
    }
  }
  t.strictSame(still, []);
  t.end();
});

t.test('docs/metrics.md has every drop code, says which are not counted, and has no other', (t) => {
  const table = rows(read('docs/metrics.md'), 'Reasons for drops');
  t.strictSame(table.map(([name]) => name).sort(), DROP_NAMES.slice(1).toSorted());
  const used = folders
    .filter((folder) => folder !== 'guest')
    .map(textOf)
    .join('\n');
  const uncounted = (name: string): boolean => !new RegExp(`\\bDrop\\.${name}\\b`).test(used);
  t.strictSame(
    table.flatMap(([name, meaning]) => (meaning!.includes('*Not counted*') ? [name!] : [])).sort(),
    DROP_NAMES.slice(1).filter(uncounted).sort(),
    'codes that nothing counts are marked',
  );
  t.equal(new Set(Object.values(Drop)).size, DROP_NAMES.length, 'numbers are unique');
  t.end();
});

t.test('README.md has every exit code, every built-in name, and no option that does not exist', (t) => {
  const readme = read('README.md');
  const codes = [...readme.matchAll(/^\| (\d+) \| /gm)].map(([, code]) => Number(code));
  t.strictSame(
    codes,
    Object.values(ExitCode).toSorted((a, b) => a - b),
  );
  for (const name of [...HOST_NAMES, ...GATEWAY_NAMES]) t.ok(readme.includes(`\`${name}\``), name);
  const ofCommands = Object.values(CLIENT_USAGE).flatMap(({ options }) => Object.keys(options));
  const known = new Set<string>([...OPTION_NAMES, ...ofCommands, 'help', 'version', 'print-config', 'json']);
  const flags = documents.flatMap((path) => flagsIn(read(path)).map((flag) => `${path}: ${flag}`));
  t.ok(flags.includes('README.md: publish') && flags.includes('README.md: host-alias'), 'flags are found');
  t.strictSame(
    flags.filter((flag) => !known.has(flag.replace(/.* /, ''))),
    [],
  );
  t.end();
});

/** Flags of isthmus that a text names: in blocks, those of `isthmus` commands; in lines of text, code that begins with a flag. */
function flagsIn(text: string): string[] {
  const commands = [...text.matchAll(/^isthmus (?:[^\n]*\\\n)*[^\n]*/gm), ...text.matchAll(/`isthmus [^`]*`/g)];
  const inline = text.matchAll(/`(--[^`]*)`/g);
  const code = [...commands, ...inline].map(([match]) => match).join('\n');
  return [...code.matchAll(/(?<![\w-])--([a-z][a-z-]*)/g)].map(([, flag]) => flag!);
}

t.test('docs/architecture.md: the house has every folder, and nobody imports what it does not say', (t) => {
  const house = rows(read('docs/architecture.md'), 'The house');
  t.strictSame(house.map(([folder]) => folder).sort(), folders);
  const wrong: string[] = [];
  for (const [folder, kind, , mayImport] of house) {
    const allowed = new Set(mayImport!.split(/,\s*/).map((word) => word.replace(/ .*/, '')));
    if (kind !== 'pure' && kind !== 'shell') wrong.push(`${folder} is ${kind}`);
    for (const name of sources(folder!)) {
      const imports = [...read(`src/${folder}/${name}`).matchAll(/from '\.\.\/([a-z]+)\/|import\('\.\.\/([a-z]+)\//g)];
      for (const [, plain, dynamic] of imports) {
        const other = plain ?? dynamic!;
        if (!allowed.has(other) && !allowed.has('everything')) wrong.push(`${folder}/${name} imports ${other}`);
      }
    }
  }
  t.strictSame(wrong, []);
  t.end();
});

t.test('files and links that the documents name exist', (t) => {
  const file = new RegExp(`\`((?:src/)?(?:${folders.join('|')})/[a-z0-9-]+\\.ts)\``, 'g');
  const missing: string[] = [];
  let links = 0;
  for (const path of documents) {
    const text = read(path);
    for (const [, name] of text.matchAll(file)) {
      const there = name!.startsWith('src/') ? name! : `src/${name}`;
      if (!existsSync(join(root, there))) missing.push(`${path}: ${name}`);
    }
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target!)) continue;
      links++;
      const [to = '', anchor] = target!.split('#');
      const there = to === '' ? path : join(dirname(path), to);
      if (!existsSync(join(root, there))) missing.push(`${path}: ${target}`);
      else if (anchor !== undefined && !headings(read(there)).has(anchor)) missing.push(`${path}: ${target}`);
    }
  }
  t.ok(links > 30, `${links} links`);
  t.strictSame(missing, []);
  t.end();
});

/** Anchors of a Markdown file, as code hosts make them. */
function headings(text: string): Set<string> {
  const lines = text.match(/^#+ .*$/gm) ?? [];
  return new Set(
    lines.map((line) =>
      line
        .replace(/^#+ /, '')
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

t.test('decision records are numbered without a gap, have their three parts, and are listed', (t) => {
  const list = read('docs/adr/README.md');
  adrs.sort().forEach((name, i) => {
    t.ok(name.startsWith(String(i + 1).padStart(4, '0')), `${name} is number ${i + 1}`);
    const text = read(`docs/adr/${name}`);
    for (const part of ['## Context', '## Decision', '## Consequences'])
      t.ok(text.includes(`\n${part}\n`), `${name}: ${part}`);
    t.ok(list.includes(`](${name})`), `${name} is listed`);
    t.ok(text.split('\n').length <= 70, `${name} is one page`);
  });
  t.end();
});

t.test('CHANGELOG.md has a section for the version in package.json', (t) => {
  const { version } = JSON.parse(read('package.json')) as { version: string };
  t.match(read('CHANGELOG.md'), new RegExp(`^## \\[(Unreleased|${version.replaceAll('.', '\\.')})\\]`, 'm'));
  t.ok(read('CHANGELOG.md').includes(version), version);
  t.end();
});
