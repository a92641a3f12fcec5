// The steps that show a guest's network working, one concern each. The demo prints them, the end-to-end tests assert them.
// A step throws when what the guest saw is not what it should see.

import { execFile } from 'node:child_process';
import { get } from 'node:http';
import { promisify } from 'node:util';
import type { GuestDriver, GuestLease } from './guest-driver.ts';
import { type HostServices, OTHER_ADDRESS, UPSTREAM_ADDRESS, UPSTREAM_NAME, UPSTREAM_TEXT } from './host-services.ts';

/** What the steps share. */
export interface StepContext {
  readonly guest: GuestDriver;
  readonly services: HostServices;
  /** The address that `--lease` fixed. */
  readonly guestAddress: string;
  /** The MTU that the daemon was told. */
  readonly mtu: number;
  readonly gateway: string;
  readonly hostAlias: string;
  /** Host port published to port 8080 of the guest. */
  readonly publishedPort: number;
  /** Bytes of the transfers. */
  readonly transferBytes: number;
  /** Set by the first step. */
  lease: GuestLease | undefined;
}

/** What a step tells people; `mbitPerS` where it moved bulk data. */
export interface StepReport {
  readonly detail: string;
  readonly mbitPerS?: number;
}

/** One step. */
export interface Step {
  readonly name: string;
  run(context: StepContext): Promise<StepReport>;
}

