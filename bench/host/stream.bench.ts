// What a read, a write, an exchange and a whole connection of the host cost this process, over loopback, by the handle under `net.Socket`
// and by `net.Socket` itself. The other end is another process: the figure is our CPU time, not the time that passes.
//
//   npm run bench -- host/stream

import { fork } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import type { HostStream, StreamOwner } from '../../src/host/stream.ts';
import { dialHandle, streamBinding } from '../../src/host/stream-handle.ts';
import { dialSocket } from '../../src/host/stream-socket.ts';
import { report } from '../suite.ts';

const MEASURE_MS = 1000;
const WARM_MS = 300;
const READ_BYTES = 64 * 1024;

type Dial = (port: number, owner: StreamOwner) => HostStream;
const WAYS: (readonly [string, Dial])[] = [
  ['net.Socket', (port, owner) => dialSocket({ host: '127.0.0.1', port }, owner)],
];
if (streamBinding !== undefined) {
  const binding = streamBinding;
  WAYS.unshift(['handle', (port, owner) => dialHandle(binding, '127.0.0.1', port, owner)]);
}

/** The other process: what comes is given back, swallowed, or not waited for. */
async function other(): Promise<void> {
  const listen = async (serve: (socket: net.Socket) => void): Promise<number> => {
    const server = net.createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => socket.destroy());
      serve(socket);
    });
    server.listen(0, '127.0.0.1', 4096);
    await once(server, 'listening');
    return (server.address() as net.AddressInfo).port;
  };
  const block = Buffer.alloc(256 * 1024, 7);
  const ports = {
    echo: await listen((socket) => socket.pipe(socket)),
    swallow: await listen((socket) => socket.resume()),
    pour: await listen((socket) => {
      const pump = (): void => {
        while (socket.writable && socket.write(block));
      };
      socket.on('drain', pump);
      pump();
    }),
  };
  process.once('disconnect', () => process.exit(0));
  process.send!(ports);
}

/** An owner whose events are handed to functions, so that a case says only what it is about. */
class Ear implements StreamOwner {
  readonly mem = Buffer.alloc(READ_BYTES);
  onConnect: () => void = () => {};
  read: (bytes: number) => boolean = () => true;
  onEnd: () => void = () => {};
  onClose: () => void = () => {};

  readBuffer(): Uint8Array {
    return this.mem;
  }

  onRead(bytes: number): boolean {
    return this.read(bytes);
  }

  onError(errno: string): void {
    throw new Error(`the stream failed: ${errno}`);
  }
}

/** What a case counts. `moved` is what must have passed for `done` operations, in bytes. */
interface Tally {
  done: number;
  moved: number;
}

/** Lets a case run for a while, and prints what one operation cost. @param each bytes of one operation, 0 where they vary */
async function measure(
  name: string,
  tally: Tally,
  each: number,
  start: () => void,
  stop: () => Promise<void>,
): Promise<void> {
  start();
  await new Promise((resolve) => setTimeout(resolve, WARM_MS));
  const from = { ...tally };
  const cpu = process.cpuUsage();
  const begun = performance.now();
  await new Promise((resolve) => setTimeout(resolve, MEASURE_MS));
  const used = process.cpuUsage(cpu);
  const took = performance.now() - begun;
  const done = tally.done - from.done;
  const moved = tally.moved - from.moved;
  await stop();
  if (done < 100) throw new Error(`${name}: only ${done} in ${MEASURE_MS} ms`);
  if (each > 0 && moved !== done * each) throw new Error(`${name}: ${moved} bytes in ${done} of ${each}`);
  const gbits = (moved * 8) / took / 1e6;
  const more = each === 0 || each >= 1448 ? `, ${gbits.toFixed(1)} Gbit/s, ${Math.round(moved / done)} B each` : '';
  report(name, ((used.user + used.system) * 1000) / done, undefined, `${Math.round((done / took) * 1000)}/s${more}`);
}

function closed(stream: HostStream, ear: Ear): Promise<void> {
  return new Promise((resolve) => {
    ear.onClose = resolve;
    stream.destroy();
  });
}

