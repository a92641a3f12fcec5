// A forward to "the only VM" leads to that one, and to nobody while there are several or none, whatever is known of them.

import { connect as connectSocket } from 'node:net';
import t from 'tap';
import { ForwardError, type ForwardSpec } from '../../src/forwarder/forward-spec.ts';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import { codeOf, Rig } from './rig.ts';

/** What a published port says, or the errno of the client's socket. */
function visit(port: number): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connectSocket(port, '127.0.0.1');
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
    socket.on('end', () => resolve(text));
  });
}

const serve = (guest: EmbeddedGuest, text: string): void => {
  guest.listen(80, (socket) => void socket.on('error', () => {}).end(text));
};

const toOnly = (port = 0): ForwardSpec => ({
  listen: { kind: 'tcp', address: '127.0.0.1', port },
  target: { kind: 'guest', port: 80 },
});

const portOf = (bound: string): number => Number(bound.split(':')[1]);

t.test('one of several VMs is never picked: not the one that has spoken, nor the one with a lease', async (t) => {
  const rig = await Rig.start(t, ['--publish', '127.0.0.1:0:80']);
  const port = portOf(rig.publish[0]!.host);
  t.equal(await visit(port), 'ECONNRESET', 'there is none');
  const first = await rig.guest({ hostName: 'first' });
  serve(first, 'first');
  t.equal(await visit(port), 'first');

  const second = await rig.plug({ hostName: 'second' });
  serve(second, 'second');
  await rig.until(() => rig.metric('vms') === 2, 'the second is connected');
  t.equal(await visit(port), 'ECONNRESET', 'the other is connected, and has said nothing yet');
  await second.dhcp();
  t.equal(await visit(port), 'ECONNRESET', 'both are known');
  await first.close();
  await rig.until(() => rig.metric('vms') === 1, 'the first has gone');
  t.equal(await visit(port), 'second', 'whose lease is not over');
  const third = await rig.plug();
  third.configure({ address: '192.168.65.77', prefix: 24 });
  await rig.until(() => rig.metric('vms') === 2, 'the third is connected');
  t.equal(await visit(port), 'ECONNRESET', 'one with a lease, one without');
});

t.test('several links of one VPNKit VM are one VM', async (t) => {
  const rig = await Rig.start(t, ['--publish', '127.0.0.1:0:80']);
  const port = portOf(rig.publish[0]!.host);
  const uuid = '6ba7b810-9dad-11d1-80b4-00c04fd430c8';
  const guest = await rig.guest({ framing: 'vpnkit', uuid });
  serve(guest, 'by vpnkit');
  t.equal(await visit(port), 'by vpnkit');
  await rig.plug({ framing: 'vpnkit', uuid });
  await rig.until(() => rig.metric('vms') === 2, 'a second link');
  t.equal(await visit(port), 'by vpnkit', 'the same VM');
  t.equal(await codeOf(rig.network.forwards.add(toOnly())), '', 'it may be meant');
  await rig.plug({ framing: 'vpnkit', uuid: '6ba7b811-9dad-11d1-80b4-00c04fd430c8' });
  await rig.until(() => rig.metric('vms') === 3, 'another VM');
  t.equal(await visit(port), 'ECONNRESET');
});

t.test('who asks for a forward to the only VM while there are several is told so', async (t) => {
  const rig = await Rig.start(t);
  const { forwards } = rig.network;
  const before = await forwards.add({ ...toOnly(), key: 'before' });
  t.ok(before.created, 'no VM yet');
  await rig.guest();
  await forwards.add({ ...toOnly(), key: 'one' });
  await rig.guest();
  const error = await forwards.add({ ...toOnly(), key: 'two' }).then(
    () => undefined,
    (e: unknown) => e,
  );
  t.ok(error instanceof ForwardError);
  t.match(error, { code: 'ERR_GUEST_AMBIGUOUS', status: 409, message: /^2 VMs are connected.*name one/ });
  t.equal(forwards.list({ key: 'two' }).length, 0);
  t.notOk((await forwards.add({ ...toOnly(), key: 'one' })).created, 'what is there already stays');
  t.equal(
    await codeOf(forwards.add({ ...toOnly(), client: 'gateway', key: 'one' }, { replace: true })),
    'ERR_GUEST_AMBIGUOUS',
  );
  const all = [
    { ...toOnly(), key: 'one' },
    { ...toOnly(), key: 'more' },
  ];
  t.equal(await codeOf(forwards.replace(all, undefined)), 'ERR_GUEST_AMBIGUOUS', 'in a bulk too');
  t.same(
    forwards
      .list()
      .map((f) => f.key)
      .sort(),
    ['before', 'one'],
    'which changed nothing',
  );
  const named: ForwardSpec = { ...toOnly(), target: { kind: 'guest', guest: '192.168.65.3', port: 80 } };
  t.equal(await codeOf(forwards.add(named)), '', 'one that names its VM');
});