function expect(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

function same(actual: unknown, wanted: unknown, what: string): void {
  expect(actual === wanted, `${what}: ${String(actual)} instead of ${String(wanted)}`);
}

function ms(value: number): string {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

function mbit(bytes: number, milliseconds: number): number {
  return (bytes * 8) / 1000 / milliseconds;
}

/** The names of the host and of the gateway that every guest can resolve. */
const HOST_NAMES = [
  'host.isthmus.internal',
  'host.docker.internal',
  'docker.for.mac.host.internal',
  'docker.for.mac.localhost',
  'docker.for.win.host.internal',
  'docker.for.win.localhost',
  'host.containers.internal',
  'host.lima.internal',
];
const GATEWAY_NAMES = ['gateway.isthmus.internal', 'gateway.docker.internal', 'gateway.containers.internal'];

const PAGE = 'served by the guest\n';
const REFUSED_LIMIT_MS = 50;
/** From a change of resolv.conf to the first right answer. */
const FOLLOW_LIMIT_MS = 1000;
/** NTP's fraction and our two clock readings differ by the time of one exchange, which TCG makes long. */
const NTP_LIMIT_MS = 1000;

async function curl(url: string): Promise<{ body: string; by: string }> {
  try {
    const { stdout } = await promisify(execFile)('curl', ['-sS', '-m', '10', '--noproxy', '*', url]);
    return { body: stdout, by: 'curl' };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const body = await new Promise<string>((resolve, reject) => {
    const asked = get(url, { timeout: 10_000 }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    });
    asked.on('error', reject);
  });
  return { body, by: 'node (no curl here)' };
}

/** All steps, in order; later ones need the first. */
export const STEPS: readonly Step[] = [
  {
    name: 'DHCP lease',
    async run(context) {
      const lease = await context.guest.lease();
      context.lease = lease;
      same(lease.address, context.guestAddress, 'address');
      same(lease.router, context.gateway, 'router');
      same(lease.dns[0], context.gateway, 'DNS server');
      same(lease.ntp[0], context.gateway, 'NTP server');
      same(lease.mtu, context.mtu, 'MTU (option 26)');
      return {
        detail: `${lease.address}/${lease.prefix}, router ${lease.router}, MTU ${lease.mtu}, ${lease.leaseSeconds} s`,
      };
    },
  },
  {
    name: 'ping the gateway',
    async run({ guest, gateway, hostAlias }) {
      const small = await guest.ping(gateway, 56);
      const large = await guest.ping(gateway, 8000);
      const alias = await guest.ping(hostAlias, 56);
      return { detail: `56 B ${ms(small)}, 8,000 B ${ms(large)}, host alias ${ms(alias)}` };
    },
  },
  {
    name: 'DNS: built-in names',
    async run({ guest, gateway, hostAlias }) {
      const ask = async (name: string, wanted: string): Promise<void> => {
        const found = await guest.resolve({ name, type: 'A', transport: 'udp', server: gateway });
        same(found.join(), wanted, name);
      };
      for (const name of HOST_NAMES) await ask(name, hostAlias);
      for (const name of GATEWAY_NAMES) await ask(name, gateway);
      return { detail: `${HOST_NAMES.length} names are ${hostAlias}, ${GATEWAY_NAMES.length} are ${gateway}` };
    },
  },
  {
    name: 'DNS: forwarded, UDP',
    async run({ guest, gateway }) {
      const found = await guest.resolve({ name: UPSTREAM_NAME, type: 'A', transport: 'udp', server: gateway });
      same(found.join(), UPSTREAM_ADDRESS, UPSTREAM_NAME);
      return { detail: `${UPSTREAM_NAME} is ${found[0]}` };
    },
  },
  {
    name: 'DNS: forwarded, TCP',
    async run({ guest, gateway }) {
      const small = await guest.resolve({ name: UPSTREAM_NAME, type: 'A', transport: 'tcp', server: gateway });
      same(small.join(), UPSTREAM_ADDRESS, UPSTREAM_NAME);
      const large = await guest.resolve({ name: UPSTREAM_NAME, type: 'TXT', transport: 'tcp', server: gateway });
      same(large.join(''), UPSTREAM_TEXT, 'the TXT record');
      return { detail: `A, and a TXT record of ${UPSTREAM_TEXT.length} bytes that UDP truncates` };
    },
  },
  {
    name: 'DNS: resolv.conf changes',
    async run({ guest, services, gateway }) {
      const query = { name: UPSTREAM_NAME, type: 'A', transport: 'udp', server: gateway } as const;
      /** The answer before may be kept for a minute, so the new one is the new server's. */
      const follow = async (port: number, wanted: string): Promise<number> => {
        services.useDns(port);
        const changed = performance.now();
        let found = '';
        while (found !== wanted && performance.now() - changed < FOLLOW_LIMIT_MS) {
          found = (await guest.resolve(query)).join();
        }
        same(found, wanted, UPSTREAM_NAME);
        return performance.now() - changed;
      };
      const there = await follow(services.otherDnsPort, OTHER_ADDRESS);
      const back = await follow(services.dnsPort, UPSTREAM_ADDRESS);
      return { detail: `another server is asked after ${ms(there)}, the first again after ${ms(back)}` };
    },
  },
  {
    name: 'NTP',
    async run({ guest, gateway }) {
      const before = Date.now();
      const { serverMs, stratum } = await guest.ntp(gateway);
      const off = Math.min(Math.abs(serverMs - before), Math.abs(serverMs - Date.now()));
      expect(off < NTP_LIMIT_MS || (serverMs > before && serverMs < Date.now()), `the time is off by ${ms(off)}`);
      expect(stratum > 0 && stratum < 16, `stratum ${stratum}`);
      return { detail: `${new Date(serverMs).toISOString()}, stratum ${stratum}` };
    },
  },
  {
    name: 'HTTP download',
    async run({ guest, services, hostAlias, transferBytes }) {
      const wanted = services.downloadHash(transferBytes);
      const url = `http://${hostAlias}:${services.httpPort}/download?bytes=${transferBytes}`;
      const got = await guest.download(url);
      same(got.bytes, transferBytes, 'bytes');
      same(got.sha256, wanted, 'SHA-256');
      return { detail: `${transferBytes >> 20} MiB, SHA-256 right`, mbitPerS: mbit(got.bytes, got.ms) };
    },
  },
  {
    name: 'HTTP upload',
    async run({ guest, services, hostAlias, transferBytes }) {
      const sent = await guest.upload(`http://${hostAlias}:${services.httpPort}/upload`, transferBytes);
      same(sent.bytes, transferBytes, 'bytes');
      same(sent.answer, `${sent.sha256} ${transferBytes}`, "the host's hash and count");
      return { detail: `${transferBytes >> 20} MiB, SHA-256 right`, mbitPerS: mbit(sent.bytes, sent.ms) };
    },
  },
  {
    name: 'UDP echo',
    async run({ guest, services, hostAlias }) {
      const short = 'hello, host';
      same(await guest.udpExchange(hostAlias, services.udpPort, short), short, 'the answer');
      const long = 'isthmus '.repeat(170);
      same(await guest.udpExchange(hostAlias, services.udpPort, long), long, 'the long answer');
      return { detail: `${short.length} and ${long.length} bytes came back` };
    },
  },
  {
    name: 'TCP half-close',
    async run({ guest, services, hostAlias }) {
      const text = 'all of it, then FIN\n';
      const answer = await guest.sendThenRead(hostAlias, services.halfClosePort, text);
      same(answer.split(' ')[0], String(text.length), "the host's count after FIN");
      return { detail: `the host answered after the guest's FIN (${text.length} bytes)` };
    },
  },
  {
    name: 'TCP refused port',
    async run({ guest, services, hostAlias }) {
      // The first attempt pays for what the guest loads once; the limit is the network's.
      const attempts = [];
      for (let i = 0; i < 3; i++) attempts.push(await guest.connectRefused(hostAlias, services.refusedPort));
      expect(
        attempts.every((attempt) => attempt.refused),
        'the connection was not refused',
      );
      const best = Math.min(...attempts.map((attempt) => attempt.ms));
      expect(best < REFUSED_LIMIT_MS, `refused only after ${ms(best)}`);
      return { detail: `refused in ${ms(best)}, as seen in the guest` };
    },
  },
  {
    name: 'published port',
    async run({ guest, publishedPort }) {
      await guest.serveHttp(8080, PAGE);
      const { body, by } = await curl(`http://127.0.0.1:${publishedPort}/`);
      same(body, PAGE, 'the page');
      return { detail: `${by} on the host read the page of the guest's web server` };
    },
  },
];
