// A laptop on the move, made of network namespaces: `host`, in which the daemon runs, has an uplink to `home` (or a cafe) and, while the
// VPN is up, a tunnel to `corp`; a real Linux guest is behind the daemon. `lab-plan.ts` has the map. The daemon sees an /etc of the
// laboratory's own (and a /run), so that a test changes resolv.conf as a VPN client does. Owns all of it; needs root (see `requirements.ts`).

import { type ChildProcess, execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import { daemonEntry } from '../../scripts/project.ts';
import { Agent } from './agent.ts';
import type { DnsOutcome, Operations } from './lab-agent.ts';
import * as plan from './lab-plan.ts';
import { Namespace } from './namespace.ts';
import { GATEWAY, GUEST } from './namespace-guest.ts';

export type LabAgent = Agent<Operations>;

export interface LaboratoryOptions {
  /** Of the daemon, after those that the laboratory needs. */
  readonly args?: readonly string[];
  /** What resolv.conf says at the start. Default: the home router's server. */
  readonly resolvConf?: string;
  /** `user:password` that the company's proxy wants. Default none. */
  readonly proxyCredentials?: string;
}

/** What becomes of the company's addresses while the VPN is down. */
export type WithoutVpn =
  /** They go to the router, who says that there is no such network. */
  | 'routed'
  /** The host has a route of this kind in the VPN's place, as clients that must leak nothing leave behind. */
  | 'unreachable'
  | 'prohibit'
  | 'blackhole';

const DAEMON_LIMIT_MS = 20_000;

/** nameserver lines. */
export function nameservers(...addresses: string[]): string {
  return addresses.map((address) => `nameserver ${address}\n`).join('');
}

export class Laboratory {
  readonly #hostNs: Namespace;
  readonly #homeNs: Namespace;
  readonly #corpNs: Namespace;
  readonly #guestNs: Namespace;
  readonly #folder: string;
  #daemon: ChildProcess | undefined;
  #log = '';
  #vpnAddress = '';
  #without: WithoutVpn = 'routed';
  /** Servers of both routers and of the internet; of the company; the guest. */
  readonly home: LabAgent;
  readonly corp: LabAgent;
  /** Programs on the host beside the daemon. */
  readonly host: LabAgent;
  readonly guest: LabAgent;

  private constructor(test: Test) {
    this.#folder = mkdtempSync(join(tmpdir(), 'isthmus-lab-'));
    test.teardown(() => rmSync(this.#folder, { recursive: true, force: true }));
    [this.#hostNs, this.#homeNs, this.#corpNs, this.#guestNs] = [0, 1, 2, 3].map(() => Namespace.create(test)) as [
      Namespace,
      Namespace,
      Namespace,
      Namespace,
    ];
    const program = new URL('./lab-agent.js', import.meta.url);
    this.home = new Agent(this.#homeNs, program);
    this.corp = new Agent(this.#corpNs, program);
    this.host = new Agent(this.#hostNs, program);
    this.guest = new Agent(this.#guestNs, program);
  }

  /** Builds it, at home and with the VPN down, and plugs a guest in. It ends with the test. */
  static async start(test: Test, options: LaboratoryOptions = {}): Promise<Laboratory> {
    const lab = new Laboratory(test);
    lab.#makeEtc('host', options.resolvConf ?? nameservers(plan.HOME_DNS));
    lab.#makeEtc('guest', nameservers(GATEWAY));
    mkdirSync(lab.run);
    lab.#wire();
    await Promise.all([lab.home.ready, lab.corp.ready, lab.host.ready, lab.guest.ready]);
    await lab.#startServers(options.proxyCredentials ?? '');
    await lab.#startDaemon(options.args ?? []);
    await lab.#guestNs.plug({ socket: join(lab.#folder, 'vm.sock'), mtu: 1500 });
    lab.#guestNs.address(`${GUEST}/24`, GATEWAY);
    return lab;
  }

  // ---- the host's files

  /** The host's /etc, as a path of this process. */
  get etc(): string {
    return join(this.#folder, 'host');
  }

  /** The host's /run, likewise. */
  get run(): string {
    return join(this.#folder, 'run');
  }

  get resolvConf(): string {
    return join(this.etc, 'resolv.conf');
  }

  /** Replaces resolv.conf as resolvconf(8) and NetworkManager do: another file takes its name. */
  replaceResolvConf(text: string): void {
    const next = join(this.etc, 'resolv.conf.next');
    writeFileSync(next, text);
    renameSync(next, this.resolvConf);
  }

  // ---- the host's network

  /** The uplink joins a network with this address of the host; whatever it had is gone. */
  join(uplink: plan.Uplink, address: string = uplink.host): void {
    const name = this.#hostNs.name;
    this.leave();
    batch(name, `address add ${address}/24 dev home0`, 'link set home0 up', `route add default via ${uplink.router}`);
  }

  /** Out of reach of any network: the uplink has neither carrier nor address. */
  leave(): void {
    batch(this.#hostNs.name, 'link set home0 down', 'address flush dev home0');
  }

  /** The tunnel comes up with this address of the host. */
  vpnUp(address: string = plan.VPN_HOST): void {
    if (this.#without !== 'routed') batch(this.#hostNs.name, `route del ${this.#without} ${plan.CORP_NETWORK}`);
    this.#without = 'routed';
    this.#vpnAddress = address;
    batch(this.#hostNs.name, `link add vpn0 type veth peer name vpn0 netns ${this.#corpNs.name}`);
    batch(this.#corpNs.name, `address add ${plan.VPN_PEER}/24 dev vpn0`, 'link set vpn0 up');
    batch(
      this.#hostNs.name,
      `address add ${address}/24 dev vpn0`,
      'link set vpn0 up',
      `route add ${plan.CORP_NETWORK} via ${plan.VPN_PEER}`,
    );
  }

  /** The tunnel's device goes away, with its address and routes. */
  vpnDown(without: WithoutVpn = 'routed'): void {
    batch(this.#hostNs.name, 'link del vpn0');
    this.#vpnAddress = '';
    this.#without = without;
    if (without !== 'routed') batch(this.#hostNs.name, `route add ${without} ${plan.CORP_NETWORK}`);
  }

  /** The host's address in the VPN; '' while it is down. */
  get vpnAddress(): string {
    return this.#vpnAddress;
  }

  // ---- what the guest sees

  /** One question to the gateway. */
  ask(name: string, type: 'A' | 'AAAA' = 'A'): Promise<DnsOutcome> {
    return this.guest.call('ask', GATEWAY, name, type);
  }

  /** The addresses that the guest's own libc finds, sorted, and how long it took. */
  async libc(name: string): Promise<{ readonly found: string; readonly ms: number }> {
    const script = 'mount --bind "$0" /etc && exec getent ahostsv4 "$1"';
    const started = performance.now();
    const { stdout, stderr } = await this.#guestNs.exec('sh', ['-c', script, join(this.#folder, 'guest'), name]);
    if (stderr !== '') throw new Error(stderr);
    const found = [...new Set(stdout.split('\n').map((line) => line.split(/\s+/)[0]!))].filter((a) => a !== '');
    return { found: found.sort().join(' '), ms: performance.now() - started };
  }

  /** ICMP destination unreachable messages that the guest's kernel has had. */
  async unreachables(): Promise<number> {
    return (await this.#guestNs.counters()).get('Icmp.InDestUnreachs')!;
  }

  // ---- the daemon

  /** What it has logged so far. */
  get log(): string {
    return this.#log;
  }

  /** Sends it a signal. */
  kill(signal: NodeJS.Signals): void {
    this.#daemon?.kill(signal);
  }

  get running(): boolean {
    return this.#daemon?.exitCode === null && this.#daemon.signalCode === null;
  }

  // ---- building

  #makeEtc(name: string, resolvConf: string): void {
    const etc = join(this.#folder, name);
    mkdirSync(etc);
    for (const file of ['passwd', 'group', 'protocols', 'services', 'ld.so.cache', 'localtime']) {
      if (existsSync(`/etc/${file}`)) copyFileSync(`/etc/${file}`, join(etc, file));
    }
    writeFileSync(join(etc, 'nsswitch.conf'), 'passwd: files\ngroup: files\nhosts: files dns\n');
    writeFileSync(join(etc, 'hosts'), '127.0.0.1 localhost\n');
    writeFileSync(join(etc, 'resolv.conf'), resolvConf);
  }

  #wire(): void {
    const [host, home, corp] = [this.#hostNs.name, this.#homeNs.name, this.#corpNs.name];
    batch(host, `link add home0 type veth peer name home0 netns ${home}`);
    batch(
      home,
      ...[plan.HOME.router, plan.HOME_DNS_2, plan.CAFE.router].map((a) => `address add ${a}/24 dev home0`),
      'link set home0 up',
      `address add ${plan.INTERNET}/32 dev lo`,
    );
    batch(corp, ...[plan.CORP_DNS, plan.INTRANET, plan.PROXY].map((a) => `address add ${a}/32 dev lo`));
    // The router tells everybody, and each time, what it has no route for.
    this.#homeNs.sysctl('net.ipv4.ip_forward', '1');
    this.#homeNs.sysctl('net.ipv4.icmp_ratelimit', '0');
    this.join(plan.HOME);
  }

  async #startServers(credentials: string): Promise<void> {
    const { home, corp } = this;
    await Promise.all([
      ...[plan.HOME_DNS, plan.HOME_DNS_2, plan.CAFE_DNS].map((a) => home.call('serveDns', a, plan.ZONES[a]!)),
      home.call('serveHost', plan.INTERNET, 'internet'),
      corp.call('serveDns', plan.CORP_DNS, plan.ZONES[plan.CORP_DNS]!),
      corp.call('serveHost', plan.INTRANET, 'intranet'),
      corp.call('serveProxy', plan.PROXY, { [plan.CORP_NAME]: plan.INTRANET }, credentials),
    ]);
  }

  async #startDaemon(more: readonly string[]): Promise<void> {
    const own = [
      ...['run', '--vm', `qemu:${join(this.#folder, 'vm.sock')}`, '--state-dir', join(this.#folder, 'state')],
      ...['--strict', ...more],
    ];
    const script = 'mount --bind "$0/host" /etc && mount --bind "$0/run" /run && exec env "$@"';
    const args = ['-c', script, this.#folder, ...WITHOUT_HOOKS, process.execPath, daemonEntry(), ...own];
    const child = this.#hostNs.spawn('sh', args);
    this.#daemon = child;
    child.stderr!.on('data', (chunk: Buffer) => {
      this.#log = (this.#log + chunk.toString()).slice(-256 * 1024);
    });
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => reject(new Error(`${why}: ${this.#log}`));
      const timer = setTimeout(() => fail('the daemon is not ready'), DAEMON_LIMIT_MS);
      child.once('exit', (code) => fail(`the daemon ended with ${code}`));
      createInterface({ input: child.stdout! }).once('line', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

/** Several commands of ip(8) in one namespace. */
function batch(namespace: string, ...commands: string[]): void {
  execFileSync('ip', ['-n', namespace, '-batch', '-'], {
    input: `${commands.join('\n')}\n`,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
}
