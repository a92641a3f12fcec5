// What must hold of the control API under load and under attack: many forwards, many clients at once, idle crowds, slow and rude clients,
// wrong tokens. Nobody else is harmed, and memory stays bounded.

import { Agent, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { CONNECTIONS_MAX, STREAMS_MAX } from '../../src/control/connection-limit.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { type Answer, ControlRig } from './rig.ts';

function forward(port: number, more: object = {}): object {
  return { listen: { kind: 'tcp', address: '127.0.0.1', port }, target: { kind: 'guest', port: 80 }, ...more };
}

t.test('1,000 forwards are created, listed and removed in under 3 s', async (t) => {
  const rig = await ControlRig.start(t);
  const agent = new Agent({ keepAlive: true, maxSockets: 4 });
  t.teardown(() => agent.destroy());
  const before = rig.daemon.fdCount();
  await rig.ask('GET', '/v1/forwards', { agent });
  const keys = Array.from({ length: 1000 }, (_, i) => `f${i}`);
  let ms = Number.POSITIVE_INFINITY;
  // Twice at most: the machine may be busy with something else.
  for (let attempt = 0; attempt < 2 && ms >= 3000; attempt++) {
    const begun = performance.now();
    const made = await Promise.all(
      keys.map((key) => rig.ask('POST', '/v1/forwards', { body: forward(0, { key }), agent })),
    );
    const listed = await rig.ask('GET', '/v1/forwards', { agent });
    const removed = await Promise.all(keys.map((key) => rig.ask('DELETE', `/v1/forwards/${key}`, { agent })));
    ms = performance.now() - begun;
    t.ok(made.every((a) => a.status === 201));
    t.equal(listed.json.forwards.length, 1000);
    t.ok(removed.every((a) => a.status === 204));
  }
  t.ok(ms < 3000, `${Math.round(ms)} ms`);
  t.comment(`created, listed and removed in ${Math.round(ms)} ms`);
  t.equal((await rig.ask('GET', '/v1/forwards', { agent })).json.forwards.length, 0);
  agent.destroy();
  await rig.until(
    async () => rig.daemon.fdCount(),
    (n) => n <= before + 2,
    'every listener is gone',
  );
});

t.test('200 clients on overlapping keys end in a serial order, without a leaked listener', async (t) => {
  const rig = await ControlRig.start(t);
  const before = rig.daemon.fdCount();
  const random = new SeededRandom(1);
  const KEYS = 16;
  /** Of each key: requests that made it and that removed it. */
  const made = new Array<number>(KEYS).fill(0);
  const removed = new Array<number>(KEYS).fill(0);
  const agent = new Agent({ keepAlive: true, maxSockets: 200 });
  t.teardown(() => agent.destroy());
  const odd: Answer[] = [];
  const client = async (): Promise<void> => {
    for (let i = 0; i < 10; i++) {
      const key = Math.floor(Math.abs(random.i32()) % KEYS);
      if (random.i32() & 1) {
        const answer = await rig.ask('POST', '/v1/forwards', { body: forward(0, { key: `k${key}` }), agent });
        if (answer.status === 201) made[key]!++;
        else if (answer.status !== 200) odd.push(answer);
      } else {
        const answer = await rig.ask('DELETE', `/v1/forwards/k${key}`, { agent });
        if (answer.status === 204) removed[key]!++;
        else if (answer.status !== 404) odd.push(answer);
      }
    }
  };
  await Promise.all(Array.from({ length: 200 }, client));
  t.strictSame(
    odd.map(({ status, text }) => [status, text]),
    [],
  );
  const { forwards } = (await rig.ask('GET', '/v1/forwards')).json as { forwards: { key: string; bound: string[] }[] };
  const left = new Set(forwards.map((f) => f.key));
  for (let key = 0; key < KEYS; key++) {
    // In any serial order a key is made and removed in turns, so it is there exactly when it was made once more.
    t.equal(
      made[key]! - removed[key]!,
      left.has(`k${key}`) ? 1 : 0,
      `key ${key}: made ${made[key]}, removed ${removed[key]}`,
    );
  }
  t.ok(made.reduce((a, b) => a + b) > 100, 'they did meet');
  for (const { bound } of forwards) {
    const port = Number(bound[0]!.split(':')[1]);
    await new Promise<void>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve();
      });
      // There is no VM: who listens resets the client. Nobody who listens would be ECONNREFUSED.
      socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNRESET' ? resolve() : reject(error)));
    });
  }
  await rig.ask('PUT', '/v1/forwards', { body: { forwards: [] } });
  agent.destroy();
  await rig.until(
    async () => rig.daemon.fdCount(),
    (n) => n <= before + 2,
    'no listener is left',
  );
});

