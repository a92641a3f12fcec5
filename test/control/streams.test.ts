// The streams of the control API: events, and live captures. Who does not read loses some, is told how many, and holds nobody up.

import { execFileSync } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type IncomingMessage, request, type ServerResponse } from 'node:http';
import t, { type Test } from 'tap';
import { EventHub } from '../../src/control/event-hub.ts';
import { EventStream } from '../../src/control/event-stream.ts';
import { needsProgram } from '../helpers/requirements.ts';
import { ControlRig } from './rig.ts';

interface Seen {
  readonly id: string | undefined;
  readonly type: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever came
  readonly data: any;
}

/** The events in a text of a stream. */
function eventsIn(text: string): Seen[] {
  return text
    .split('\n\n')
    .filter((block) => block.includes('event: '))
    .map((block) => ({
      id: /^id: (.*)$/m.exec(block)?.[1],
      type: /^event: (.*)$/m.exec(block)![1]!,
      data: JSON.parse(/^data: (.*)$/m.exec(block)![1]!),
    }));
}

interface OpenStream {
  readonly response: IncomingMessage;
  readonly text: () => string;
  readonly bytes: () => Buffer;
  close(): void;
}

function open(t: Test, rig: ControlRig, path: string, headers: Record<string, string> = {}): Promise<OpenStream> {
  return new Promise((resolve, reject) => {
    const req = request({ socketPath: rig.socket, path, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', () => {});
      const bytes = (): Buffer => Buffer.concat(chunks);
      resolve({ response, text: () => bytes().toString(), bytes, close: () => req.destroy() });
    });
    req.on('error', reject);
    t.teardown(() => req.destroy());
    req.end();
  });
}

t.test('events: VM, lease, forward and DNS, with ids; a client that comes back misses nothing', async (t) => {
  const rig = await ControlRig.start(t);
  const stream = await open(t, rig, '/v1/events');
  t.match(stream.response.headers['content-type'], /^text\/event-stream/);
  const guest = await rig.guest({ hostName: 'eve' });
  const made = await rig.ask('POST', '/v1/forwards', {
    body: { listen: { kind: 'tcp', address: '127.0.0.1', port: 0 }, target: { kind: 'guest', port: 80 }, owner: 'me' },
  });
  await rig.ask('DELETE', `/v1/forwards/${made.json.id}`);
  await rig.ask('PUT', '/v1/dns/names/a.test', { body: { addresses: ['1.1.1.1'] } });
  await guest.close();
  const types = ['vm.up', 'lease.given', 'forward.up', 'forward.down', 'dns.records', 'vm.down'];
  const seen = await rig.until(
    async () => eventsIn(stream.text()),
    (list) => list.some((e) => e.type === 'vm.down'),
    'the last event',
  );
  t.strictSame(
    seen.map((e) => e.type).filter((type) => type !== 'dns.servers'),
    types,
  );
  t.match(seen.find((e) => e.type === 'lease.given')?.data, { address: '192.168.65.3', hostName: 'eve' });
  t.match(seen.find((e) => e.type === 'forward.up')?.data, { id: made.json.id, owner: 'me', bound: made.json.bound });
  t.equal(new Set(seen.map((e) => e.id)).size, seen.length, 'ids are unique');

  const [first] = seen;
  const again = await open(t, rig, '/v1/events', { 'Last-Event-ID': first!.id! });
  const replayed = await rig.until(
    async () => eventsIn(again.text()),
    (list) => list.length === seen.length - 1,
    'what it missed',
  );
  t.strictSame(
    replayed.map((e) => e.id),
    seen.slice(1).map((e) => e.id),
  );

  const some = await open(t, rig, '/v1/events?types=vm,forward.up', { 'Last-Event-ID': '0.0' });
  const chosen = await rig.until(
    async () => eventsIn(some.text()),
    (list) => list.length === 3,
    'the types asked for',
  );
  t.strictSame(
    chosen.map((e) => e.type),
    ['vm.up', 'forward.up', 'vm.down'],
  );
  t.equal((await rig.ask('GET', '/v1/events?types=VM')).status, 400);
  t.match((await rig.ask('GET', '/v1/events?types=vm,forward.fialed')).json.error, {
    message: /"forward\.fialed" is no type of events; expected some of .*vm\.up/,
  });
});

