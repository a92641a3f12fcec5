// What node:http would answer by itself, before anybody has looked at the token: on raw sockets, as a rude client writes it.

import { connect } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { BODY_MAX_BYTES } from '../../src/control/api-route.ts';
import { ControlRig } from './rig.ts';

const TOKEN = 'correct-horse-battery';

/** Everything that comes back until the server closes, or `enough` has come; and how long that took. */
function raw(
  to: { path: string } | { port: number; host: string },
  text: string,
  enough: RegExp = /\0/,
): Promise<{ answer: string; ms: number }> {
  return new Promise((resolve, reject) => {
    const begun = performance.now();
    const socket = connect({ ...to, allowHalfOpen: true }, () => socket.write(text));
    let answer = '';
    const done = (): void => {
      socket.destroy();
      resolve({ answer, ms: performance.now() - begun });
    };
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString();
      if (enough.test(answer)) done();
    });
    socket.on('error', (error) => (answer === '' ? reject(error) : done()));
    socket.on('end', done);
  });
}

async function withToken(t: Test): Promise<{ rig: ControlRig; at: { port: number; host: string } }> {
  const folder = t.testdir({ token: `${TOKEN}\n` });
  const rig = await ControlRig.start(t, [
    ...['--control-tcp', '127.0.0.1:0', '--control-token-file', join(folder, 'token')],
  ]);
  const [host, port] = (rig.daemon.ready.controlTcp as string).split(':');
  return { rig, at: { port: Number(port), host: host! } };
}

const BODY = 'Content-Type: application/json\r\nContent-Length: 2\r\n';
/** Requests that are odd, or none; `AUTH` stands for the header. */
const ODD: readonly (readonly [what: string, request: string, withToken: RegExp])[] = [
  ['no Host', 'GET /v1/vms HTTP/1.1\r\nAUTH\r\n', /^HTTP\/1\.1 400 .*ERR_BAD_REQUEST.*Host/s],
  ['HTTP/1.0', 'GET /v1/vms HTTP/1.0\r\nAUTH\r\n', /^HTTP\/1\.1 200 .*"vms"/s],
  ['a malformed Host', 'GET /v1/vms HTTP/1.1\r\nHost: a b\r\nAUTH\r\n', /^HTTP\/1\.1 400 .*"code":"ERR_BAD_REQUEST"/s],
  [
    'Expect: foo',
    `POST /v1/forwards HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: foo\r\n${BODY}AUTH\r\n{}`,
    /^HTTP\/1\.1 417 .*ERR_EXPECTATION/s,
  ],
  ['OPTIONS *', 'OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nAUTH\r\n', /^HTTP\/1\.1 40[045] .*"code":"ERR_/s],
  ['CONNECT', 'CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAUTH\r\n', /^HTTP\/1\.1 405 .*ERR_METHOD/s],
  [
    'an upgrade',
    'GET /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAUTH\r\n',
    /^HTTP\/1\.1 200 .*"vms"/s,
  ],
  ['HTTP/2', 'PRI * HTTP/2.0\r\nAUTH\r\nSM\r\n\r\n', /^HTTP\/1\.1 40[01] /],
  ['no HTTP', 'rubbish\r\n\r\n', /^HTTP\/1\.1 401 /],
  [
    'too large a head',
    `GET /v1/vms HTTP/1.1\r\nHost: 127.0.0.1\r\nAUTHX: ${'x'.repeat(9000)}\r\n\r\n`,
    /^HTTP\/1\.1 401 /,
  ],
];

t.test('without the token everything odd is 401, with one and the same body', async (t) => {
  const { rig, at } = await withToken(t);
  const heads = new Set<string>();
  for (const wrong of ['', 'Authorization: Bearer nonsense\r\n']) {
    for (const [what, request] of ODD) {
      const { answer } = await raw(at, request.replace('AUTH', wrong), /\r\n\r\n\{.*\}$/s);
      t.match(answer, /^HTTP\/1\.1 401 Unauthorized\r\n/, `${what}: ${answer.slice(0, 40)}`);
      t.match(answer, /\r\nWWW-Authenticate: Bearer\r\n/i, what);
      heads.add(answer.slice(answer.indexOf('\r\n\r\n')));
    }
    const body = 'POST /v1/forwards HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n';
    for (const more of ['Expect: 100-continue\r\nContent-Length: 2\r\n', 'Content-Length: 100\r\n']) {
      const { answer, ms } = await raw(at, `${body}${more}${wrong}\r\n`, /\r\n\r\n\{.*\}$/s);
      t.match(answer, /^HTTP\/1\.1 401 /, `${more.slice(0, 20)}: not asked for the body, nor waited for`);
      t.ok(ms < 900, `${Math.round(ms)} ms`);
      heads.add(answer.slice(answer.indexOf('\r\n\r\n')));
    }
  }
  t.equal(heads.size, 1, 'always the same');
  t.equal((await rig.ask('GET', '/v1/vms')).status, 200, 'and it still serves');
});

t.test('with the token odd requests have an answer in the one shape', async (t) => {
  const { at } = await withToken(t);
  for (const [what, request, expected] of ODD) {
    const { answer } = await raw(at, request.replace('AUTH', `Authorization: Bearer ${TOKEN}\r\n`), /\r\n\r\n\{.*\}$/s);
    t.match(answer, expected, `${what}: ${answer.slice(0, 200)}`);
  }
  const good = `GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n`;
  const { answer } = await raw(at, `${good}rubbish\r\n\r\n`, /ERR_[A-Z_]+"/);
  t.match(answer, /ERR_BAD_REQUEST/, 'who has shown it is told what is wrong with the rest');
});

t.test('Expect: 100-continue is answered when the body is wanted, and a body too large at once', async (t) => {
  const rig = await ControlRig.start(t);
  const at = { path: rig.socket };
  const head = 'POST /v1/forwards HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
  const expecting = `${head}Expect: 100-continue\r\n`;
  const asked = await raw(at, `${expecting}Content-Length: 2\r\n\r\n`, /^HTTP\/1\.1 100 Continue\r\n\r\n$/);
  t.equal(asked.answer, 'HTTP/1.1 100 Continue\r\n\r\n');
  for (const [what, text] of [
    ['expected', `${expecting}Content-Length: ${BODY_MAX_BYTES + 1}\r\n\r\n`],
    ['just sent', `${head}Content-Length: ${BODY_MAX_BYTES + 1}\r\n\r\n`],
    ['a terabyte', `${head}Content-Length: 1000000000000\r\n\r\n`],
  ] as const) {
    const { answer, ms } = await raw(at, text, /\}$/);
    t.match(answer, /^HTTP\/1\.1 413 .*ERR_BODY_TOO_LARGE/s, what);
    t.ok(ms < 900, `${what}: ${Math.round(ms)} ms`);
  }
  const nowhere = await raw(at, `${expecting.replace('forwards', 'nothing')}Content-Length: 2\r\n\r\n`, /\}$/);
  t.match(nowhere.answer, /^HTTP\/1\.1 404 /, 'nor is a body asked for that nobody reads');
  t.match(nowhere.answer, /connection: close/i, 'as it may come or not');
});

