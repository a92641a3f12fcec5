// The embedded guest's stack against the daemon's on a virtual clock: streams stay whole whatever the link does, and what goes
// wrong is told. The grid of links, loads and seeds is test/sim's; this holds the guest's own side of it.

import t from 'tap';
import { IpAddress } from '../../src/ip/address.ts';
import { CloseReason, RefuseReason } from '../../src/stack/ports.ts';
import { type Faults, GATEWAY, GUEST, OUTSIDE, Peer, VirtualNetwork } from './virtual-network.ts';

const HOUR_MS = 3_600_000;
const outside = IpAddress.v4(OUTSIDE);

/** One flow that the guest opens, with streams of these lengths both ways. */
function transfer(network: VirtualNetwork, up: number, down: number): { guest: Peer; host: () => Peer | undefined } {
  let host: Peer | undefined;
  network.onSyn = (flow, now) => {
    flow.accept(now);
    host = new Peer(flow, down, 2, 1, now);
  };
  const flow = network.guest.tcp.connect(outside, 80, network.now);
  if (typeof flow === 'string') throw new Error(flow);
  return { guest: new Peer(flow, up, 1, 2, network.now), host: () => host };
}

const LINKS: readonly (readonly [string, Faults])[] = [
  ['a clean link', { delayMs: 0.05 }],
  ['1 % loss', { delayMs: 5, loss: 0.01 }],
  ['10 % loss', { delayMs: 5, loss: 0.1 }],
  ['reordering', { delayMs: 2, jitterMs: 8 }],
  ['duplicates', { delayMs: 1, duplicate: 0.2, jitterMs: 1 }],
  ['everything at once', { delayMs: 3, jitterMs: 6, loss: 0.05, duplicate: 0.05, corrupt: 0.02 }],
];

for (const [name, faults] of LINKS) {
  t.test(`streams stay whole over ${name}`, async (t) => {
    for (let seed = 1; seed <= 2; seed++) {
      for (const mtu of [1500, 65_520]) {
        const network = new VirtualNetwork(seed * 7919 + mtu, faults, mtu);
        const bytes = mtu > 9000 ? 600_000 : 60_000;
        const { guest, host } = transfer(network, bytes, bytes + 1);
        const finished = network.run(() => guest.done && (host()?.done ?? false), HOUR_MS);
        const what = `seed ${seed}, MTU ${mtu}, ${Math.round(network.now)} ms, ${network.lost} of ${network.carried} lost`;
        t.ok(finished, `done: ${what}`);
        t.match(
          { up: host()?.received, down: guest.received, wrong: [guest.wrongAt, host()?.wrongAt] },
          { up: bytes, down: bytes + 1, wrong: [-1, -1] },
          what,
        );
        t.equal(guest.closed, CloseReason.Done);
        network.run(() => network.stack.tcp.table.size === 0 && network.guest.tcp.size === 0, HOUR_MS);
        const left = network.stack.slab.usedBytes + network.guest.slab.usedBytes;
        t.equal(left, 2 * 128 * 1024, `packet memory is back: ${what}`);
      }
    }
  });
}

t.test('a clean link needs no retransmission, and little time', async (t) => {
  const network = new VirtualNetwork(5, { delayMs: 0.1 }, 65_520);
  const start = network.now;
  const { guest, host } = transfer(network, 5_000_000, 5_000_000);
  t.ok(network.run(() => guest.done && (host()?.done ?? false), 5000));
  t.equal(network.stack.stats.tcp.retransmits + network.guest.stats.tcp.retransmits, 0);
  t.ok(network.now - start < 2000, `${network.now - start} ms`);
});

t.test('towards the guest: a published port, over a bad link', async (t) => {
  for (let seed = 1; seed <= 4; seed++) {
    const network = new VirtualNetwork(seed, { delayMs: 4, loss: 0.1, jitterMs: 4 }, 1500);
    let guest: Peer | undefined;
    network.guest.tcp.listen(80, (flow, now) => {
      flow.accept(now);
      guest = new Peer(flow, 100_000, 1, 2, now);
    });
    const flow = network.stack.connect(IpAddress.v4(GATEWAY), IpAddress.v4(GUEST), 80, network.now);
    if (flow === undefined) throw new Error('no flow');
    const host = new Peer(flow, 50_000, 2, 1, network.now);
    t.ok(
      network.run(() => host.done && (guest?.done ?? false), HOUR_MS),
      `seed ${seed}`,
    );
    t.match(
      { got: host.received, sent: guest?.received, wrong: host.wrongAt },
      { got: 100_000, sent: 50_000, wrong: -1 },
    );
  }
});

t.test('a closed window is probed until it opens, hours later', async (t) => {
  const network = new VirtualNetwork(3, { delayMs: 1, loss: 0.2 }, 1500);
  const { guest, host } = transfer(network, 10, 3_000_000);
  guest.deaf = true;
  t.notOk(network.run(() => guest.done, 3 * HOUR_MS));
  t.equal(guest.closed, undefined, 'alive after three hours');
  t.ok(network.stack.stats.tcp.persistProbes > 50);
  guest.deaf = false;
  guest.onReadable(network.now);
  t.ok(
    network.run(() => guest.done && (host()?.done ?? false), HOUR_MS),
    'and goes on',
  );
  t.equal(guest.received, 3_000_000);
});

t.test('how opens end', async (t) => {
  const network = new VirtualNetwork(1, { delayMs: 1 }, 1500, { synRetries: 3 });
  const open = (): Peer => {
    const flow = network.guest.tcp.connect(outside, 80, network.now);
    if (typeof flow === 'string') throw new Error(flow);
    return new Peer(flow, 0, 1, 2, network.now);
  };
  const answers = [
    [RefuseReason.Refused, CloseReason.Refused, -1],
    [RefuseReason.NetUnreachable, CloseReason.Unreachable, 0],
    [RefuseReason.HostUnreachable, CloseReason.Unreachable, 1],
    [RefuseReason.Prohibited, CloseReason.Unreachable, 13],
  ] as const;
  for (const [refusal, reason, code] of answers) {
    network.onSyn = (flow, now) => flow.refuse(refusal, now);
    const peer = open();
    const start = network.now;
    t.ok(network.run(() => peer.done, 1000));
    t.strictSame([peer.closed, peer.unreachableCode], [reason, code], refusal);
    t.ok(network.now - start < 10, 'at once');
  }
  network.onSyn = () => {};
  const silent = open();
  t.ok(network.run(() => silent.done, HOUR_MS));
  t.equal(silent.closed, CloseReason.RetransmitLimit, 'RFC 9293 MUST-23: given up at last');
});