t.test('events: a limit that is reached is told, and that the daemon ends', async (t) => {
  const rig = await ControlRig.start(t, ['--udp-max-flows', '16']);
  const stream = await open(t, rig, '/v1/events?types=flow,daemon');
  const guest = await rig.guest();
  for (let i = 0; i < 40; i++) {
    guest.udp().send(Buffer.from('x'), '192.168.65.254', 9);
    await guest.ping('192.168.65.1');
  }
  const seen = await rig.until(
    async () => eventsIn(stream.text()),
    (list) => list.length > 0,
    'the event',
    20_000,
  );
  t.match(seen[0], { type: 'flow.limit', data: { limit: 'udp-max-flows' } });
  t.ok(seen[0]!.data.times >= 24);
  await rig.ask('POST', '/v1/shutdown');
  await rig.until(
    async () => eventsIn(stream.text()),
    (list) => list.at(-1)?.type === 'daemon.stopping',
    'the last word',
  );
});

t.test('events: another resolver of the host is told', async (t) => {
  const folder = t.testdir({ 'resolv.conf': 'nameserver 192.0.2.1\n' });
  const rig = await ControlRig.start(t, ['--resolv-conf', `${folder}/resolv.conf`]);
  const stream = await open(t, rig, '/v1/events?types=dns.servers');
  writeFileSync(`${folder}/resolv.conf`, 'nameserver 192.0.2.2\nnameserver 192.0.2.3\n');
  const seen = await rig.until(
    async () => eventsIn(stream.text()),
    (list) => list.length > 0,
    'the event',
    20_000,
  );
  t.strictSame(seen[0]?.data.servers, ['192.0.2.2:53', '192.0.2.3:53']);
  t.strictSame((await rig.ask('GET', '/v1/dns')).json.servers, ['192.0.2.2:53', '192.0.2.3:53']);
});

/** A response whose reader takes nothing until told. */
class StuckResponse extends EventEmitter {
  writableLength = 0;
  written = '';
  writeHead(): void {}
  write(text: string): boolean {
    this.written += text;
    this.writableLength += text.length;
    return false;
  }
  read(): void {
    this.writableLength = 0;
    this.emit('drain');
  }
}

t.test('events: a slow reader loses some, and is told how many', (t) => {
  const hub = new EventHub('b');
  const response = new StuckResponse();
  const stream = EventStream.serve(hub, response as unknown as ServerResponse, { types: [] });
  const filler = 'x'.repeat(1000);
  for (let i = 0; i < 200; i++) hub.publish('vm.up', { filler });
  t.ok(response.writableLength < 80_000, `bounded: ${response.writableLength}`);
  const got = eventsIn(response.written).length;
  t.equal(got + stream.lost, 200);
  response.read();
  t.match(eventsIn(response.written).at(-1), { type: 'lost', data: { count: 200 - got } });
  hub.publish('vm.down', {});
  t.match(eventsIn(response.written).at(-1), { type: 'vm.down' }, 'and goes on');
  response.emit('close');
  t.equal(hub.listeners, 0);
  hub.publish('vm.up', {});
  t.match(eventsIn(response.written).at(-1), { type: 'vm.down' }, 'nothing after its end');
  t.end();
});

t.test('events: what is not kept any more is told as lost', (t) => {
  const hub = new EventHub('b');
  for (let i = 0; i < 600; i++) hub.publish('vm.up', { i });
  t.match(hub.since('b.10'), { lost: 78 });
  t.equal(hub.since('b.10').events.length, 512);
  t.equal(hub.since('b.599').events.length, 1);
  t.strictSame(hub.since('b.600'), { events: [], lost: 0 });
  t.strictSame(hub.since('b.601'), { events: [], lost: 0 }, 'from the future: none');
  t.strictSame(hub.since('nonsense'), { events: [], lost: 0 });
  t.equal(hub.since('a.3').events.length, 512, 'another boot: all that there is');
  t.end();
});

t.test('events: heartbeats are comments', async (t) => {
  const response = new StuckResponse();
  EventStream.serve(new EventHub(), response as unknown as ServerResponse, { types: [], heartbeatMs: 5 });
  await new Promise<void>((resolve) => {
    const look = setInterval(() => {
      if (!response.written.includes(': here\n\n')) return;
      clearInterval(look);
      resolve();
    }, 2);
  });
  response.emit('close');
  t.strictSame(eventsIn(response.written), []);
});

