import fc from 'fast-check';
import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import { MacTable } from '../../src/ethernet/mac-table.ts';

let seed = 12345;
const random = { i32: () => (seed = Math.imul(seed, 1103515245) + 12345) };

t.test('learns, answers, ages after 300 s', (t) => {
  const table = new MacTable(random);
  t.equal(table.lookup(1, 2, 0), 0);
  t.equal(table.learn(1, 2, 7, 0), Drop.None);
  t.equal(table.lookup(1, 2, 300_000), 7);
  t.equal(table.lookup(1, 2, 300_001), 0);
  t.equal(table.learn(1, 2, 7, 299_000), Drop.None);
  t.equal(table.lookup(1, 2, 500_000), 7, 'a frame keeps it young');
  t.equal(table.size, 1);
  t.equal(table.learned, 1);
  t.end();
});

t.test('caps per port and in all; aged entries make room; other ports are unharmed', (t) => {
  const table = new MacTable(random, { maxPerPort: 4, maxTotal: 6 });
  for (let i = 0; i < 4; i++) t.equal(table.learn(0, i, 1, 0), Drop.None);
  t.equal(table.learn(0, 99, 1, 10), Drop.EthMacTableFull);
  t.equal(table.learn(0, 0, 1, 10), Drop.None, 'known ones still pass');
  t.equal(table.learn(0, 50, 2, 10), Drop.None);
  t.equal(table.learn(0, 51, 2, 10), Drop.None);
  t.equal(table.learn(0, 52, 3, 10), Drop.EthMacTableFull, 'total');
  t.equal(table.capped, 2);
  t.equal(table.learn(0, 99, 1, 300_005), Drop.None, 'three of port 1 are aged');
  t.equal(table.aged, 3);
  t.equal(table.countOf(1), 2);
  t.end();
});

t.test('an address moves, but not away from a port that is using it', (t) => {
  const table = new MacTable(random);
  table.learn(5, 5, 1, 0);
  t.equal(table.learn(5, 5, 2, 999), Drop.EthMacTaken);
  t.equal(table.lookup(5, 5, 999), 1);
  t.equal(table.learn(5, 5, 2, 1000), Drop.None);
  t.equal(table.lookup(5, 5, 1000), 2);
  t.same([table.moved, table.moveRefused, table.countOf(1), table.countOf(2)], [1, 1, 0, 1]);
  table.dropPort(2);
  t.equal(table.size, 0);
  t.equal(table.learn(5, 5, 1, 1001), Drop.None, 'free at once when its port is gone');
  t.end();
});

t.test('behaves as a map under any sequence of learning and dropping', (t) => {
  const op = fc.record({
    lo: fc.integer({ min: 0, max: 40 }),
    port: fc.integer({ min: 1, max: 4 }),
    drop: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(op, { maxLength: 300 }), (ops) => {
      const table = new MacTable(random, { maxPerPort: 30, maxTotal: 40, moveHoldMs: 0 });
      const model = new Map<number, number>();
      const count = (port: number): number => [...model.values()].filter((p) => p === port).length;
      for (const { lo, port, drop } of ops) {
        if (drop && lo < 5) {
          table.dropPort(port);
          for (const [k, p] of model) if (p === port) model.delete(k);
        } else if (table.learn(0, lo, port, 0) === Drop.None) model.set(lo, port);
        for (let p = 1; p <= 4; p++) if (table.countOf(p) !== count(p)) return false;
        for (let k = 0; k <= 40; k++) if (table.lookup(0, k, 0) !== (model.get(k) ?? 0)) return false;
      }
      return table.size === model.size;
    }),
    { numRuns: 60 },
  );
  t.end();
});

t.test("an address that is known to be a port's own moves there at once, also from a port that is talking", (t) => {
  const table = new MacTable(random, { moveHoldMs: 1000 });
  t.equal(table.learn(0x0250, 7, 1, 0), Drop.None);
  t.equal(table.learn(0x0250, 7, 2, 10), Drop.EthMacTaken);
  t.equal(table.learn(0x0250, 7, 2, 10, true), Drop.None);
  t.equal(table.lookup(0x0250, 7, 10), 2);
  t.end();
});