t.test('an answer under way is not broken into', async (t) => {
  const rig = await ControlRig.start(t);
  const socket = connect({ path: rig.socket }, () => socket.write('GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n'));
  let answer = '';
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString();
    if (answer.endsWith('retry: 1000\n\n\r\n')) socket.write('rubbish\r\n\r\n');
  });
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('close', resolve));
  t.match(answer, /retry: 1000\n\n\r\n$/, 'the stream ends, without an error in its middle');
});

t.test('who asks for the end of the connection has it at once, also when the body was not wanted', async (t) => {
  const rig = await ControlRig.start(t);
  for (const path of ['/v1/nothing', '/v1/forwards?replace=maybe', '/v1/vms', '/healthz']) {
    const text = `POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}`;
    const { answer, ms } = await raw({ path: rig.socket }, text);
    t.match(answer, /^HTTP\/1\.1 40\d .*"ERR_/s);
    t.ok(ms < 900, `${path}: ${Math.round(ms)} ms`);
  }
});

t.test('who sends a large body where none is wanted sees why it was refused', async (t) => {
  const { rig, at } = await withToken(t);
  const huge = ' '.repeat(4 * 1024 * 1024);
  for (const close of ['', 'Connection: close\r\n']) {
    const head = (path: string) =>
      `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${close}Content-Length: ${huge.length}\r\n\r\n`;
    for (const [to, path, status] of [
      [at, '/v1/forwards', 401],
      [{ path: rig.socket }, '/v1/nothing', 404],
      [{ path: rig.socket }, '/v1/vms', 405],
      [{ path: rig.socket }, '/healthz', 413],
      [{ path: rig.socket }, '/v1/forwards', 413],
    ] as const) {
      const { answer } = await raw(to, `${head(path)}${huge}`, /\}$/);
      t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), `${path} ${close}`);
    }
  }
});
