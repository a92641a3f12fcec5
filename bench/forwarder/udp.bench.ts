// What a datagram and a new flow cost: our own part with the kernel taken out, then with it. The last part relays between an in-process
// guest and another process, as the daemon does, so its own figure holds the socket calls; the other process's cost caps the rate.
//
//   npm run bench -- forwarder/udp

import { fork } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseMac } from '../../src/ethernet/mac.ts';
import { AddressTexts } from '../../src/forwarder/address-texts.ts';
import { Destinations } from '../../src/forwarder/destination.ts';
import { SendArena } from '../../src/forwarder/send-arena.ts';
import { UdpForwarder } from '../../src/forwarder/udp-forwarder.ts';
import { HostRandom } from '../../src/host/host-random.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';
import { dgramUdp } from '../../src/host/udp-dgram.ts';
import { SENT, type UdpHandleOwner, type UdpHandles } from '../../src/host/udp-handle.ts';
import { udpHandles } from '../../src/host/udp-handles.ts';
import { nativeUdp, READ_BYTES } from '../../src/host/udp-native.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';
import { emitIpv4Header, PROTO_UDP } from '../../src/ip/ipv4.ts';
import type { DatagramMeta, Egress, LinkPort } from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { type BenchCase, runSuite } from '../suite.ts';

const GATEWAY = parseAddress('192.168.65.1')!;
const ALIAS = parseAddress('192.168.65.254')!;
const GUEST = parseAddress('192.168.65.3')!;
const NETWORK = Cidr4.parse('192.168.65.0/24')!;
const MAC = parseMac('f6:16:36:bc:f9:c6')!;
const GUEST_MAC = parseMac('52:54:00:00:00:01')!;
const GUEST_PORT = 40_000;
const BATCH_BYTES = 256 * 1024;
const PER_RUN = 32;

/** Sockets whose kernel takes everything and brings nothing but what the benchmark hands to their owners. */
class NullHandles implements UdpHandles {
  readonly owners: UdpHandleOwner[] = [];
  sent = 0;

  create(owner: UdpHandleOwner) {
    this.owners.push(owner);
    const send = (): number => {
      this.sent++;
      return SENT;
    };
    return { bind: () => '', connect: () => '', send, sendTo: send, port: 40_000, address: '', close: () => {} };
  }

  inherit(): string {
    return 'ENOTSUP';
  }
}

/** A link that counts what is written to it. */
class CountingEgress implements Egress {
  frames = 0;
  bytes = 0;
  readonly #base: number;
  #fill = 0;

  constructor(base: number) {
    this.#base = base;
  }

  reserve(len: number): number {
    if (this.#fill + len > BATCH_BYTES) this.flush();
    return this.#base + this.#fill;
  }

  commit(_off: number, len: number): void {
    this.frames++;
    this.bytes += len;
    this.#fill += len;
  }

  flush(): void {
    this.#fill = 0;
  }

  close(): void {}
}

/** Stack and forwarder as the daemon wires them, with one guest of which frames lie ready. */
class Rig {
  readonly egress: CountingEgress;
  readonly mem: Uint8Array;
  readonly udp: UdpForwarder;
  readonly port: LinkPort;
  readonly stack: Stack;
  readonly frame: number;
  frameBytes = 0;
  onTurnWanted: () => void = () => {};
  now = 1;

