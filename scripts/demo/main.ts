// The demo: starts the daemon as an ordinary user, boots a guest whose only network is the daemon, and shows step by step that
// everything works. Exit status 0 only when every step passed. `--shell` leaves the user in the VM instead.

import { copyFileSync, existsSync, mkdtempSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DaemonProcess } from '../daemon/daemon-process.ts';
import type { Machine } from '../vm/machine.ts';
import { chooseGuest } from './choose-guest.ts';
import type { GuestDriver } from './guest-driver.ts';
import { startHostServices } from './host-services.ts';
import { type Outcome, printNote, printOutcome, printSummary } from './report.ts';
import { shellInto } from './shell.ts';
import { STEPS, type StepContext } from './steps.ts';

const USAGE = `Usage: npm run demo -- [--shell] [--guest vm|embedded] [--mtu N] [--size MIB] [--pcap FILE]

Boots a VM whose only network card is a socket held by isthmus, and shows that its network works.

  --shell      leave me in a shell of the VM
  --guest      the kind of guest (default: the VM, or the embedded one where QEMU cannot be had)
  --mtu N      MTU of the VM's link (default 65520)
  --size MIB   size of the transfers (default 64)
  --pcap FILE  write every frame to a pcapng file`;

const MAC = '52:54:00:1d:e3:01';
const GUEST_ADDRESS = '192.168.65.10';

function options() {
  const { values } = parseArgs({
    options: {
      shell: { type: 'boolean', default: false },
      guest: { type: 'string' },
      mtu: { type: 'string', default: '65520' },
      size: { type: 'string', default: '64' },
      pcap: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const { guest } = values;
  if (guest !== undefined && guest !== 'vm' && guest !== 'embedded')
    throw new Error(`--guest: ${guest} is not vm or embedded`);
  return {
    ...values,
    guest: guest as 'vm' | 'embedded' | undefined,
    mtu: Number(values.mtu),
    size: Number(values.size),
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function runSteps(context: StepContext): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const step of STEPS) {
    const started = performance.now();
    const report = await step.run(context).then(
      (done) => ({ ok: true, ...done }),
      (error: Error) => ({ ok: false, detail: error.message, mbitPerS: undefined }),
    );
    const outcome: Outcome = { name: step.name, ms: performance.now() - started, ...report };
    outcomes.push(outcome);
    printOutcome(outcome);
  }
  return outcomes;
}

async function main(): Promise<number> {
  const { shell, guest: wanted, mtu, size, pcap, help } = options();
  if (help) {
    console.log(USAGE);
    return 0;
  }
  const started = performance.now();
  const services = await startHostServices();
  const publishedPort = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-demo-'));
  const capture = join(folder, 'demo.pcapng');
  let daemon: DaemonProcess | undefined;
  let guest: GuestDriver | undefined;
  let machine: Machine | undefined;
  const cleanUp = async (): Promise<void> => {
    await guest?.close();
    await daemon?.stop();
    // The daemon's user may not write where the caller may, so the file is made in its own folder first.
    if (pcap !== undefined && existsSync(capture)) copyFileSync(capture, pcap);
    daemon?.clean();
    await services.close();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      void cleanUp().finally(() => process.exit(1));
    });
  }
  try {
    const choice = await chooseGuest(shell ? 'vm' : wanted);
    if (choice.whyNotVm !== undefined) printNote('guest', `embedded, not a VM: ${choice.whyNotVm}`);
    daemon = await DaemonProcess.start({
      folder,
      args: [
        ...['--mtu', String(mtu), '--resolv-conf', services.resolvConf, '--lease', `${MAC}=${GUEST_ADDRESS}`],
        ...['--publish', `127.0.0.1:${publishedPort}:${GUEST_ADDRESS}:8080`],
        ...(pcap === undefined ? [] : ['--pcap', capture]),
      ],
    });
    const { uids } = daemon.identity();
    printNote('daemon', `pid ${daemon.pid}, user id ${uids[1]}, ready in ${daemon.readyMs.toFixed(0)} ms`);
    ({ guest, machine } = await choice.start(daemon.vmSocket, MAC));
    printNote(
      'guest',
      `${guest.description}${machine === undefined ? '' : `, up in ${(machine.bootMs / 1000).toFixed(1)} s`}`,
    );
    const context: StepContext = {
      guest,
      services,
      mtu,
      publishedPort,
      guestAddress: GUEST_ADDRESS,
      gateway: '192.168.65.1',
      hostAlias: '192.168.65.254',
      transferBytes: size * 2 ** 20,
      lease: undefined,
    };
    if (shell) {
      await guest.lease();
      await shellInto(machine!);
      return 0;
    }
    const outcomes = await runSteps(context);
    const facts: [string, string][] = [
      ['guest', guest.description],
      ['memory of the daemon', `${(daemon.peakRssBytes() / 2 ** 20).toFixed(0)} MiB at most`],
      ['CPU of the daemon', `${daemon.cpuSeconds().toFixed(1)} s`],
      ['time altogether', `${((performance.now() - started) / 1000).toFixed(0)} s`],
    ];
    if (choice.whyNotVm !== undefined) facts.push(['why no VM', choice.whyNotVm]);
    printSummary(outcomes, facts);
    const failed = outcomes.some((outcome) => !outcome.ok);
    if (failed && daemon.log !== '') console.log(`\nWhat the daemon said last:\n${daemon.log.slice(-3000)}`);
    return failed ? 1 : 0;
  } finally {
    await cleanUp();
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`demo: ${(error as Error).message}`);
  process.exitCode = 1;
}
