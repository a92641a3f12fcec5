// Programs of a real Linux guest through proxies that are the only way out: curl, git, npm and apt, by an HTTP proxy with a password, by a
// SOCKS proxy and by a PAC file. The host is a namespace of its own without a route but the one to the proxy.

import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { startDaemon } from '../helpers/daemon.ts';
import type { Namespace } from '../helpers/namespace.ts';
import { NamespaceGuest } from '../helpers/namespace-guest.ts';
import { needsNamespace, needsProgram, type SkipReason } from '../helpers/requirements.ts';
import { CERT, httpProxy, KEY, listen, socksProxy, type TestProxy } from '../proxy/rig.ts';

/** Nobody's addresses (RFC 5737): the guest's own hosts file knows them, and nothing leads there. */
const ADDRESS = '198.51.100.7';
const NAMES = ['web.example', 'git.example', 'registry.example', 'deb.example'];
const skip = needsNamespace();

/** What the programs fetch, over HTTP and TLS; ports of the loopback. */
interface Origin {
  readonly plain: number;
  readonly secure: number;
  readonly folder: string;
}

/** A folder served as files: a repository of git, a registry of npm, an archive of apt. */
async function startOrigin(t: Test): Promise<Origin> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-origin-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const put = (path: string, content: string | Buffer): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  };
  put('web.example/hello', 'hello from the origin\n');
  put('registry.example/tiny', JSON.stringify(npmPackage(put)));
  const release = gzipSync('');
  put('deb.example/dists/stable/main/binary-amd64/Packages.gz', release);
  put('deb.example/dists/stable/main/binary-amd64/Packages', '');
  const digest = createHash('sha256').update(release).digest('hex');
  const empty = createHash('sha256').digest('hex');
  put(
    'deb.example/dists/stable/Release',
    `Origin: test\nSuite: stable\nCodename: stable\nDate: ${new Date().toUTCString().replace('GMT', 'UTC')}\nArchitectures: amd64\nComponents: main\nSHA256:\n ${digest} ${release.length} main/binary-amd64/Packages.gz\n ${empty} 0 main/binary-amd64/Packages\n`,
  );
  const onRequest = (incoming: http.IncomingMessage, outgoing: http.ServerResponse): void => {
    const path = new URL(incoming.url ?? '/', 'http://x').pathname;
    try {
      const body = readFileSync(join(folder, (incoming.headers.host ?? '').replace(/:.*/, ''), path));
      outgoing.writeHead(200, { 'Content-Length': body.length }).end(body);
    } catch {
      outgoing.writeHead(404).end();
    }
  };
  const plain = await listen(t, http.createServer(onRequest));
  const secure = await listen(t, https.createServer({ key: KEY, cert: CERT }, onRequest));
  return { plain, secure, folder };
}

/** A tarball by tar(1), and its document. */
function npmPackage(put: (path: string, content: Buffer) => void): object {
  const scratch = mkdtempSync(join(tmpdir(), 'isthmus-npm-'));
  mkdirSync(join(scratch, 'package'));
  writeFileSync(join(scratch, 'package/package.json'), '{"name":"tiny","version":"1.0.0"}');
  const tarball = execFileSync('tar', ['-czf', '-', '-C', scratch, 'package']);
  rmSync(scratch, { recursive: true });
  put('registry.example/tiny-1.0.0.tgz', tarball);
  const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
  const dist = { tarball: 'http://registry.example/tiny-1.0.0.tgz', integrity };
  return {
    name: 'tiny',
    'dist-tags': { latest: '1.0.0' },
    versions: { '1.0.0': { name: 'tiny', version: '1.0.0', dist } },
  };
}

/** `ip netns exec` shows `/etc/netns/NAME/hosts` as the guest's hosts file. */
function giveHosts(t: Test, namespace: Namespace): void {
  const folder = join('/etc/netns', namespace.name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'hosts'), `127.0.0.1 localhost\n${ADDRESS} ${NAMES.join(' ')}\n`);
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
}

