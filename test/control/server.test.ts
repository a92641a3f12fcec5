import { existsSync, lstatSync, mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { BODY_MAX_BYTES } from '../../src/control/api-route.ts';
import type { ControlSource, HealthAnswer } from '../../src/control/resources.ts';
import { ControlServer } from '../../src/control/server.ts';

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

interface Where {
  socketPath?: string;
  host?: string;
  port?: number;
}

function ask(
  where: Where,
  path: string,
  more: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { body, ...rest } = more;
    const req = request({ ...where, path, agent: false, ...rest }, (res) => {
      let text = '';
      res.setEncoding('utf8');
      res.on('data', (chunk: string) => {
        text += chunk;
      });
      res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text }));
    });
    req.on('error', reject);
    req.end(body);
  });
}

/** Sends bytes that are no proper request, gives all that comes back. */
function sendRaw(path: string, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(text));
    socket.write(bytes);
  });
}

class Fake implements ControlSource {
  status: HealthAnswer = { status: 'ok', pid: 7, uptimeSeconds: 1 };
  fails = false;
  readonly warnings: object[] = [];
  health(): HealthAnswer {
    return this.status;
  }
  async metrics(): Promise<{ contentType: string; text: string }> {
    if (this.fails) throw new Error('broken');
    return { contentType: 'text/plain; version=0.0.4; charset=utf-8', text: 'isthmus_x_total 1\n' };
  }
}

async function started(
  t: Test,
): Promise<{ fake: Fake; server: ControlServer; socket: Where; tcp: Where; path: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-control-'));
  const path = join(dir, 'c.sock');
  const fake = new Fake();
  const server = new ControlServer(fake, { warn: (fields) => fake.warnings.push(fields) });
  await server.listenOnSocket(path);
  const port = await server.listenOnLoopback('127.0.0.1', 0);
  t.teardown(() => {
    server.stop();
    rmSync(dir, { recursive: true });
  });
  return { fake, server, socket: { socketPath: path }, tcp: { host: '127.0.0.1', port }, path };
}

t.test('/healthz and /metrics on both sockets', async (t) => {
  const { fake, socket, tcp, path } = await started(t);
  t.equal(lstatSync(path).mode & 0o777, 0o600);
  for (const where of [socket, tcp]) {
    const health = await ask(where, '/healthz');
    t.equal(health.status, 200);
    t.strictSame(JSON.parse(health.text), { status: 'ok', pid: 7, uptimeSeconds: 1 });
    const metrics = await ask(where, '/metrics');
    t.equal(metrics.status, 200);
    t.equal(metrics.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
    t.equal(metrics.text, 'isthmus_x_total 1\n');
    t.equal((await ask(where, '/metrics', { method: 'HEAD' })).text, '');
  }
  fake.status = { status: 'degraded', reason: 'no resolver answers', pid: 7, uptimeSeconds: 1 };
  t.match(await ask(socket, '/healthz'), { status: 200, text: /no resolver answers/ });
  fake.status = { status: 'stopping', pid: 7, uptimeSeconds: 1 };
  t.equal((await ask(socket, '/healthz')).status, 503);
});

t.test('every error is { error: { code, message } }', async (t) => {
  const { fake, socket, tcp, path } = await started(t);
  const code = (answer: Answer) => JSON.parse(answer.text).error.code;
  const missing = await ask(socket, '/nothing');
  t.equal(missing.status, 404);
  t.equal(code(missing), 'ERR_NOT_FOUND');
  const wrong = await ask(socket, '/metrics', { method: 'DELETE' });
  t.equal(wrong.status, 405);
  t.equal(code(wrong), 'ERR_METHOD');
  t.equal(wrong.headers.allow, 'GET, HEAD');
  const large = await ask(socket, '/healthz', { method: 'POST', body: 'x'.repeat(BODY_MAX_BYTES + 1) });
  t.equal(large.status, 413);
  t.equal(code(large), 'ERR_BODY_TOO_LARGE');
  fake.fails = true;
  const failed = await ask(socket, '/metrics');
  t.equal(failed.status, 500);
  t.equal(code(failed), 'ERR_INTERNAL');
  t.notMatch(failed.text, 'broken', 'the reason is for the log');
  t.match(fake.warnings, [{ event: 'control.request.failed', err: { message: 'broken' } }]);
  const rebound = await ask(tcp, '/metrics', { headers: { Host: 'evil.example' } });
  t.equal(rebound.status, 403);
  t.equal(code(rebound), 'ERR_HOST');
  t.equal((await ask(tcp, '/healthz', { headers: { Host: 'localhost' } })).status, 200);
  t.match(await sendRaw(path, 'rubbish\r\n\r\n'), /^HTTP\/1\.1 400 .*ERR_BAD_REQUEST/s);
  t.match(
    await sendRaw(path, `GET / HTTP/1.1\r\nHost: x\r\nA: ${'x'.repeat(9000)}\r\n\r\n`),
    /^HTTP\/1\.1 431 .*ERR_HEADERS_TOO_LARGE/s,
  );
  t.equal((await ask(socket, '/healthz')).status, 200, 'and it still serves');
});

t.test('stop ends open connections and unlinks the socket', async (t) => {
  const { server, path, tcp } = await started(t);
  const idle = connect({ path });
  await new Promise((resolve) => idle.once('connect', resolve));
  const closed = new Promise((resolve) => idle.once('close', resolve));
  idle.on('error', () => {});
  server.stop();
  server.stop();
  await closed;
  t.notOk(existsSync(path));
  await t.rejects(ask(tcp, '/healthz'), { code: 'ECONNREFUSED' });
});

t.test('a taken port and a taken socket are refused with 69', async (t) => {
  const { fake, path } = await started(t);
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.teardown(() => other.close());
  const { port } = other.address() as AddressInfo;
  const second = new ControlServer(fake, { warn: (fields) => fake.warnings.push(fields) });
  t.teardown(() => second.stop());
  await t.rejects(second.listenOnLoopback('127.0.0.1', port), {
    code: 'ERR_METRICS_ADDRESS',
    exitCode: 69,
    message: `metrics: 127.0.0.1:${port} is in use by another process; expected a free port`,
  });
  await t.rejects(second.listenOnSocket(path), { code: 'ERR_SOCKET_IN_USE', exitCode: 69 });
  second.stop();
  t.ok(existsSync(path), "the other's socket is not touched");
  t.strictSame(fake.warnings, []);
});
