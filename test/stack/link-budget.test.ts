// The short queue in front of a VM: who is held back, when, and who goes on first.

import t from 'tap';
import { LinkBudget } from '../../src/stack/link-budget.ts';
import type { Connection } from '../../src/tcp/connection.ts';

const LIMIT = 600_000;

/** A flow as far as the budget looks at one. */
function flow(inFlight = 0, sent = inFlight): Connection {
  const c = { sndUna: 0, sndNxt: inFlight, sackOk: true, sackedBytes: 0, lostBytes: 0, counted: 0, leftAlone: 0 };
  return { ...c, bytesToGuest: sent } as unknown as Connection;
}

function send(b: LinkBudget, c: Connection, bytes: number, now: number): void {
  c.sndNxt += bytes;
  c.bytesToGuest += bytes;
  b.count(c, now);
}

t.test('without small messages a transfer may queue what it likes', async (t) => {
  const b = new LinkBudget(LIMIT);
  const c = flow();
  send(b, c, 10 * LIMIT, 0);
  t.equal(b.inFlight, 10 * LIMIT);
  t.equal(b.admits(c, 0), true);
});

t.test('beside one it is held, and named again when there is room for a batch', async (t) => {
  const b = new LinkBudget(LIMIT);
  const bulk = flow();
  const small = flow();
  b.alone(small, 1000);
  send(b, bulk, LIMIT - 1, 1000);
  t.equal(b.admits(bulk, 1000), true);
  send(b, bulk, 1, 1000);
  t.equal(b.admits(bulk, 1000), false);
  t.equal(b.admits(small, 1000), true, 'the small one is not held');
  bulk.sndUna += 100_000;
  t.equal(b.admits(bulk, 1001), false, 'not for a few segments');
  t.equal(b.count(bulk, 1001), undefined);
  bulk.sndUna += 100_000;
  t.equal(b.count(bulk, 1002), bulk);
  t.equal(b.count(bulk, 1002), undefined, 'once');
  t.equal(b.admits(bulk, 1002), true);
});

t.test('its own acknowledgement is not needed: another flow that ends or is acknowledged makes room', async (t) => {
  const b = new LinkBudget(LIMIT);
  const flows = [flow(), flow(), flow()] as const;
  b.alone(flow(), 0);
  for (const c of flows) send(b, c, 200_000, 0);
  for (const c of flows) t.equal(b.admits(c, 0), false);
  flows[2].lostBytes = 200_000;
  t.equal(b.count(flows[2], 1), flows[0], 'what is lost is not on its way; the one that waits longest goes on');
  send(b, flows[0], 200_000, 1);
  t.equal(b.admits(flows[0], 1), false);
  t.equal(b.forget(flows[1], 2), flows[2], 'who is over is not named');
  t.equal(b.inFlight, 400_000);
  t.equal(b.forget(flows[2], 2), flows[0]);
  t.equal(b.forget(flows[0], 2), undefined);
  t.equal(b.inFlight, 0);
});

t.test('the queue is short for 300 ms after the last small message', async (t) => {
  const b = new LinkBudget(LIMIT);
  const bulk = flow();
  const small = flow();
  send(b, bulk, 2 * LIMIT, 0);
  b.alone(small, 500);
  t.equal(b.admits(bulk, 800), false);
  t.equal(b.count(bulk, 800), undefined);
  t.equal(b.count(bulk, 801), bulk, 'it goes on without an acknowledgement, too');
  t.equal(b.admits(bulk, 801), true);
});

t.test('a transfer that runs dry now and then is no small message; a flow below 64 KiB is never held', async (t) => {
  const b = new LinkBudget(LIMIT);
  const bulk = flow();
  b.alone(bulk, 0);
  t.equal(b.urgentAt, 0, 'its first segment may be one');
  send(b, bulk, 200_000, 0);
  bulk.sndUna = bulk.sndNxt;
  b.count(bulk, 1);
  b.alone(bulk, 1);
  t.equal(b.urgentAt, 0, 'the next is not');
  bulk.bytesToGuest += 100;
  b.alone(bulk, 2);
  t.equal(b.urgentAt, 2, 'until little goes out between two pauses');
  const [big, little] = [flow(), flow()];
  send(b, big, 2 * LIMIT, 2);
  send(b, little, 64 * 1024 - 1, 2);
  t.equal(b.admits(little, 2), true);
  send(b, little, 1, 2);
  t.equal(b.admits(little, 2), false);
});
