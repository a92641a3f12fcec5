// The DNS service and where its rules come from: files that change in every way, macOS's own, systemd-resolved's stub, the host's resolver.
// Answers are wanted with the next question, with no pause and no moved clock between a change and it.

import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as packet from 'dns-packet';
import t, { type Test } from 'tap';
import { parseServer } from '../../src/dns/resolv-conf.ts';
import { HostUse } from '../../src/dns/upstreams.ts';
import type { DnsServiceOptions } from '../../src/forwarder/dns-service.ts';
import { scutilDns } from '../../src/host/scutil.ts';
import { query, response } from '../dns/rig.ts';
import { ServiceRig, until, WireServer } from './dns-rig.ts';

const NXDOMAIN = 3;
const named =
  (data: string) =>
  (q: Buffer): Buffer =>
    response(q, { answers: [{ type: 'A', name: packet.decode(q).questions?.[0]?.name ?? '', ttl: 300, data }] });
const nameless = (q: Buffer): Buffer => response(q, {}, NXDOMAIN);
const data = (b: Buffer) => (packet.decode(b).answers ?? []).map((a) => (a as packet.StringAnswer).data);
const rcode = (b: Buffer) => b.readUInt16BE(2) & 15;
const A = query('db.corp.example', 'A');

async function servers(t: Test, ...addresses: string[]): Promise<WireServer[]> {
  const all = await Promise.all(addresses.map((a) => new WireServer(named(a)).listen()));
  t.teardown(() => Promise.all(all.map((s) => s.close())));
  return all;
}

function rig(t: Test, options: Partial<DnsServiceOptions> & { resolvConf?: string } = {}): ServiceRig {
  const it = new ServiceRig(options);
  t.teardown(() => it.close());
  return it;
}

/** What the next question is answered, asked at once. The stat of the query must do it: the watch has had no turn of the loop. */
async function next(r: ServiceRig): Promise<string[]> {
  // 50 ms pass for the service: what its looks are apart.
  r.skipMs += 50;
  return data(await r.ask(A));
}

t.test('a resolver file: domains, everything else, written, replaced, wrong, removed, made again', async (t) => {
  const [home, vpn, other] = await servers(t, '1.1.1.1', '2.2.2.2', '3.3.3.3');
  const file = join(t.testdir(), 'vpn', 'dns.conf');
  const r = rig(t, { resolvConf: `nameserver ${home!.text}\nsearch home.example\n`, resolverFiles: [file] });
  t.same(await next(r), ['1.1.1.1'], 'neither file nor folder yet');
  t.same(r.service.search, ['home.example']);
  mkdirSync(dirname(file));
  writeFileSync(file, `nameserver ${vpn!.text}\nzone corp.example\nsearch corp.example\nnameserver ${home!.text}\n`);
  t.same(await next(r), ['2.2.2.2'], 'made with its folder');
  t.same(r.service.search, ['corp.example']);
  t.same(data(await r.ask(query('www.example', 'A'))), ['1.1.1.1']);
  t.equal(vpn!.queries, 1, 'a name of the world does not reach the VPN’s server');
  writeFileSync(`${file}.new`, `nameserver ${other!.text}\nzone corp.example\n`);
  renameSync(`${file}.new`, file);
  t.same(await next(r), ['3.3.3.3'], 'replaced, and nothing stale');
  writeFileSync(file, 'nameserver half');
  t.same(await next(r), ['3.3.3.3'], 'half written: what it said before');
  t.ok(r.events.includes('dns.file.unusable'));
  rmSync(dirname(file), { recursive: true });
  t.same(await next(r), ['1.1.1.1'], 'gone with its folder');
  t.ok(r.events.includes('dns.file.missing'));
  mkdirSync(dirname(file));
  writeFileSync(file, `nameserver ${vpn!.text}\n`);
  t.same(await next(r), ['2.2.2.2']);
});

