import t from 'tap';
import { type Identities, VpnkitHandshake } from '../../src/link/handshake.ts';
import { ethernetCommand, FakeIdentities, INVENTED_UUID, initMessage, preferredCommand, UUID_A } from './fake-host.ts';

function make(identities: Identities = new FakeIdentities(), mtu = 1500) {
  const sent: Buffer[] = [];
  const handshake = new VpnkitHandshake(identities, mtu, (bytes) => sent.push(Buffer.from(bytes)));
  let held: Buffer = Buffer.alloc(0);
  /** Feeds bytes; what is not used is offered again, as the link does. */
  const feed = (bytes: Uint8Array, chunk = bytes.length): void => {
    for (let at = 0; at < bytes.length; at += chunk) {
      held = Buffer.concat([held, bytes.subarray(at, at + chunk)]);
      // The bytes lie in the middle of something else.
      const around = Buffer.concat([Buffer.alloc(7, 0xee), held, Buffer.alloc(9, 0xee)]);
      const used = handshake.input(around, 7, held.length);
      held = held.subarray(used);
    }
  };
  return { handshake, sent, feed, rest: () => held };
}

const OWN_INIT = Buffer.from('VMN3T\x16\0\0\x000123456789012345678901234567890123456789', 'latin1');

t.test('Init, Init, Command, Response, byte for byte, in any chunking', (t) => {
  const stream = Buffer.concat([initMessage(), ethernetCommand(UUID_A)]);
  for (let chunk = 1; chunk <= stream.length; chunk++) {
    const { handshake, sent, feed, rest } = make();
    feed(stream, chunk);
    const response = Buffer.alloc(258);
    Buffer.from([1, 0xdc, 0x05, 0x0e, 0x06, 2, 0, 0, 0, 0, 1]).copy(response);
    if (handshake.state !== 'done' || rest().length > 0) t.fail(`chunks of ${chunk}: ${handshake.state}`);
    if (!Buffer.concat(sent).equals(Buffer.concat([OWN_INIT, response]))) t.fail(`chunks of ${chunk}: wrong bytes`);
  }
  t.equal(OWN_INIT.length, 49);
  t.end();
});

t.test('our Init leaves before the Command has come, and nothing before theirs', (t) => {
  const { sent, feed } = make();
  feed(initMessage().subarray(0, 48));
  t.equal(sent.length, 0);
  feed(initMessage().subarray(48));
  t.equal(sent.length, 1);
  t.end();
});

t.test('frames that follow the Command at once are left for the reader', (t) => {
  const { handshake, feed, rest } = make();
  feed(Buffer.concat([initMessage(), ethernetCommand(UUID_A), Buffer.from([60, 0, 1, 2, 3])]));
  t.equal(handshake.state, 'done');
  t.same(rest(), Buffer.from([60, 0, 1, 2, 3]));
  t.end();
});

t.test('neither magic nor commit is looked at', (t) => {
  const { handshake, feed } = make();
  const odd = initMessage();
  odd.write('XXXXX', 0, 'latin1');
  odd.fill(0xff, 9);
  feed(Buffer.concat([odd, ethernetCommand(UUID_A)]));
  t.equal(handshake.state, 'done');
  t.end();
});

t.test('wrong version: own Init, then the end', (t) => {
  for (const version of [0, 1, 21, 23, 0xffff_ffff]) {
    const { handshake, sent, feed } = make();
    feed(initMessage(version));
    t.equal(handshake.state, 'failed');
    t.same(sent, [OWN_INIT]);
    t.match(handshake.failure, String(version));
  }
  t.end();
});

t.test('magic of the oldest peers, which send nothing behind it: own Init, then the end', (t) => {
  const { handshake, sent, feed } = make();
  feed(Buffer.from('VMNET'), 1);
  t.equal(handshake.state, 'failed');
  t.same(sent, [OWN_INIT]);
  t.end();
});

t.test('unknown command: the end without a Response', (t) => {
  for (const code of [0, 2, 6, 7, 9, 255]) {
    const { handshake, sent, feed } = make();
    const command = ethernetCommand(UUID_A);
    command[0] = code;
    feed(Buffer.concat([initMessage(), command]));
    t.equal(handshake.state, 'failed');
    t.equal(sent.length, 1, 'only the Init');
  }
  t.end();
});

t.test('text that is no UUID: the end without a Response', (t) => {
  for (const text of ['not-a-uuid', UUID_A.replace('-', '0'), `${UUID_A.slice(0, 35)}g`, `${'\0'.repeat(35)}a`]) {
    const { handshake, sent, feed } = make();
    feed(Buffer.concat([initMessage(), ethernetCommand(text)]));
    t.equal(handshake.state, 'failed');
    t.equal(sent.length, 1);
  }
  t.end();
});

t.test('36 NULs: the answer names an identity', (t) => {
  const identities = new FakeIdentities();
  const { handshake, feed } = make(identities);
  feed(Buffer.concat([initMessage(), ethernetCommand('\0'.repeat(36))]));
  t.equal(handshake.state, 'done');
  t.equal(handshake.uuid, INVENTED_UUID);
  t.same(identities.asked, [{ uuid: '\0'.repeat(36), preferred: undefined }]);
  t.end();
});

t.test('the same UUID in other letters is the same VM', (t) => {
  const identities = new FakeIdentities();
  const first = make(identities);
  first.feed(Buffer.concat([initMessage(), ethernetCommand(UUID_A)]));
  const second = make(identities);
  second.feed(Buffer.concat([initMessage(), ethernetCommand(UUID_A.toUpperCase())]));
  t.same(first.sent, second.sent);
  t.equal(identities.known.size, 1);
  t.end();
});

t.test('preferred address: FA 41 A8 C0 is 192.168.65.250', (t) => {
  const identities = new FakeIdentities();
  const { handshake, feed } = make(identities);
  const command = preferredCommand(UUID_A, 0xc0a841fa);
  t.same(command.subarray(37), Buffer.from([0xfa, 0x41, 0xa8, 0xc0]));
  feed(Buffer.concat([initMessage(), command]));
  t.equal(handshake.state, 'done');
  t.same(identities.asked, [{ uuid: UUID_A, preferred: 0xc0a841fa | 0 }]);
  t.end();
});

t.test('refused: a Disconnect of 258 bytes with the reason, cut at 255', (t) => {
  const { handshake, sent, feed } = make();
  feed(Buffer.concat([initMessage(), preferredCommand(UUID_A, 0x01010101)]));
  t.equal(handshake.state, 'failed');
  const reason = 'address 1.1.1.1 is outside of the network';
  const wanted = Buffer.alloc(258);
  wanted[0] = 2;
  wanted[1] = reason.length;
  wanted.write(reason, 2, 'latin1');
  t.same(sent[1], wanted);

  const long = make({
    identify: () => ({ ok: false, invalid: false, reason: 'x'.repeat(400) }),
    disconnected: () => {},
  });
  long.feed(Buffer.concat([initMessage(), ethernetCommand(UUID_A)]));
  t.equal(long.sent[1]?.length, 258);
  t.equal(long.sent[1]?.[1], 255);
  t.equal(long.sent[1]?.[256], 0x78);
  t.equal(long.sent[1]?.[257], 0);
  t.end();
});

t.test('the largest MTU: the packet size stays within its 16 bits', (t) => {
  const { sent, feed } = make(new FakeIdentities(), 65_520);
  feed(Buffer.concat([initMessage(), ethernetCommand(UUID_A)]));
  t.equal(sent[1]?.readUInt16LE(1), 65_520);
  t.equal(sent[1]?.readUInt16LE(3), 65_535);
  t.end();
});