  constructor(make: (memory: { buf: Uint8Array; off: number }) => UdpHandles, maxFlows = 1024) {
    const { slab, mem, kernel } = createPacketMemory(16 * 1024 * 1024);
    this.mem = mem;
    const handles = make({ buf: mem, off: slab.alloc(READ_BYTES) });
    const destinations = new Destinations({ network: NETWORK, gateway: GATEWAY, hostAlias: ALIAS });
    this.udp = new UdpForwarder({
      destinations,
      sender: {
        sendDatagram: (src, srcPort, dst, dstPort, buf, off, len, now) =>
          this.stack.udp.sendDatagram(src, srcPort, dst, dstPort, buf, off, len, now),
        sendUnreachable: () => {},
      },
      clock: { now: () => this.now },
      onDeadlineChanged: () => {},
      sockets: { handles, arena: new SendArena({ slab }), texts: new AddressTexts() },
      maxFlows,
    });
    const tcp = { ...DEFAULT_TCP_LIMITS };
    this.stack = new Stack(
      { network: NETWORK, gateway: GATEWAY.v4, hostAlias: ALIAS.v4, mac: MAC, tcp, kernel },
      slab,
      new HostRandom(),
      { onSyn: () => {} },
      this.udp,
      {
        onTurnWanted: () => this.onTurnWanted(),
        onTurnEnd: () => {},
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => {
          throw error;
        },
      },
    );
    this.egress = new CountingEgress(slab.alloc(BATCH_BYTES));
    this.port = this.stack.attach(this.egress, { name: 'bench', mtu: 1500, mtuTold: false }, this.now);
    this.frame = slab.alloc(4096);
  }

  /** Writes the guest's frame. */
  aim(dst: IpAddress, dstPort: number, payload: number, srcPort = GUEST_PORT): void {
    const { mem, frame } = this;
    mem.set(MAC, frame);
    mem.set(GUEST_MAC, frame + 6);
    mem.set([8, 0], frame + 12);
    const length = 8 + payload;
    emitIpv4Header(mem, frame + 14, 20 + length, 0, 0x4000, 64, PROTO_UDP, GUEST.v4, dst.v4);
    // Without a checksum, which is allowed: what a bad one costs is measured elsewhere.
    mem.set([srcPort >> 8, srcPort & 255, dstPort >> 8, dstPort & 255, length >> 8, length & 255, 0, 0], frame + 34);
    this.frameBytes = 34 + length;
  }