/** As large a piece as there is, again as soon as the kernel has taken it. */
async function writing(way: string, dial: Dial, port: number, bytes: number): Promise<void> {
  const ear = new Ear();
  const data = Buffer.alloc(bytes, 3);
  const tally: Tally = { done: 0, moved: 0 };
  const stream = dial(port, ear);
  await new Promise<void>((resolve) => {
    ear.onConnect = resolve;
  });
  let over = false;
  const count = (): void => {
    tally.done++;
    tally.moved += bytes;
  };
  const late = (): void => {
    count();
    pump();
  };
  const pump = (): void => {
    // So many in a row, as turns do; then whoever else is ready.
    for (let i = 0; i < 32; i++) {
      if (over) return;
      if (!stream.write(data, late)) return;
      count();
    }
    setImmediate(pump);
  };
  await measure(`write ${bytes} B, ${way}`, tally, bytes, pump, () => {
    over = true;
    return closed(stream, ear);
  });
}

async function reading(way: string, dial: Dial, port: number): Promise<void> {
  const ear = new Ear();
  const tally: Tally = { done: 0, moved: 0 };
  ear.read = (bytes) => {
    if (ear.mem[bytes - 1] !== 7) throw new Error('other bytes came');
    tally.done++;
    tally.moved += bytes;
    return true;
  };
  const stream = dial(port, ear);
  await measure(
    `read what there is, ${way}`,
    tally,
    0,
    () => stream.resume(),
    () => closed(stream, ear),
  );
}

async function exchanging(way: string, dial: Dial, port: number): Promise<void> {
  const ear = new Ear();
  const bytes = 64;
  const data = Buffer.alloc(bytes, 5);
  const tally: Tally = { done: 0, moved: 0 };
  const stream = dial(port, ear);
  let over = false;
  const none = (): void => {};
  ear.read = (n) => {
    if (n !== bytes || ear.mem[0] !== 5) throw new Error(`${n} bytes came back`);
    tally.done++;
    tally.moved += n;
    if (!over) stream.write(data, none);
    return true;
  };
  ear.onConnect = () => {
    stream.resume();
    stream.write(data, none);
  };
  await measure(`write 64 B and read them back, ${way}`, tally, bytes, none, () => {
    over = true;
    return closed(stream, ear);
  });
}

/** Dial, one exchange, end both ways; so many at a time. */
async function living(way: string, dial: Dial, port: number, width: number): Promise<void> {
  const bytes = 64;
  const data = Buffer.alloc(bytes, 9);
  const tally: Tally = { done: 0, moved: 0 };
  let over = false;
  let live = 0;
  let last: () => void = () => {};
  const none = (): void => {};
  const one = (): void => {
    const ear = new Ear();
    live++;
    const stream = dial(port, ear);
    ear.onConnect = () => {
      stream.resume();
      stream.write(data, none);
    };
    ear.read = (n) => {
      if (n !== bytes) throw new Error(`${n} bytes came back`);
      tally.moved += n;
      stream.end();
      return true;
    };
    ear.onClose = () => {
      live--;
      tally.done++;
      if (!over) one();
      else if (live === 0) last();
    };
  };
  const start = (): void => {
    for (let i = 0; i < width; i++) one();
  };
  await measure(`dial, exchange, end; ${width} at a time, ${way}`, tally, 0, start, () => {
    over = true;
    return new Promise((resolve) => {
      last = resolve;
    });
  });
  if (tally.moved !== tally.done * bytes) throw new Error(`${tally.moved} bytes in ${tally.done} connections`);
}

if (process.argv[2] === 'other') await other();
else {
  console.log(`host streams, CPU time of this process (Node ${process.versions.node})`);
  const child = fork(fileURLToPath(import.meta.url), ['other'], { execArgv: [] });
  process.once('exit', () => child.kill());
  const [ports] = (await once(child, 'message')) as [{ echo: number; swallow: number; pour: number }];
  for (const [way, dial] of WAYS) {
    for (const bytes of [64, 1448, 65_536, 262_144]) await writing(way, dial, ports.swallow, bytes);
    await reading(way, dial, ports.pour);
    await exchanging(way, dial, ports.echo);
    await living(way, dial, ports.echo, 16);
  }
  child.disconnect();
}