t.test('resolv.conf behind a chain of links whose folder comes later, target replaced, link turned', async (t) => {
  const [one, two, three] = await servers(t, '1.1.1.1', '2.2.2.2', '3.3.3.3');
  const dir = t.testdir();
  const run = join(dir, 'run', 'resolve');
  mkdirSync(join(dir, 'etc'));
  const path = join(dir, 'etc', 'resolv.conf');
  symlinkSync('../middle', path);
  symlinkSync('run/resolve/stub.conf', join(dir, 'middle'));
  const r = rig(t, { resolvConfPath: path });
  t.equal(r.service.responder.resolver.servers.all.length, 0);
  mkdirSync(run, { recursive: true });
  writeFileSync(join(run, 'stub.conf'), `nameserver ${one!.text}\n`);
  t.same(await next(r), ['1.1.1.1'], 'the folder has come');
  writeFileSync(join(run, 'new'), `nameserver ${two!.text}\n`);
  renameSync(join(run, 'new'), join(run, 'stub.conf'));
  t.same(await next(r), ['2.2.2.2'], 'the target was replaced');
  rmSync(join(dir, 'run'), { recursive: true });
  mkdirSync(run, { recursive: true });
  writeFileSync(join(run, 'stub.conf'), `nameserver ${three!.text}\n`);
  t.same(await next(r), ['3.3.3.3'], 'so was the folder');
  writeFileSync(join(dir, 'plain'), `nameserver ${one!.text}\n`);
  rmSync(join(dir, 'middle'));
  symlinkSync('plain', join(dir, 'middle'));
  t.same(await next(r), ['1.1.1.1'], 'the middle link leads elsewhere');
  rmSync(path);
  writeFileSync(path, `nameserver ${two!.text}\n`);
  t.same(await next(r), ['2.2.2.2'], 'no link any more');
  rmSync(join(dir, 'etc'), { recursive: true });
  r.skipMs += 50;
  t.equal(rcode(await r.ask(query('a.example', 'MX'))), 2, 'all gone');
});

t.test('the watch alone: an open question goes to the new server, wherever on the way the change was', async (t) => {
  const [one] = await servers(t, '1.1.1.1');
  const silent = await new WireServer(() => undefined).listen();
  t.teardown(() => silent.close());
  const changes: Record<string, (dir: string, text: string) => void> = {
    'the folder comes': (dir, text) => {
      mkdirSync(join(dir, 'run'));
      writeFileSync(join(dir, 'run', 'conf'), text);
    },
    'the target is written': (dir, text) => writeFileSync(join(dir, 'run', 'conf'), text),
    'the target is replaced': (dir, text) => {
      writeFileSync(join(dir, 'run', 'new'), text);
      renameSync(join(dir, 'run', 'new'), join(dir, 'run', 'conf'));
    },
    'the folder is replaced': (dir, text) => {
      renameSync(join(dir, 'run'), join(dir, 'old'));
      mkdirSync(join(dir, 'run'));
      writeFileSync(join(dir, 'run', 'conf'), text);
    },
    'the link is turned': (dir, text) => {
      writeFileSync(join(dir, 'plain'), text);
      symlinkSync('plain', join(dir, 'turned'));
      renameSync(join(dir, 'turned'), join(dir, 'resolv.conf'));
    },
  };
  for (const [how, change] of Object.entries(changes)) {
    const dir = t.testdir({ [how.replaceAll(' ', '-')]: {} });
    const at = join(dir, how.replaceAll(' ', '-'));
    const late = how === 'the folder comes';
    if (!late) {
      mkdirSync(join(at, 'run'));
      writeFileSync(join(at, 'run', 'conf'), `nameserver ${silent.text}\n`);
    }
    symlinkSync('run/conf', join(at, 'resolv.conf'));
    const r = new ServiceRig({ resolvConfPath: join(at, 'resolv.conf') });
    const servers = () => r.service.responder.resolver.servers.all.map((s) => s.text);
    t.same(servers().length, late ? 0 : 1, how);
    change(at, `nameserver ${one!.text}\n`);
    await until(() => servers().includes(`127.0.0.1:${one!.port}`));
    t.same(data(await r.ask(A)), ['1.1.1.1'], how);
    r.close();
  }
});

t.test('the same size within one tick of the file system’s clock is a change too', async (t) => {
  const [one, two] = await servers(t, '1.1.1.1', '2.2.2.2');
  const pad = (text: string) => `${text}\n`.padEnd(64, '#');
  const r = rig(t, { resolvConf: pad(`nameserver ${one!.text}`) });
  for (let i = 0; i < 20; i++) {
    const [server, address] = i % 2 === 0 ? [two!, '2.2.2.2'] : [one!, '1.1.1.1'];
    writeFileSync(r.resolvConf, pad(`nameserver ${server.text}`));
    t.same(await next(r), [address]);
  }
});