t.test('10,000 idle connections: memory stays bounded, others are served', { timeout: 120_000 }, async (t) => {
  const rig = await ControlRig.start(t);
  await rig.ask('GET', '/v1/vms');
  const rss = rig.daemon.rssBytes();
  const descriptors = rig.daemon.fdCount();
  const crowd = new Set<Socket>();
  t.teardown(() => {
    for (const socket of crowd) socket.destroy();
  });
  const times: number[] = [];
  for (let batch = 0; batch < 100; batch++) {
    await Promise.all(
      Array.from(
        { length: 100 },
        () =>
          new Promise<void>((resolve) => {
            const socket = connect({ path: rig.socket });
            crowd.add(socket);
            socket.on('error', () => {});
            socket.on('close', () => {
              crowd.delete(socket);
              resolve();
            });
            socket.on('connect', () => resolve());
          }),
      ),
    );
    const begun = performance.now();
    const answer = await rig.ask('GET', '/v1/vms');
    times.push(performance.now() - begun);
    if (answer.status !== 200) t.fail(`a client in between got ${answer.status}`);
  }
  t.ok(rig.daemon.fdCount() <= descriptors + CONNECTIONS_MAX + 8, `${rig.daemon.fdCount()} descriptors`);
  const grown = rig.daemon.rssBytes() - rss;
  t.ok(grown < 64 * 1024 * 1024, `grown by ${Math.round(grown / 1024)} KiB`);
  times.sort((a, b) => a - b);
  const p90 = times[Math.floor(times.length * 0.9)]!;
  t.ok(p90 < 500, `9 of 10 answers in between took at most ${Math.round(p90)} ms`);
});

t.test('slow clients: half a head and half a body are told 408, others do not wait', { timeout: 60_000 }, async (t) => {
  const rig = await ControlRig.start(t);
  const slow = (text: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ path: rig.socket }, () => socket.write(text));
      let answer = '';
      socket.on('data', (chunk: Buffer) => {
        answer += chunk.toString();
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(answer));
    });
  const heads = Array.from({ length: 50 }, () => slow('GET /v1/vms HT'));
  const bodies = Array.from({ length: 50 }, () =>
    slow('POST /v1/forwards HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"a'),
  );
  t.equal((await rig.ask('GET', '/v1/vms')).status, 200);
  for (const answer of await Promise.all(heads)) t.match(answer, /^HTTP\/1\.1 408 .*ERR_TIMEOUT/s);
  for (const answer of await Promise.all(bodies)) t.match(answer, /^HTTP\/1\.1 408 /);
});

