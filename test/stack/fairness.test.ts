// Fairness between the flows of one link: a byte beside bulk does not wait until the bulk is done.

import t from 'tap';
import type { Connection } from '../../src/tcp/connection.ts';
import { type FakeOwner, type FakeVm, OUTSIDE, Rig } from './fake-link.ts';
import { ACK, SYN } from './frames.ts';

/** A flow whose guest has shown a window of megabytes. */
function open(vm: FakeVm, srcPort: number): Connection {
  // MSS 1460, window scale 7.
  const syn = vm.tcp(OUTSIDE, { srcPort, dstPort: 80, seq: 1000, flags: SYN, options: [2, 4, 5, 180, 1, 3, 3, 7] });
  const answer = vm.send(syn).find((f) => f.tcp?.dstPort === srcPort)!;
  const ack = (answer.tcp!.seq + 1) | 0;
  vm.send(vm.tcp(OUTSIDE, { srcPort, dstPort: 80, seq: 1001, ack, flags: ACK, wnd: 60_000 }));
  const c = (vm.rig.flows.at(-1) as FakeOwner).flow as Connection;
  // As after a while of transfer: nothing but the link holds it back.
  c.cc.cwnd = 8 * 1024 * 1024;
  return c;
}

const bulk = new Uint8Array(3 * 1024 * 1024);

t.test('a byte beside a transfer that fills the link leaves with the next batch, each time', (t) => {
  const rig = new Rig();
  const vm = rig.vm(3);
  const big = open(vm, 40_000);
  const small = open(vm, 40_001);
  vm.take();
  big.write(bulk, 0, bulk.length, rig.now);
  rig.turn();
  t.ok(big.blocked, 'the link is full of it');
  let bytesOfBig = 0;
  for (let round = 0; round < 6; round++) {
    small.write(Uint8Array.of(round), 0, 1, rig.now);
    rig.now += 1;
    vm.take();
    // The guest has all of it, or a small message would find the queue to be short.
    const ack = big.sndNxt;
    const first = vm.send(vm.tcp(OUTSIDE, { srcPort: 40_000, dstPort: 80, seq: 1001, ack, flags: ACK, wnd: 60_000 }));
    // The link drains, and takes one batch more.
    rig.stack.onWritable(vm.port, rig.now);
    const frames = [...first, ...vm.take()].map((f) => f.tcp!);
    const own = frames.filter((f) => f.dstPort === 40_001);
    t.same(
      own.map((f) => [...f.payload]),
      [[round]],
      `round ${round}`,
    );
    bytesOfBig += frames.filter((f) => f.dstPort === 40_000).reduce((n, f) => n + f.payload.length, 0);
    const place = frames.findIndex((f) => f.dstPort === 40_001);
    t.ok(place <= 1, `behind ${place} segments of bulk`);
  }
  t.ok(bytesOfBig > 5 * 200_000, 'and the link was filled all the same');
  t.same(rig.bugs, []);
  t.end();
});

t.test('beside a small message a transfer has little on its way; without one, what its windows allow', (t) => {
  const rig = new Rig();
  const vm = rig.vm(3);
  const big = open(vm, 40_000);
  const small = open(vm, 40_001);
  const drain = (): void => {
    for (let i = 0; i < 30; i++) {
      vm.take();
      rig.stack.onWritable(vm.port, rig.now);
      rig.turn();
    }
  };
  small.write(Uint8Array.of(1), 0, 1, rig.now);
  rig.turn();
  big.write(bulk, 0, bulk.length, rig.now);
  rig.turn();
  drain();
  const held = (big.sndNxt - big.sndUna) | 0;
  t.ok(held >= 600_000 && held < 900_000, `${held} bytes`);
  t.ok(rig.stack.stats.tcp.budgetWaits > 0, 'which is counted');
  t.notOk(big.blocked, 'it is not the link');
  rig.now += 301;
  const ack = (big.sndUna + 1460) | 0;
  vm.send(vm.tcp(OUTSIDE, { srcPort: 40_000, dstPort: 80, seq: 1001, ack, flags: ACK, wnd: 60_000 }));
  drain();
  t.equal((big.sndNxt - big.sndUna) | 0, bulk.length - 1460, 'all of it');
  t.same(rig.bugs, []);
  t.end();
});

t.test('eight transfers share a link that drains slowly', (t) => {
  const rig = new Rig({ slabBytes: 64 * 1024 * 1024 });
  const vm = rig.vm(3);
  const flows = Array.from({ length: 8 }, (_, i) => open(vm, 41_000 + i));
  for (const c of flows) {
    c.write(bulk, 0, 1_500_000, rig.now);
  }
  rig.turn();
  for (let round = 0; round < 24; round++) {
    vm.take();
    rig.now += 1;
    rig.stack.onWritable(vm.port, rig.now);
    rig.turn();
  }
  const sent = flows.map((c) => c.bytesToGuest);
  t.ok(Math.min(...sent) > 0.6 * Math.max(...sent), `${sent}`);
  t.end();
});
