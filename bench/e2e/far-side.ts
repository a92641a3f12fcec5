// The other ends of a transfer, in a thread of their own: the VM (an embedded guest on the daemon's socket) and the program on the host
// that it talks to. Bytes are a pattern, and whoever receives them holds them to it.

import { once } from 'node:events';
import net from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { GuestFlowOwner } from '../../src/guest/guest-tcp.ts';
import { ACCEPT_OPTIONS, acceptStreams } from '../../src/host/host-stream.ts';
import type { StreamOwner } from '../../src/host/stream.ts';
import { IpAddress, parseV4 } from '../../src/ip/address.ts';
import type { TcpFlow } from '../../src/tcp/flow.ts';

/** What one transfer is. */
export interface Transfer {
  readonly path: string;
  readonly mtu: number;
  readonly direction: 'up' | 'down';
  readonly flows: number;
}

/** What has arrived, by the clock of this thread; sent for every message that comes. */
export interface Arrived {
  readonly bytes: number;
  readonly flows: number;
  readonly wrong: number;
}

/** A prime, so that no block and no segment repeats the pattern at its own length. */
const PERIOD = 251;
const BLOCK_BYTES = PERIOD * 1044;
const HOST_ALIAS = '192.168.65.254';

const { path, mtu, direction, flows } = workerData as Transfer;
const pattern = Buffer.alloc(BLOCK_BYTES + PERIOD);
for (let i = 0; i < pattern.length; i++) pattern[i] = i % PERIOD;

let wrong = 0;
let open = 0;
let arrived = 0;

/** How far one stream has come. */
class Meter {
  at = 0;

  /** The first and the last byte stand for what lies between them: it arrived in order, and TCP has its checksum. */
  take(buf: Uint8Array, off: number, len: number): void {
    if (buf[off] !== this.at % PERIOD || buf[off + len - 1] !== (this.at + len - 1) % PERIOD) wrong++;
    this.at += len;
    arrived += len;
  }
}

/** The program on the host. */
const server = net.createServer(ACCEPT_OPTIONS);
acceptStreams(server, (arrival) => {
  const mem = Buffer.alloc(256 * 1024);
  const meter = new Meter();
  const owner: StreamOwner = {
    onConnect: () => {},
    readBuffer: () => mem,
    onRead: (bytes) => {
      meter.take(mem, 0, bytes);
      return true;
    },
    onEnd: () => {},
    onError: () => {},
    onClose: () => {},
  };
  const stream = arrival.adopt(owner);
  stream.resume();
  open++;
  if (direction === 'up') return;
  const pump = (): void => {
    for (let i = 0; i < 8; i++) if (stream.closed || !stream.write(pattern.subarray(0, BLOCK_BYTES), pump)) return;
    setImmediate(pump);
  };
  pump();
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');

/** The VM's program. */
class GuestEnd implements GuestFlowOwner {
  readonly flow: TcpFlow;
  readonly #meter = new Meter();
  #sent = 0;

  constructor(flow: TcpFlow) {
    this.flow = flow;
  }

  onEstablished(now: number): void {
    if (direction === 'up') this.onWritable(now);
  }

  onWritable(now: number): void {
    for (;;) {
      const from = this.#sent % PERIOD;
      const taken = this.flow.write(pattern, from, BLOCK_BYTES, now);
      this.#sent += taken;
      if (taken < BLOCK_BYTES) break;
    }
    this.flow.awaitWritable();
  }

  onReadable(now: number): void {
    const { flow } = this;
    while (flow.readable > 0) {
      const len = flow.readable;
      this.#meter.take(flow.mem, flow.readableOffset, len);
      flow.consume(len, now);
    }
  }

  onUnreachable(): void {}

  onClosed(): void {
    this.flow.release();
  }
}

const guest = await EmbeddedGuest.connect({ path, mtu, memoryBytes: 64 * 1024 * 1024 });
guest.configure({ address: '192.168.65.3', prefix: 24, router: '192.168.65.1' });
const { port } = server.address() as net.AddressInfo;
for (let i = 0; i < flows; i++) {
  const flow = guest.stack.tcp.connect(IpAddress.v4(parseV4(HOST_ALIAS)!), port, performance.now());
  if (typeof flow === 'string') throw new Error(`connect: ${flow}`);
  flow.owner = new GuestEnd(flow);
}
parentPort!.on('message', () => {
  const now: Arrived = { bytes: arrived, flows: open, wrong };
  parentPort!.postMessage(now);
});
