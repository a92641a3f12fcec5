import t from 'tap';
import { parseMac } from '../../src/ethernet/mac.ts';
import { type Neighbour, type NeighbourOptions, Neighbours } from '../../src/ethernet/neighbours.ts';

const mac = parseMac('02:00:00:00:00:09')!;
const mac2 = parseMac('02:00:00:00:00:0a')!;

function setup(options?: NeighbourOptions) {
  const log: string[] = [];
  const table = new Neighbours(
    {
      sendArpRequest: (n: Neighbour, now) => log.push(`ask ${n.ip} ${n.state} @${now}`),
      sendHeld: (n, packet) => log.push(`send ${n.ip} port ${n.portId} ${packet.join('.')}`),
      onUnresolved: (ip, packets, now) => log.push(`gone ${ip} ${packets} @${now}`),
    },
    options,
  );
  const take = (): string[] => log.splice(0);
  return { table, take };
}

t.test('what waits is a copy, also of packet memory that is a Buffer', async (t) => {
  const { table, take } = setup();
  const buf = Buffer.of(0, 1, 2, 3);
  t.ok(table.hold(9, buf, 1, 2, 0));
  buf.fill(77);
  table.learn(9, mac, 0, 4, 20);
  t.same(take(), ['send 9 port 4 1.2']);
});

t.test('ARP-04 packets wait for resolution and go in order when it comes', (t) => {
  const { table, take } = setup();
  const buf = Uint8Array.of(0, 1, 2, 3, 4);
  t.equal(table.lookup(9, 0), undefined);
  t.ok(table.hold(9, buf, 1, 2, 0));
  t.ok(table.hold(9, buf, 3, 2, 0));
  buf.fill(77);
  t.equal(table.nextDeadline(), 0);
  table.poll(0);
  t.same(take(), ['ask 9 incomplete @0']);
  t.equal(table.nextDeadline(), 1000);
  t.equal(table.lookup(9, 1), undefined);
  t.ok(table.learn(9, mac, 0, 4, 20));
  t.same(take(), ['send 9 port 4 1.2', 'send 9 port 4 3.4']);
  t.equal(table.nextDeadline(), Number.POSITIVE_INFINITY);
  t.equal(table.lookup(9, 20)?.portId, 4);
  t.equal(table.heldBytes, 0);
  t.end();
});

t.test('ARP-04 one request a second, three tries, then the caller is told', (t) => {
  const { table, take } = setup();
  table.hold(9, mac, 0, 6, 0);
  for (let now = 0; now <= 5000; now += 100) table.poll(now);
  t.same(take(), ['ask 9 incomplete @0', 'ask 9 incomplete @1000', 'ask 9 incomplete @2000', 'gone 9 1 @3000']);
  t.same([table.size, table.heldBytes, table.heldDropped, table.unresolved], [0, 0, 1, 1]);
  t.end();
});

t.test('ARP-04 what waits is capped: packets per address, bytes, unanswered addresses', (t) => {
  const { table } = setup({ maxHeldPackets: 2, maxHeldBytes: 20, maxIncomplete: 2 });
  t.ok(table.hold(1, mac, 0, 6, 0));
  t.ok(table.hold(1, mac, 0, 6, 0));
  t.notOk(table.hold(1, mac, 0, 1, 0), 'packets');
  t.ok(table.hold(2, mac, 0, 6, 0));
  t.notOk(table.hold(2, mac, 0, 6, 0), 'bytes');
  t.notOk(table.hold(3, mac, 0, 1, 0), 'addresses');
  t.same([table.capped, table.heldDropped, table.heldBytes], [1, 3, 18]);
  t.end();
});

t.test('RFC 1122 2.3.2.1 a station unheard for a minute is asked again while it is still used', (t) => {
  const { table, take } = setup();
  table.learn(9, mac, 0, 1, 0);
  t.equal(table.lookup(9, 60_000)?.state, 'reachable');
  t.equal(table.lookup(9, 60_001)?.state, 'probing');
  table.poll(60_001);
  t.same(take(), ['ask 9 probing @60001']);
  table.learn(9, mac, 0, 1, 60_005);
  t.equal(table.lookup(9, 60_006)?.state, 'reachable');
  table.lookup(9, 130_000);
  for (let now = 130_000; now <= 134_000; now += 500) table.poll(now);
  t.equal(table.lookup(9, 134_000), undefined, 'silent: gone');
  t.equal(table.nextDeadline(), Number.POSITIVE_INFINITY);
  t.end();
});

t.test('addresses are capped per port and in all, move only from silent ports, and go with their port', (t) => {
  const { table } = setup({ maxPerPort: 2, maxTotal: 3 });
  t.ok(table.learn(1, mac, 0, 1, 0));
  t.ok(table.learn(2, mac, 0, 1, 0));
  t.notOk(table.learn(3, mac, 0, 1, 0));
  t.ok(table.learn(3, mac2, 0, 2, 0));
  t.notOk(table.learn(4, mac2, 0, 2, 0), 'total');
  t.notOk(table.learn(1, mac2, 0, 2, 500), 'in use on port 1');
  t.ok(table.learn(1, mac2, 0, 2, 1000));
  t.same([table.moved, table.moveRefused, table.capped], [1, 1, 2]);
  t.same(table.lookup(1, 1000)?.mac, mac2);
  t.ok(table.learn(1, mac, 0, 2, 1001), 'same port, new MAC');
  t.same(table.lookup(1, 1001)?.mac, mac);
  table.dropPort(2);
  t.equal(table.size, 1);
  t.ok(table.learn(7, mac, 0, 3, 400_000));
  t.ok(table.learn(8, mac, 0, 3, 400_000));
  t.ok(table.learn(9, mac, 0, 1, 400_000), 'stale ones make room');
  t.equal([...table.entries()].length, 3);
  t.end();
});