t.test('capture: frames of all VMs, or of one, that tshark reads', { skip: needsProgram('tshark') }, async (t) => {
  const rig = await ControlRig.start(t);
  const first = await rig.guest();
  const second = await rig.guest();
  const all = await open(t, rig, '/v1/capture');
  t.equal(all.response.headers['content-type'], 'application/x-pcapng');
  const one = await open(t, rig, '/v1/capture?vm=2&snap=64');
  await first.ping('192.168.65.1', { bytes: 600 });
  await second.ping('192.168.65.1', { bytes: 600 });
  const third = await rig.guest();
  await third.ping('192.168.65.1');
  const file = `${t.testdir()}/c.pcapng`;
  const read = async (stream: OpenStream, filter: string): Promise<string[]> => {
    writeFileSync(file, stream.bytes());
    const fields = [
      '-T',
      'fields',
      '-e',
      'ip.src',
      '-e',
      'frame.len',
      '-e',
      'frame.cap_len',
      '-e',
      'frame.interface_name',
    ];
    const text = execFileSync('tshark', ['-r', file, '-Y', filter, ...fields], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return text
      .trim()
      .split('\n')
      .filter((line) => line !== '');
  };
  const pings = await rig.until(
    () => read(all, 'icmp'),
    (lines) => lines.length === 6,
    'three pings and their answers',
    20_000,
  );
  t.strictSame(
    pings.map((line) => line.split('\t')[0]).sort(),
    [first.address, second.address, third.address, ...Array(3).fill('192.168.65.1')].sort(),
  );
  const own = await rig.until(
    () => read(one, 'icmp'),
    (lines) => lines.length === 2,
    'the ping of one VM',
    20_000,
  );
  for (const line of own) t.match(line, /\t642\t64\t.*#2$/, 'of that VM, and cut');
  t.match(await rig.ask('GET', '/v1/capture?vm=77'), { status: 404 });
  const ended = new Promise((resolve) => one.response.once('end', resolve));
  await second.close();
  await ended;
  t.pass('a capture of one VM ends with it');
});

t.test('capture: a reader that hangs holds nobody up, and costs a bounded amount of memory', async (t) => {
  const rig = await ControlRig.start(t);
  const guest = await rig.guest();
  const stuck = await new Promise<IncomingMessage>((resolve, reject) => {
    const req = request({ socketPath: rig.socket, path: '/v1/capture', agent: false }, resolve);
    req.on('error', reject);
    t.teardown(() => req.destroy());
    req.end();
  });
  stuck.pause();
  const rss = rig.daemon.rssBytes();
  const big = Buffer.alloc(60_000, 1);
  const udp = guest.udp();
  for (let i = 0; i < 600; i++) {
    udp.send(big, '192.168.65.1', 9);
    await guest.ping('192.168.65.1');
  }
  t.ok(rig.daemon.rssBytes() - rss < 48 * 1024 * 1024, 'far less than the 36 MB that passed, twice');
  const chunks: Buffer[] = [];
  stuck.on('data', (chunk: Buffer) => chunks.push(chunk));
  stuck.resume();
  const dropped = await rig.until(
    async () => {
      await guest.ping('192.168.65.1');
      return droppedIn(Buffer.concat(chunks));
    },
    (n) => n > 0,
    'the stream tells of what it lacks',
  );
  t.ok(dropped > 100, `${dropped} frames are missing, and counted`);
});

/** `isb_ifdrop` of the last interface statistics block of a pcapng. */
function droppedIn(bytes: Buffer): number {
  let dropped = 0;
  for (let at = 0; at + 12 <= bytes.length; ) {
    const length = bytes.readUInt32LE(at + 4);
    if (at + length > bytes.length) break;
    // Interface statistics: id, time, then options 4 (received) and 5 (dropped), 8 bytes each.
    if (bytes.readUInt32LE(at) === 5) dropped = Number(bytes.readBigUInt64LE(at + 8 + 4 + 8 + 12 + 4));
    at += length;
  }
  return dropped;
}