t.test('many large bodies at once: what does not fit is turned away', { timeout: 60_000 }, async (t) => {
  const rig = await ControlRig.start(t);
  await rig.ask('GET', '/v1/vms');
  const rss = rig.daemon.rssBytes();
  const part = Buffer.alloc(1024 * 1024, 0x20);
  const answers: Promise<number>[] = [];
  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (let i = 0; i < 40; i++) {
    answers.push(
      new Promise((resolve) => {
        const socket = connect({ path: rig.socket });
        sockets.push(socket);
        socket.write(
          'PUT /v1/forwards HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n',
        );
        // Never all of it.
        for (let n = 0; n < 2; n++) socket.write(part);
        socket.on('error', () => resolve(0));
        socket.once('data', (chunk: Buffer) => resolve(Number(/^HTTP\/1\.1 (\d+)/.exec(chunk.toString())?.[1])));
        socket.on('close', () => resolve(0));
      }),
    );
  }
  const statuses = await Promise.all(answers);
  t.ok(statuses.includes(503), `some are told: ${[...new Set(statuses)]}`);
  t.ok(rig.daemon.rssBytes() - rss < 128 * 1024 * 1024, 'memory stays bounded');
  t.equal((await rig.ask('GET', '/v1/vms')).status, 200);
});

t.test('streams are few, and do not take the place of others', async (t) => {
  const rig = await ControlRig.start(t);
  const open: (() => void)[] = [];
  t.teardown(() => {
    for (const close of open) close();
  });
  const stream = (): Promise<number> =>
    new Promise((resolve, reject) => {
      const req = request({ socketPath: rig.socket, path: '/v1/events', agent: false }, (res) => {
        res.resume();
        resolve(res.statusCode ?? 0);
      });
      req.on('error', reject);
      open.push(() => req.destroy());
      req.end();
    });
  const statuses = await Promise.all(Array.from({ length: STREAMS_MAX }, stream));
  t.ok(statuses.every((status) => status === 200));
  t.equal(await stream(), 503);
  t.equal((await rig.ask('GET', '/v1/vms')).status, 200);
  open[0]!();
  await rig.until(stream, (status) => status === 200, 'a place is free again');
});

t.test('--control-tcp: the right token, or 401 and nothing else', async (t) => {
  const token = 'correct-horse-battery';
  const folder = t.testdir({ token: `${token}\nsecond line\n` });
  const tcp = ['--control-tcp', '127.0.0.1:0', '--control-token-file', join(folder, 'token')];
  const rig = await ControlRig.start(t, tcp);
  const [host, port] = (rig.daemon.ready.controlTcp as string).split(':');
  const ask = (
    path: string,
    method: string,
    headers: Record<string, string>,
  ): Promise<{ status: number; text: string }> =>
    new Promise((resolve, reject) => {
      const req = request({ host, port: Number(port), path, method, headers, agent: false }, (res) => {
        let text = '';
        res.on('data', (chunk: Buffer) => {
          text += chunk.toString();
        });
        res.on('end', () => resolve({ status: res.statusCode ?? 0, text }));
      });
      req.on('error', reject);
      req.end();
    });
  t.equal((await ask('/v1/vms', 'GET', { Authorization: `Bearer ${token}` })).status, 200);
  t.equal((await ask('/healthz', 'GET', { Authorization: `bearer ${token}` })).status, 200);
  t.equal((await ask('/v1/vms', 'GET', { Authorization: `Bearer ${token}`, Host: 'evil.example' })).status, 403);
  const refused = new Set<string>();
  for (const authorization of [
    undefined,
    '',
    'Bearer',
    'Bearer x',
    `Bearer ${token}x`,
    `Bearer ${token.slice(1)}`,
    `Basic ${token}`,
    token,
  ]) {
    for (const [method, path] of [
      ['GET', '/v1/vms'],
      ['POST', '/v1/forwards'],
      ['OPTIONS', '/v1/vms'],
      ['GET', '/v1/nothing'],
      ['GET', '/v1/events'],
      ['GET', '/metrics'],
      ['GET', '/v1/openapi.json'],
    ] as const) {
      const answer = await ask(path, method, authorization === undefined ? {} : { Authorization: authorization });
      t.equal(answer.status, 401, `${authorization} ${method} ${path}`);
      refused.add(answer.text);
    }
  }
  t.equal(refused.size, 1, 'always the same, whatever there is');
});