  send(n: number): number {
    for (let i = 0; i < n; i++) this.port.input(this.mem, this.frame, this.frameBytes, this.now);
    this.port.endTurn(this.now);
    return this.udp.stats.datagramsToHost;
  }
}

const cases: BenchCase[] = [];

for (const payload of [64, 1400]) {
  const null_ = new NullHandles();
  const rig = new Rig(() => null_);
  rig.aim(ALIAS, 9, payload);
  cases.push({
    name: `guest to host: frame to send, ${payload} B`,
    perRun: PER_RUN,
    check: () => {
      rig.send(PER_RUN);
      return null_.sent === PER_RUN && rig.udp.stats.bytesToHost === PER_RUN * payload ? undefined : 'not sent';
    },
    run: () => rig.send(PER_RUN),
  });
  const reply = (foreign?: Uint8Array): number => {
    const owner = null_.owners[1]!;
    for (let i = 0; i < PER_RUN; i++) {
      if (foreign === undefined) owner.onDatagram(rig.mem, rig.frame + 42, payload, '', 0);
      else owner.onDatagram(foreign, 0, payload, '127.0.0.1', 9);
    }
    rig.port.endTurn(rig.now);
    return rig.egress.frames;
  };
  const buf = new Uint8Array(payload).fill(7);
  for (const [what, foreign] of [
    ['drained', undefined],
    ['told', buf],
  ] as const) {
    cases.push({
      name: `host to guest: ${what} to batch, ${payload} B`,
      perRun: PER_RUN,
      check: () => {
        const { frames, bytes } = rig.egress;
        reply(foreign);
        return rig.egress.frames - frames === PER_RUN && rig.egress.bytes - bytes === PER_RUN * (42 + payload)
          ? undefined
          : 'not in the batch';
      },
      run: () => reply(foreign),
    });
  }
}

{
  const null_ = new NullHandles();
  const rig = new Rig(() => null_);
  rig.aim(ALIAS, 9, 64);
  rig.send(1);
  const big = new Uint8Array(32_000).fill(3);
  const run = (): number => {
    null_.owners[1]!.onDatagram(big, 0, big.length, '', 0);
    rig.port.endTurn(rig.now);
    return rig.egress.frames;
  };
  cases.push({
    name: 'host to guest: 32,000 B in fragments of 1,500',
    perRun: 1,
    check: () => {
      const { frames } = rig.egress;
      return run() - frames === 22 ? undefined : 'not 22 fragments';
    },
    run,
  });
}

{
  const texts = new AddressTexts();
  const names = Array.from({ length: 16 }, (_, i) => `198.51.100.${i * 7}`);
  const run = (): number => {
    let sum = 0;
    for (const name of names) sum += texts.addressOf(name)!.v4;
    return sum;
  };
  cases.push({
    name: 'address of a text, 16 remotes in turn',
    perRun: 16,
    check: () => (names.every((n) => texts.addressOf(n)?.toString() === n) ? undefined : 'another address'),
    run,
  });
}

for (const [what, make] of [
  ['handle', nativeUdp],
  ['dgram', dgramUdp],
] as const) {
  const handles = make();
  if (handles === undefined) continue;
  const rig = new Rig(() => handles, 64);
  const meta: DatagramMeta = {
    vm: rig.port,
    macBuf: GUEST_MAC,
    macOff: 0,
    src: GUEST,
    srcPort: 0,
    dst: ALIAS,
    dstPort: 9,
  };
  let next = 0;
  const run = (): number => {
    meta.srcPort = 20_000 + (next++ % 30_000);
    rig.udp.onDatagram(meta, rig.mem, rig.frame, 64, rig.now);
    return rig.udp.stats.flowsOpened;
  };
  cases.push({
    name: `a new flow and the end of an old one, ${what}`,
    perRun: 1,
    check: () => {
      for (let i = 0; i < 100; i++) run();
      const { flowsOpened, flowsFailed, datagramsToHost } = rig.udp.stats;
      return flowsOpened === 100 && flowsFailed === 0 && datagramsToHost === 100 && rig.udp.size === 64
        ? undefined
        : 'flows failed';
    },
    run,
  });
}

/** The other process: answers each datagram with itself. */
async function echo(): Promise<void> {
  const socket = createSocket('udp4');
  const answer = (msg: Uint8Array, from: { port: number; address: string }): void =>
    socket.send(msg, from.port, from.address);
  socket.on('message', answer);
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  process.send!(socket.address().port);
}

/** Exchanges with `window` in flight, relayed by real sockets. */
async function exchange(what: string, handles: UdpHandles | undefined, window: number, ms: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['echo'], { execArgv: [] });
  const [port] = (await once(child, 'message')) as [number];
  const rig = new Rig((memory) => handles ?? udpHandles(memory));
  rig.aim(ALIAS, port, 64);
  let seen = 0;
  rig.now = performance.now();
  const until = rig.now + ms;
  const before = process.cpuUsage();
  await new Promise<void>((resolve) => {
    const turn = (): void => {
      const got = rig.egress.frames - seen;
      seen += got;
      rig.port.endTurn(rig.now);
      rig.now = performance.now();
      if (rig.now < until) rig.send(got);
    };
    setTimeout(resolve, ms + 100);
    rig.onTurnWanted = () => setImmediate(turn);
    rig.send(window);
  });
  const used = process.cpuUsage(before);
  child.kill();
  rig.udp.close();
  const { datagramsToHost } = rig.udp.stats;
  if (seen < window || seen !== datagramsToHost) throw new Error(`${datagramsToHost} sent, ${seen} answered`);
  const us = (used.user + used.system) / seen;
  const name = `exchange by ${what}, ${window} in flight`;
  console.log(`  ${name.padEnd(44)} ${(us * 1000).toFixed(1).padStart(10)} ns  ${Math.round(seen / (ms / 1000))}/s`);
}

if (process.argv[2] === 'echo') await echo();
else {
  runSuite('udp', cases);
  for (const window of [1, 32]) {
    await exchange('handle', undefined, window, 1500);
    await exchange('dgram', dgramUdp(), window, 1500);
  }
}