interface Program {
  readonly name: string;
  readonly skip: SkipReason;
  /** What it prints on success has this in it. */
  readonly says: RegExp;
  readonly prepare?: (origin: Origin) => void;
  readonly command: (scratch: string) => string;
}

const NO_PROXY_ENV = 'env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u all_proxy';

const PROGRAMS: readonly Program[] = [
  {
    name: 'curl',
    skip: needsProgram('curl'),
    says: /hello from the origin[\s\S]*hello from the origin/,
    command: () =>
      'curl -sS --max-time 20 http://web.example/hello && curl -sSk --max-time 20 https://web.example/hello',
  },
  {
    name: 'git',
    skip: needsProgram('git'),
    says: /the first commit/,
    prepare: ({ folder }) => {
      const git = (...args: string[]): void =>
        void execFileSync(
          'git',
          ['-c', 'user.name=t', '-c', 'user.email=t@t', '-c', 'init.defaultBranch=main', ...args],
          {
            stdio: 'pipe',
            cwd: folder,
          },
        );
      git('init', '-q', 'work');
      git('-C', 'work', 'commit', '-q', '--allow-empty', '-m', 'the first commit');
      git('clone', '-q', '--bare', 'work', 'git.example/repo.git');
      git('-C', 'git.example/repo.git', 'update-server-info');
    },
    command: (scratch) =>
      `git -c http.sslVerify=false clone -q https://git.example/repo.git ${scratch}/clone && git -C ${scratch}/clone log`,
  },
  {
    name: 'npm',
    skip: needsProgram('npm', 'tar'),
    says: /tiny@1\.0\.0/,
    command: (scratch) =>
      `cd ${scratch} && echo '{}' > package.json && npm install --registry http://registry.example/ --cache ${scratch}/cache --no-audit --no-fund --fetch-retries 0 tiny >&2 && npm ls`,
  },
  {
    name: 'apt',
    skip: needsProgram('apt-get'),
    says: /http:\/\/deb\.example stable Release/,
    command: (scratch) =>
      `mkdir -p ${scratch}/lists/partial ${scratch}/cache/archives/partial && echo 'deb [trusted=yes arch=amd64] http://deb.example stable main' > ${scratch}/sources.list && apt-get -o Dir::Etc::sourcelist=${scratch}/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=${scratch}/lists -o Dir::Cache=${scratch}/cache -o Acquire::http::Proxy=false -o APT::Sandbox::User=root -o Acquire::Retries=0 update`,
  },
];

interface Way {
  readonly name: string;
  readonly start: (
    t: Test,
    lead: (host: string, port: number) => number,
  ) => Promise<{ args: string[]; proxy: TestProxy }>;
}

const WAYS: readonly Way[] = [
  {
    name: 'an HTTP proxy with a password',
    start: async (t, lead) => {
      const proxy = await httpProxy(t, { auth: 'me:s3cret', lead });
      return { args: ['--proxy', `http://me:s3cret@127.0.0.1:${proxy.port}`], proxy };
    },
  },
  {
    name: 'a SOCKS proxy with a password',
    start: async (t, lead) => {
      const proxy = await socksProxy(t, { auth: 'me:s3cret', lead });
      return { args: ['--proxy', `socks5h://me:s3cret@127.0.0.1:${proxy.port}`], proxy };
    },
  },
  {
    name: 'a PAC file',
    start: async (t, lead) => {
      const proxy = await httpProxy(t, { auth: 'me:s3cret', lead });
      const script = `function FindProxyForURL(url, host) { return 'PROXY 127.0.0.1:1; PROXY 127.0.0.1:${proxy.port}'; }`;
      const port = await listen(
        t,
        http.createServer((_incoming, outgoing) => outgoing.end(script)),
      );
      return { args: ['--proxy', `pac+http://me:s3cret@127.0.0.1:${port}/proxy.pac`], proxy };
    },
  },
];

