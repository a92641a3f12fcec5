// docs/control-api.md and the control API say the same: routes, error codes, events, limits; and its curl examples work.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { projectRoot } from '../../scripts/project.ts';
import { apiRoutes } from '../../src/control/api.ts';
import { BODY_MAX_BYTES } from '../../src/control/api-route.ts';
import type { ConnectionKeeper } from '../../src/control/connection-limit.ts';
import { CONNECTIONS_MAX, OWNERS_MAX, STREAMS_MAX } from '../../src/control/connection-limit.ts';
import { EVENT_TYPES } from '../../src/control/event-hub.ts';
import { COMMON_ERRORS } from '../../src/control/openapi.ts';
import type { ApiSource } from '../../src/control/resources.ts';
import { FLOW_PAGE_MAX } from '../../src/control/schemas.ts';
import { CLIENT_COMMANDS } from '../../src/daemon/client-names.ts';
import { ZONE_NAMES_MAX, ZONE_RECORDS_MAX, ZONES_MAX } from '../../src/dns/zones.ts';
import { FORWARD_STATUS } from '../../src/forwarder/forward-spec.ts';
import { ControlRig } from '../control/rig.ts';
import { needsProgram } from '../helpers/requirements.ts';

const text = readFileSync(join(projectRoot, 'docs/control-api.md'), 'utf8');
const routes = apiRoutes({ version: '0' } as ApiSource, {} as ConnectionKeeper);

t.test('every route is documented, and no other', (t) => {
  const documented = new Set(
    [...text.matchAll(/`(GET|POST|PUT|PATCH|DELETE) (\/v1\/[a-z./:]+)`/g)].map(([, m, p]) => `${m} ${p}`),
  );
  const real = routes.map(({ method, path }) => `${method.toUpperCase()} /v1${path}`);
  t.ok(real.length > 25);
  t.strictSame([...documented].sort(), real.sort());
  t.end();
});

t.test('every error code is in the table with its status', (t) => {
  const table = new Map<string, string>();
  for (const [, status, codes] of text.matchAll(/^\| (\d{3}) \| ([^|]*) \|/gm))
    for (const [, code] of codes!.matchAll(/`(ERR_\w+)`/g)) table.set(code!, status!);
  const real = new Map<string, string>(Object.entries(FORWARD_STATUS).map(([code, status]) => [code, String(status)]));
  for (const errors of [COMMON_ERRORS, ...routes.map((r) => r.errors ?? {})])
    for (const [code, meaning] of Object.entries(errors)) real.set(code, meaning.slice(0, 3));
  for (const [code, status] of real) t.equal(table.get(code), status, code);
  for (const code of table.keys()) t.ok(real.has(code) || code === 'ERR_STATE', `${code} exists`);
  t.end();
});

t.test('events, limits and commands', (t) => {
  const section = (title: string): string => text.split(/^## /m).find((part) => part.startsWith(`${title}\n`)) ?? '';
  const events = [...section('Events').matchAll(/^\| (`[^|]*) \|/gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`([a-z.]+)`/g)].map(([, e]) => e!),
  );
  t.strictSame(events.sort(), [...Object.keys(EVENT_TYPES), 'lost'].sort());
  const limits = section('Limits');
  for (const n of [
    CONNECTIONS_MAX,
    STREAMS_MAX,
    OWNERS_MAX,
    BODY_MAX_BYTES / 1024,
    ZONES_MAX,
    ZONE_RECORDS_MAX,
    ZONE_NAMES_MAX,
  ])
    t.ok(limits.includes(n.toLocaleString('en')), String(n));
  t.ok(section('Flows').includes(FLOW_PAGE_MAX.toLocaleString('en')));
  for (const name of Object.keys(CLIENT_COMMANDS))
    t.ok(text.includes(`isthmus ${name}`) || section('The commands').includes(`\`${name}\``), name);
  t.end();
});

t.test('the curl examples work', { skip: needsProgram('curl') }, async (t) => {
  const rig = await ControlRig.start(t, ['--api', 'gvproxy:gv.sock', '--api', 'vpnkit:vp.sock']);
  await rig.guest();
  const sockets: Record<string, string> = {
    '/run/isthmus.sock': rig.socket,
    '/run/gvproxy.sock': rig.path('gv.sock'),
    '/run/vpnkit-control.sock': rig.path('vp.sock'),
  };
  const blocks = [...text.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block]) => block!);
  const commands = blocks.flatMap((block) => block.match(/^curl (?:[^\n]*\\\n)*(?:[^\n']|'[^']*')*$/gm) ?? []);
  let ran = 0;
  for (const command of commands) {
    const socket = Object.keys(sockets).find((path) => command.includes(`--unix-socket ${path} `));
    if (socket === undefined || /\/v1\/(drain|shutdown)/.test(command)) continue;
    const [curl] = command.split(/ \| /);
    const line = curl!
      .replace(socket, sockets[socket]!)
      .replace(/^curl/, `curl -sS --max-time 1 -o /dev/null -w '%{http_code}'`);
    const status = execFileSync('sh', ['-c', `${line} 2>/dev/null || true`], { encoding: 'utf8' });
    // What an example takes away may not be there any more; a privilege or an address may be another's on this machine.
    t.match(status, /^(200|201|204|404|409)$/, `${status}: ${command.slice(0, 160)}`);
    ran++;
  }
  t.ok(ran > 20, `${ran} examples`);
});
