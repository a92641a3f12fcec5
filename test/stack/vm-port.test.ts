// One connected VM as the stack sees it: what it keeps of a frame is a copy, and what it is known to take only grows.

import t from 'tap';
import type { Egress } from '../../src/stack/ports.ts';
import { type PortOwner, VmPort } from '../../src/stack/vm-port.ts';

const egress: Egress = { reserve: () => -1, commit: () => {}, flush: () => {}, close: () => {} };
const owner: PortOwner = {
  onFrame: () => {},
  onRun: () => 0,
  onEndTurn: () => {},
  onWritable: () => {},
  onClose: () => {},
};

function port(mtu: number, mtuTold: boolean): VmPort {
  return new VmPort(1, egress, { name: 'vm', mtu, mtuTold }, owner, 0);
}

t.test("a path keeps a frame's MAC after the frame's memory is used again, also where that is a Buffer", async (t) => {
  for (const memory of [Buffer.alloc(32), new Uint8Array(32)]) {
    const vm = port(1500, false);
    memory.set([2, 0, 0, 0, 0, 9], 8);
    const path = vm.pathTo(memory, 8);
    memory.fill(0xee);
    t.strictSame([...path.mac], [2, 0, 0, 0, 0, 9]);
    memory.set([2, 0, 0, 0, 0, 9], 20);
    t.equal(vm.pathTo(memory, 20), path, 'the same MAC, the same path');
    memory.set([2, 0, 0, 0, 0, 10], 20);
    t.not(vm.pathTo(memory, 20), path);
  }
});

t.test('what a VM takes: 1,500 until it has shown more, never above its link', async (t) => {
  const vm = port(65_520, false);
  t.equal(vm.takes, 1500);
  vm.shown(9000);
  vm.shown(40);
  t.equal(vm.takes, 9000);
  vm.shown(65_535);
  t.equal(vm.takes, 65_520);
  t.equal(port(1500, true).takes, 1500);
  t.equal(port(4000, true).takes, 4000, 'told by the handshake');
  t.equal(port(576, false).takes, 576);
});