for (const way of WAYS) {
  t.test(`curl, git, npm and apt by ${way.name}, which is the only way out`, { skip }, async (t) => {
    const origin = await startOrigin(t);
    const lead = (_host: string, port: number): number => (port === 443 ? origin.secure : origin.plain);
    const { args, proxy } = await way.start(t, lead);
    const daemon = await startDaemon(t, { args: [...args, '--strict'] });
    const guest = await NamespaceGuest.start(t, daemon, { mtu: 1500 });
    giveHosts(t, guest.namespace);
    for (const program of PROGRAMS) {
      await t.test(program.name, { skip: program.skip }, async (t) => {
        program.prepare?.(origin);
        const scratch = mkdtempSync(join(tmpdir(), 'isthmus-guest-'));
        t.teardown(() => rmSync(scratch, { recursive: true, force: true }));
        const before = proxy.seen.length;
        const command = `HOME=${scratch} ${NO_PROXY_ENV} sh -c "${program.command(scratch).replaceAll('"', '\\"')}"`;
        const { status, stdout, stderr } = await guest.namespace.exec('sh', ['-c', command], 90_000);
        t.equal(status, 0, `${stdout}${stderr}`);
        t.match(stdout, program.says);
        t.ok(proxy.seen.length > before, `by the proxy: ${proxy.seen.slice(before).join(', ')}`);
      });
    }
    const metrics = await daemon.metrics();
    t.equal(metrics.sum('isthmus_proxy_refused_total'), 0);
  });
}

t.test('a wrong password is told to the user of curl', { skip: skip || needsProgram('curl') }, async (t) => {
  const proxy = await httpProxy(t, { auth: 'me:right', lead: () => 1 });
  const daemon = await startDaemon(t, { args: ['--proxy', `http://me:wrong@127.0.0.1:${proxy.port}`, '--strict'] });
  const guest = await NamespaceGuest.start(t, daemon, { mtu: 1500 });
  giveHosts(t, guest.namespace);
  const curl = (...args: string[]): ReturnType<Namespace['exec']> =>
    guest.namespace.exec('env', ['-u', 'http_proxy', '-u', 'https_proxy', 'curl', '-sSk', '--max-time', '20', ...args]);
  const plain = await curl('-i', 'http://web.example/');
  t.match(plain.stdout, /^HTTP\/1\.1 407 [\s\S]*did not take the user name and password/);
  const secure = await curl('https://web.example/');
  t.not(secure.status, 0);
  t.match(secure.stderr, /access denied/i);
  const explicit = await curl('-x', 'http://192.168.65.1:3128', 'https://web.example/');
  t.equal(explicit.status, 56);
  t.match(explicit.stderr, /407/);
});

t.test('a proxy behind TLS carries both, as much as there is', { skip: skip || needsProgram('curl') }, async (t) => {
  const origin = await startOrigin(t);
  const lead = (_host: string, port: number): number => (port === 443 ? origin.secure : origin.plain);
  const proxy = await httpProxy(t, { tls: true, auth: 'me:s3cret', lead });
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);
  writeFileSync(join(folder, 'ca.pem'), CERT);
  process.env.NODE_EXTRA_CA_CERTS = join(folder, 'ca.pem');
  const daemon = await startDaemon(t, { args: ['--proxy', `https://me:s3cret@127.0.0.1:${proxy.port}`, '--strict'] });
  delete process.env.NODE_EXTRA_CA_CERTS;
  const guest = await NamespaceGuest.start(t, daemon, { mtu: 1500 });
  giveHosts(t, guest.namespace);
  const bytes = randomBytes(20_000_000);
  writeFileSync(join(origin.folder, 'web.example/large'), bytes);
  const hash = createHash('sha256').update(bytes).digest('hex');
  for (const url of ['http://web.example/large', 'https://web.example/large']) {
    const command = `${NO_PROXY_ENV} curl -sSk --max-time 60 ${url} | sha256sum`;
    const { stdout, stderr } = await guest.namespace.exec('sh', ['-c', command]);
    t.equal(stdout.slice(0, 64), hash, `${url}: 20 megabytes ${stderr}`);
  }
  t.same(proxy.seen, ['GET http://web.example/large', 'CONNECT web.example:443']);
  t.equal((await daemon.metrics()).sum('isthmus_proxy_refused_total'), 0);
});
