// Dialling from a chosen address of the host, over both ways that there are.

import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import t from 'tap';
import type { HostStream, StreamOwner } from '../../src/host/stream.ts';
import { dialHandle, streamBinding } from '../../src/host/stream-handle.ts';
import { dialSocket } from '../../src/host/stream-socket.ts';

/** 127/8 is all loopback on Linux; elsewhere only 127.0.0.1 is there. */
const FROM = process.platform === 'linux' ? '127.0.0.7' : '127.0.0.1';
/** TEST-NET-3: no host has it. */
const NOWHERE = '203.0.113.77';

const WAYS: Record<string, (port: number, owner: StreamOwner, local: string) => HostStream> = {
  'by its handle': (port, owner, local) => dialHandle(streamBinding!, '127.0.0.1', port, owner, local),
  'without a handle': (port, owner, local) => dialSocket({ host: '127.0.0.1', port, localAddress: local }, owner),
};

/** Resolves with the first word of what became of a dial: `connect`, or the errno name. */
function dialled(dial: (owner: StreamOwner) => HostStream): Promise<{ word: string; stream: HostStream }> {
  return new Promise((resolve) => {
    const mem = new Uint8Array(16);
    const told: string[] = [];
    const tell = (word: string): void => {
      told.push(word);
      if (told.length === 1) setImmediate(() => resolve({ word: told.join(' '), stream }));
    };
    const stream = dial({
      onConnect: () => tell('connect'),
      onError: tell,
      readBuffer: () => mem,
      onRead: () => true,
      onEnd: () => {},
      onClose: () => {},
    });
    // As the forwarder does: at once.
    stream.resume();
  });
}

for (const [name, dial] of Object.entries(WAYS)) {
  t.test(`from a chosen address, ${name}`, async (t) => {
    const server = net.createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    t.teardown(() => server.close());
    const arrived = once(server, 'connection');
    const { word, stream } = await dialled((owner) => dial(port, owner, FROM));
    t.equal(word, 'connect');
    const [client] = (await arrived) as [net.Socket];
    t.equal(client.remoteAddress, FROM);
    stream.destroy();
    client.destroy();

    const missing = await dialled((owner) => dial(port, owner, NOWHERE));
    t.equal(missing.word, 'EADDRNOTAVAIL', 'told once, and later');
    t.ok(missing.stream.closed);
  });
}
