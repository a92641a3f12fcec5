// Throughput of one link without a stack behind it: what framing, batches and system calls cost by themselves.
// The VM is another process with plain Node sockets, so its own cost caps the figures; compare revisions, not products.
//
//   node .build/bench/link/link.bench.js [seconds for each case]
//
// Node 20.20, 2-core AMD EPYC VM with other work on it: guest to host 39 Gbit/s at 1,514 bytes (3.2 M frames/s) and 42 at 65,534;
// host to guest 38 and 41, at 0.10 to 0.23 CPU seconds for each GB. Two batches in flight do as well as three.

import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HostClock, HostTimers } from '../../src/host/host-clock.ts';
import { createPacketMemory } from '../../src/host/packet-memory.ts';
import { LinkListener } from '../../src/link/listener.ts';
import type { Egress, LinkHost, LinkPort } from '../../src/stack/ports.ts';

const self = fileURLToPath(import.meta.url);
const [role = '60', path = '', len = ''] = process.argv.slice(2);

/** The VM: writes frames as fast as the socket takes them, or reads as fast as they come. */
function guest(kind: string, at: string, frameBytes: number): void {
  const mem = Buffer.alloc(256 * 1024);
  const options = { path: at, onread: { buffer: mem, callback: () => true } };
  const socket = net.connect(options);
  socket.on('error', () => process.exit(0));
  socket.on('close', () => process.exit(0));
  if (kind === 'read') {
    socket.write(Buffer.from([0, 0, 0, 1, 0]));
    return;
  }
  const one = Buffer.alloc(4 + frameBytes);
  one.writeUInt32BE(frameBytes);
  const batch = Buffer.concat(Array.from({ length: Math.max(1, Math.floor(219_264 / one.length)) }, () => one));
  const pump = (): void => {
    while (socket.write(batch));
    socket.once('drain', pump);
  };
  pump();
}

interface Result {
  bytes: number;
  frames: number;
  calls: number;
}

async function measure(kind: 'write' | 'read', frameBytes: number, mtu: number, seconds: number): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const at = join(dir, 'vm');
  const memory = createPacketMemory(64 * 1024 * 1024);
  const result: Result = { bytes: 0, frames: 0, calls: 0 };
  const host: LinkHost = {
    attach(egress: Egress): LinkPort {
      const fill = (): void => {
        for (let n = 0; n < 2000; n++) {
          const off = egress.reserve(frameBytes);
          if (off < 0) return;
          egress.commit(off, frameBytes);
        }
        egress.flush();
        setImmediate(fill);
      };
      return { id: 1, input() {}, endTurn: kind === 'read' ? fill : () => {}, writable: fill, close() {} };
    },
  };
  const identities = { identify: () => ({ ok: false as const, invalid: true, reason: '' }), disconnected() {} };
  const log = { info() {}, warn() {} };
  const listener = new LinkListener(
    { url: { text: 'bench', format: 'qemu', place: { kind: 'path', path: at } }, mtu },
    { memory, host, clock: new HostClock(), timers: new HostTimers(), identities, log },
  );
  await listener.listen();
  const vm = fork(self, [kind, at, String(frameBytes)]);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const before = listener.totals();
  const cpu = process.cpuUsage();
  const start = performance.now();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const took = performance.now() - start;
  const used = process.cpuUsage(cpu);
  const after = listener.totals();
  const rx = kind === 'write';
  result.bytes = rx ? after.rxBytes - before.rxBytes : after.txBytes - before.txBytes;
  result.frames = rx ? after.rxFrames - before.rxFrames : after.txFrames - before.txFrames;
  result.calls = rx ? after.rxReads - before.rxReads : after.txWrites - before.txWrites;
  vm.kill();
  await listener.close();
  rmSync(dir, { recursive: true });
  if (result.bytes === 0) throw new Error('nothing passed the link');
  const gbits = (result.bytes * 8) / took / 1e6;
  const cpuSeconds = (used.user + used.system) / 1e6 / (result.bytes / 1e9);
  const perCall = result.bytes / result.calls / 1024;
  return [
    rx ? 'guest to host' : 'host to guest',
    String(frameBytes).padStart(6),
    `${gbits.toFixed(1)} Gbit/s`,
    `${(result.frames / took / 1000).toFixed(2)} M frames/s`,
    `${cpuSeconds.toFixed(3)} CPU s/GB`,
    `${perCall.toFixed(0)} KiB a call`,
  ].join('\t');
}

if (role === 'write' || role === 'read') {
  guest(role, path, Number(len));
} else {
  const seconds = Number(process.argv[2] ?? '2');
  for (const frameBytes of [1514, 65_534]) {
    for (const kind of ['write', 'read'] as const) {
      console.log(await measure(kind, frameBytes, frameBytes - 14, seconds));
    }
  }
}