t.test(
  'systemd-resolved: its stub is asked, not the servers behind it; a file that is named is taken at its word',
  async (t) => {
    const [stub, behind] = await servers(t, '1.1.1.1', '2.2.2.2');
    const dir = t.testdir();
    const resolve = join(dir, 'run', 'systemd', 'resolve');
    mkdirSync(resolve, { recursive: true });
    const link = join(dir, 'resolv.conf');
    symlinkSync('run/systemd/resolve/resolv.conf', link);
    writeFileSync(join(resolve, 'resolv.conf'), `nameserver ${behind!.text}\n`);
    const r = rig(t, { resolvConfPath: link });
    t.same(await next(r), ['2.2.2.2'], 'no stub is told of');
    writeFileSync(join(resolve, 'stub-resolv.conf'), `nameserver ${stub!.text}\n`);
    t.same(await next(r), ['1.1.1.1'], 'the stub has come');
    t.equal(r.service.responder.resolver.upstreams.fallback.source, join(resolve, 'stub-resolv.conf'));
    rmSync(join(resolve, 'stub-resolv.conf'));
    t.same(await next(r), ['2.2.2.2'], 'and gone');
    writeFileSync(join(resolve, 'stub-resolv.conf'), `nameserver ${stub!.text}\n`);
    const direct = rig(t, { resolvConfPath: join(resolve, 'resolv.conf') });
    t.same(await next(direct), ['2.2.2.2']);
  },
);

t.test(
  'who has the say: an option’s domain, files, the folder, scutil; servers of options before all others',
  async (t) => {
    const [option, file, folder, scutil, home] = await servers(
      t,
      '1.0.0.1',
      '1.0.0.2',
      '1.0.0.3',
      '1.0.0.4',
      '1.0.0.5',
    );
    const dir = t.testdir({ resolver: {} });
    const write = (name: string, text: string) => writeFileSync(join(dir, name), text);
    write('f1', `nameserver ${file!.text}\nzone a.example b.example\n`);
    write('resolver/b.example', `nameserver 127.0.0.1\nport ${folder!.port}\n`);
    write('resolver/c.example', `nameserver 127.0.0.1.${folder!.port}\n`);
    const block = (n: number, domain: string) =>
      `resolver #${n}\n  domain   : ${domain}\n  nameserver[0] : 127.0.0.1\n  port     : ${scutil!.port}\n`;
    let configuration = `DNS configuration\n\n${block(1, 'c.example')}\n${block(2, 'd.example')}`;
    const r = rig(t, {
      resolvConf: `nameserver ${home!.text}\n`,
      rules: [{ domain: 'a.example', servers: [parseServer(option!.text)!], source: '--dns', host: HostUse.Alone }],
      resolverFiles: [join(dir, 'f1')],
      scoped: { folder: join(dir, 'resolver'), configuration: async () => configuration },
    });
    const { upstreams } = r.service.responder.resolver;
    await until(() => upstreams.routes.some((route) => route.domain === 'd.example'));
    const to = (name: string) => upstreams.route(name).servers.all.map((s) => s.at.port);
    t.same(to('x.a.example'), [option!.port]);
    t.same(to('x.b.example'), [file!.port]);
    t.same(to('x.c.example'), [folder!.port]);
    t.same(to('x.d.example'), [scutil!.port]);
    t.same(to('www.example'), [file!.port], 'the file has servers: they go before resolv.conf');
    t.equal(upstreams.route('x.d.example').host, HostUse.First);
    rmSync(join(dir, 'resolver'), { recursive: true });
    configuration = 'DNS configuration\n';
    r.skipMs += 2000;
    await r.ask(query('x.c.example', 'TXT'));
    await until(() => upstreams.routes.every((route) => route.source !== 'scutil --dns'));
    t.same(upstreams.routes.map((route) => route.domain).sort(), ['a.example', 'b.example']);
    const own = rig(t, {
      upstreams: [option!.text],
      resolverFiles: [join(dir, 'f1')],
      resolvConf: 'nameserver 192.0.2.1\noptions use-vc\n',
    });
    t.same(data(await own.ask(query('www.example', 'A'))), ['1.0.0.1']);
    t.same(own.service.responder.resolver.useTcp, false, 'options of a file whose servers are not asked');
  },
);

