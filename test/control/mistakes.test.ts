// Every way to ask /v1 wrongly: the status, the code, and the path of what is to blame.

import t from 'tap';
import { apiRoutes } from '../../src/control/api.ts';
import { BODY_MAX_BYTES } from '../../src/control/api-route.ts';
import type { ConnectionKeeper } from '../../src/control/connection-limit.ts';
import { EVENT_TYPES } from '../../src/control/event-hub.ts';
import type { ApiSource } from '../../src/control/resources.ts';
import { FLOW_STATES } from '../../src/control/schemas.ts';
import { STATE_NAMES } from '../../src/tcp/state.ts';
import { type Answer, ControlRig } from './rig.ts';

const routes = apiRoutes({ version: '0' } as ApiSource, {} as ConnectionKeeper);

function forward(port: number, more: object = {}): object {
  return { listen: { kind: 'tcp', address: '127.0.0.1', port }, target: { kind: 'guest', port: 80 }, ...more };
}

t.test('mistakes: status, code and key', async (t) => {
  const rig = await ControlRig.start(t);
  const json = { 'Content-Type': 'application/json' };
  const post = (raw: string, headers: Record<string, string> = json, path = '/v1/forwards') =>
    rig.ask('POST', path, { raw, headers });
  const spec = (more: object) => JSON.stringify({ ...forward(0), ...more });
  const cases: [string, Promise<Answer>, number, string, string?][] = [
    ['no JSON', post('{'), 400, 'ERR_BAD_JSON'],
    [
      'no UTF-8',
      rig.ask('POST', '/v1/forwards', { raw: Buffer.from([0x22, 0xff, 0x22]), headers: json }),
      400,
      'ERR_BAD_JSON',
    ],
    ['a list', post('[]'), 400, 'ERR_VALUE'],
    ['a number', post('7'), 400, 'ERR_VALUE'],
    ['an unknown field', post(spec({ listne: 1 })), 400, 'ERR_UNKNOWN_FIELD', 'listne'],
    ['__proto__', post(`{"__proto__":{},${spec({}).slice(1)}`), 400, 'ERR_UNKNOWN_FIELD', '__proto__'],
    [
      'an unknown field below',
      post(spec({ target: { kind: 'guest', port: 1, x: 1 } })),
      400,
      'ERR_UNKNOWN_FIELD',
      'target.x',
    ],
    ['a missing field', post(spec({ target: { kind: 'guest' } })), 400, 'ERR_VALUE', 'target.port'],
    ['a wrong type', post(spec({ target: { kind: 'guest', port: '80' } })), 400, 'ERR_VALUE', 'target.port'],
    ['an unknown kind', post(spec({ listen: { kind: 'sctp' } })), 400, 'ERR_VALUE', 'listen.kind'],
    ['a wrong mode', post(spec({ client: 'x' })), 400, 'ERR_VALUE', 'client'],
    ['a wrong lease', post(spec({ lease: 'foo' })), 400, 'ERR_VALUE', 'lease'],
    ['a wrong time', post(spec({ lease: { until: 'soon' } })), 400, 'ERR_VALUE', 'lease.until'],
    [
      'too many labels',
      post(spec({ labels: Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`l${i}`, ''])) })),
      400,
      'ERR_VALUE',
      'labels',
    ],
    ['deep nesting', post('['.repeat(30_000)), 400, 'ERR_BAD_JSON'],
    ['no content type', post(spec({}), {}), 415, 'ERR_CONTENT_TYPE'],
    ['another content type', post(spec({}), { 'Content-Type': 'text/plain' }), 415, 'ERR_CONTENT_TYPE'],
    ['too large', post('x'.repeat(BODY_MAX_BYTES + 1)), 413, 'ERR_BODY_TOO_LARGE'],
    ['an unknown parameter', rig.ask('GET', '/v1/flows?vmm=1'), 400, 'ERR_UNKNOWN_FIELD', 'query.vmm'],
    ['a parameter where there is none', rig.ask('GET', '/v1/vms?x=1'), 400, 'ERR_UNKNOWN_FIELD', 'query.x'],
    ['a wrong parameter', rig.ask('GET', '/v1/flows?limit=0'), 400, 'ERR_VALUE', 'query.limit'],
    ['a parameter twice', rig.ask('GET', '/v1/flows?limit=1&limit=2'), 400, 'ERR_VALUE', 'query.limit'],
    ['a body where there is none', rig.ask('DELETE', '/v1/forwards/x', { body: {} }), 400, 'ERR_UNKNOWN_FIELD'],
    [
      'an address of another host',
      post(spec({ listen: { kind: 'tcp', address: '203.0.113.9', port: 1 } })),
      400,
      'ERR_ADDRESS_NOT_LOCAL',
      'listen.address',
    ],
    [
      'a range past the end',
      post(spec({ listen: { kind: 'tcp', address: '127.0.0.1', port: 65_535, count: 2 } })),
      400,
      'ERR_FORWARD_SPEC',
      'listen.count',
    ],
    [
      'a guest that is none',
      post(spec({ target: { kind: 'guest', guest: '8.8.8.8', port: 1 } })),
      400,
      'ERR_FORWARD_SPEC',
      'target.guest',
    ],
    [
      'no such descriptor',
      post(spec({ listen: { kind: 'fd', name: 'x', protocol: 'tcp' } })),
      400,
      'ERR_LISTEN_FD',
      'listen.name',
    ],
    [
      'a path that cannot be',
      post(spec({ listen: { kind: 'unix', path: '/proc/x' } })),
      400,
      'ERR_SOCKET_PATH',
      'listen.path',
    ],
    ['no such forward', rig.ask('GET', '/v1/forwards/x'), 404, 'ERR_FORWARD_NOT_FOUND', 'path.id'],
    ['no such flow', rig.ask('DELETE', '/v1/flows/x'), 404, 'ERR_FLOW_NOT_FOUND', 'path.id'],
    ['no such VM', rig.ask('DELETE', '/v1/vms/7'), 404, 'ERR_VM_NOT_FOUND', 'path.id'],
    ['no number of a VM', rig.ask('GET', '/v1/vms/x'), 400, 'ERR_VALUE', 'path.id'],
    ['no such VM to capture', rig.ask('GET', '/v1/capture?vm=7'), 404, 'ERR_VM_NOT_FOUND', 'query.vm'],
    ['no such lease', rig.ask('DELETE', '/v1/leases/192.168.65.77'), 404, 'ERR_LEASE_NOT_FOUND', 'path.address'],
    ['no such name', rig.ask('GET', '/v1/dns/names/a.b'), 404, 'ERR_DNS_NOT_FOUND', 'path.name'],
    ['an address that is none', rig.ask('GET', '/v1/flows?remote=nonsense'), 400, 'ERR_VALUE', 'query.remote'],
    ['a port that is none', rig.ask('GET', '/v1/flows?guest=192.168.65.3:70000'), 400, 'ERR_VALUE', 'query.guest'],
    ['a state that is none', rig.ask('GET', '/v1/flows?state=what'), 400, 'ERR_VALUE', 'query.state'],
    [
      'a label __proto__',
      post(spec({}).replace(/}$/, ',"labels":{"__proto__":"x"}}')),
      400,
      'ERR_UNKNOWN_FIELD',
      'labels.__proto__',
    ],
    [
      'a label constructor',
      post(spec({ labels: { constructor: 'x' } })),
      400,
      'ERR_UNKNOWN_FIELD',
      'labels.constructor',
    ],
    [
      'an escaped one',
      post(spec({}).replace(/}$/, ',"labels":{"prototyp\\u0065":"x"}}')),
      400,
      'ERR_UNKNOWN_FIELD',
      'labels.prototype',
    ],
    ['a compressed body', post(spec({}), { ...json, 'Content-Encoding': 'gzip' }), 415, 'ERR_CONTENT_TYPE'],
    ['no such type of events', rig.ask('GET', '/v1/events?types=zzz'), 400, 'ERR_VALUE', 'query.types'],
    ['half a type of events', rig.ask('GET', '/v1/events?types=vm,forw'), 400, 'ERR_VALUE', 'query.types'],
    ['no such path', rig.ask('GET', '/v1/nothing'), 404, 'ERR_NOT_FOUND'],
    ['no such version', rig.ask('GET', '/v2/vms'), 404, 'ERR_NOT_FOUND'],
  ];
  for (const [what, asked, status, code, key] of cases) {
    const answer = await asked;
    t.equal(answer.status, status, what);
    t.equal(answer.json.error.code, code, what);
    t.equal(answer.json.error.key, key, `${what}: ${answer.json.error.message}`);
    t.type(answer.json.error.message, 'string');
    t.match(answer.headers['content-type'], /^application\/json/);
  }
  const { message } = (await rig.ask('GET', '/v1/events?types=vm,zzz')).json.error;
  t.match(message, '"zzz"', 'which one');
  for (const type of Object.keys(EVENT_TYPES)) t.match(message, type, 'and which there are');
  const chunked = await rig.ask('POST', '/v1/forwards', {
    raw: 'x'.repeat(BODY_MAX_BYTES + 1),
    headers: { ...json, 'Transfer-Encoding': 'chunked' },
  });
  t.equal(chunked.status, 413, 'too large without a length');
  const huge = Buffer.alloc(10 * 1024 * 1024, 0x20);
  for (const more of [{}, { 'Transfer-Encoding': 'chunked' }]) {
    const answer = await rig.ask('POST', '/v1/forwards', { raw: huge, headers: { ...json, ...more } });
    t.equal(answer.status, 413, 'who sends far too much hears of it, too');
  }
  for (const { path } of routes) {
    const answer = await rig.ask('OPTIONS', `/v1${path.replace(/:\w+/g, '1')}`);
    t.equal(answer.status, 405, path);
    const allowed = routes
      .filter((r) => r.path === path)
      .flatMap((r) => (r.method === 'get' ? ['GET', 'HEAD'] : [r.method.toUpperCase()]));
    t.equal(answer.headers.allow, allowed.join(', '));
  }
  t.match(await rig.ask('HEAD', '/v1/vms'), { status: 200, text: '' });
  t.equal((await rig.ask('GET', '/v1/vms')).status, 200, 'and it still serves');
});

t.test('the states that flows may be asked for are those that there are', (t) => {
  t.strictSame([...FLOW_STATES].sort(), [...STATE_NAMES, 'OPEN'].sort());
  t.end();
});