t.test('VPNKit’s rule end to end: the first server does not know the name, the second does', async (t) => {
  const [knows] = await servers(t, '2.2.2.2');
  const ignorant = await new WireServer(nameless).listen();
  t.teardown(() => ignorant.close());
  const dir = t.testdir({
    f: `nameserver ${ignorant.text}\nnameserver ${knows!.text}\n`,
    g: `nameserver ${ignorant.text}\n`,
  });
  const r = rig(t, { resolverFiles: [join(dir, 'f')] });
  t.same(data(await r.ask(A)), ['2.2.2.2']);
  const alone = rig(t, { resolverFiles: [join(dir, 'g')] });
  t.equal(rcode(await alone.ask(A)), NXDOMAIN);
});

t.test('none of resolv.conf’s servers answers: the host’s own resolver is asked for addresses', async (t) => {
  const closed = await new WireServer(nameless).listen();
  await closed.close();
  const r = rig(t, { resolvConf: `nameserver ${closed.text}\n` });
  const { resolver } = r.service.responder;
  const asked: string[] = [];
  const host = r.service.upstream.lookupHost.bind(r.service.upstream);
  r.service.upstream.lookupHost = (lookup, name, now) => {
    asked.push(name);
    return host(lookup, name, now);
  };
  const began = performance.now();
  // RFC 6761 6.4: no resolver knows it; the host may take its time to say so.
  t.equal(rcode(await r.ask(query('nobody.invalid', 'A'))), 2);
  t.ok(performance.now() - began < 1500, 'it has half a second');
  t.equal(rcode(await r.ask(query('nobody.invalid', 'TXT'))), 2);
  t.same(asked, ['nobody.invalid']);
  t.equal(resolver.inFlight, 0);
  const own = rig(t, { upstreams: [closed.text] });
  own.service.upstream.lookupHost = () => t.fail('servers of the operator are asked alone');
  t.equal(rcode(await own.ask(query('nobody.invalid', 'A'))), 2);
});

t.test(
  'who can know no more than resolv.conf’s servers is not asked when these cannot be reached: SERVFAIL at once',
  async (t) => {
    const closed = await new WireServer(nameless).listen();
    await closed.close();
    const nsswitch = join(t.testdir(), 'nsswitch.conf');
    const resolvConf = `nameserver ${closed.text}\n`;
    const r = rig(t, { resolvConf, nsswitchPath: nsswitch });
    let asked = 0;
    const never = (): boolean => {
      asked++;
      return true;
    };
    r.service.upstream.lookupHost = never;
    const { upstreams } = r.service.responder.resolver;
    const steps: readonly (readonly [text: string | undefined, more: boolean])[] = [
      [undefined, false],
      ['hosts: files dns\n', false],
      ['hosts: files mymachines resolve [!UNAVAIL=return] dns\n', true],
      ['hosts: files myhostname dns # mdns4\n', false],
      ['passwd: files sss\nhosts:\tfiles sss dns\n', true],
    ];
    for (const [text, more] of steps) {
      if (text !== undefined) writeFileSync(nsswitch, text);
      r.skipMs += 50;
      asked = 0;
      const began = performance.now();
      t.equal(rcode(await r.ask(A)), 2, text ?? 'none');
      const ms = performance.now() - began;
      t.equal(asked, more ? 1 : 0, text ?? 'none');
      t.equal(upstreams.fallback.host, more ? HostUse.Last : HostUse.Alone);
      t.ok(more ? ms > 400 && ms < 1000 : ms < 400, `${ms} ms`);
    }
    // It never said a word, and its question is over.
    t.equal(r.service.responder.resolver.inFlight, 0);
    const own = rig(t, { resolvConf, nsswitchPath: '' });
    own.service.upstream.lookupHost = () => t.fail('a file of the operator’s own is the whole truth');
    t.equal(rcode(await own.ask(A)), 2);
  },
);

t.test('scutil is run with a bound on time and output, and its failure is told', async (t) => {
  const dir = t.testdir();
  const script = (name: string, text: string) => {
    writeFileSync(join(dir, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    return join(dir, name);
  };
  t.equal(await scutilDns(script('ok', 'echo "$@"')), '--dns\n');
  await t.rejects(scutilDns(script('fails', 'exit 3')));
  await t.rejects(
    scutilDns(script('talks', 'while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done')),
  );
  await t.rejects(scutilDns(script('hangs', 'exec sleep 60')));
  await t.rejects(scutilDns(join(dir, 'missing')));
  const r = rig(t, { scoped: { folder: '', configuration: () => scutilDns(join(dir, 'missing')) } });
  await until(() => r.events.includes('dns.scutil.failed'));
});
