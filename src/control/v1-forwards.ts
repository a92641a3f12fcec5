// `/v1/forwards`: create, list, get, delete, bulk replace. Idempotent by key; what listens and what clashes is the table's to say.

import type { IncomingMessage } from 'node:http';
import type { Forward, ForwardSpec } from '../forwarder/forward-spec.ts';
import { ApiError, asApiError } from './api-error.ts';
import { type AnyRoute, route, shown } from './api-route.ts';
import type { ConnectionKeeper } from './connection-limit.ts';
import type { ApiSource, ForwardTable } from './resources.ts';
import {
  type CloseQuery,
  closeQuery,
  type ForwardBulk,
  type ForwardQuery,
  forwardBulk,
  forwardQuery,
  forwardSpec,
  type IdParams,
  idParams,
  type ReplaceQuery,
  replaceQuery,
} from './schemas.ts';
import { forwardAnswer, forwardList } from './schemas-answers.ts';

/** A bulk replace of FORWARDS_MAX forwards fits. */
const BULK_MAX_BYTES = 4 * 1024 * 1024;

const ERRORS = {
  ERR_FORWARD_SPEC: '400: a field of the forward is wrong; `key` names it',
  ERR_ADDRESS_NOT_LOCAL: '400: no interface of the host has the address',
  ERR_LISTEN_FD: '400: no such --listen-fd, or not a socket of that kind',
  ERR_SOCKET_PATH: '400: the unix socket cannot be made at this path',
  ERR_PORT_PRIVILEGED: '403: the port needs a privilege; the message has the remedy',
  ERR_BIND_NOT_ALLOWED: '403: outside of --allow-bind',
  ERR_FORWARD_EXISTS: '409: the key is taken by another forward, which the message names',
  ERR_PORT_IN_USE: '409: taken by another forward, which the message names, or by another program',
  ERR_ADDRESS_TAKEN: '409: a guest-facing address that a VM has or is to have',
  ERR_GUEST_AMBIGUOUS: '409: no guest is named, and several VMs are connected',
  ERR_FORWARD_LIMIT: '429: too many forwards',
  ERR_STATE: '500: the state file cannot be written',
  ERR_FORWARD: '500: the system refused for another reason',
  ERR_HOST_LIMIT: '503: out of descriptors or memory',
  ERR_STOPPING: '503: the daemon ends',
} as const;

export function forwardRoutes(source: ApiSource, keeper: ConnectionKeeper): AnyRoute[] {
  const table = source.forwards;
  return [
    route<undefined, ForwardQuery>({
      method: 'get',
      path: '/forwards',
      tag: 'forwards',
      summary: 'Lists forwards',
      query: forwardQuery,
      answers: { 200: { description: 'The forwards, oldest first', schema: forwardList } },
      run: ({ query }) => ({ status: 200, body: { forwards: table.list().filter((f) => fits(f, query)) } }),
    }),
    route<undefined, ReplaceQuery, ForwardSpec>({
      method: 'post',
      path: '/forwards',
      tag: 'forwards',
      summary: 'Creates a forward, or finds the one with the same key that is the same',
      query: replaceQuery,
      body: forwardSpec,
      errors: ERRORS,
      answers: {
        200: { description: 'It was there already', schema: forwardAnswer },
        201: { description: 'It listens', schema: forwardAnswer },
      },
      run: async ({ query, body, incoming }) => {
        const holder = body.lease === 'connection' ? { holder: holderOf(table, keeper, incoming) } : {};
        const { forward, created } = await table.add(body, { replace: query.replace, ...holder });
        const status = created ? 201 : 200;
        // Clients that heed the hint would let go of an idle connection after it, and so of the forward.
        return body.lease === 'connection'
          ? { status, body: forward, headers: { 'Keep-Alive': 'timeout=31536000' } }
          : { status, body: forward };
      },
    }),
    route<undefined, undefined, ForwardBulk>({
      method: 'put',
      path: '/forwards',
      tag: 'forwards',
      summary: "Makes an owner's forwards exactly these: adds, replaces and removes as needed",
      body: forwardBulk,
      bodyMaxBytes: BULK_MAX_BYTES,
      errors: ERRORS,
      answers: { 200: { description: 'Those that are now', schema: forwardList } },
      run: async ({ body }) => {
        const lasting = body.forwards.findIndex((f) => f.lease === 'connection');
        if (lasting >= 0) {
          throw new ApiError(
            400,
            'ERR_VALUE',
            'a forward that lasts as long as a connection is made with POST',
            `forwards[${lasting}].lease`,
          );
        }
        try {
          return { status: 200, body: { forwards: await table.replace(body.forwards, body.owner) } };
        } catch (error) {
          throw inList(error);
        }
      },
    }),
    route<IdParams>({
      method: 'get',
      path: '/forwards/:id',
      tag: 'forwards',
      summary: 'One forward, by id or key',
      params: idParams,
      errors: { ERR_FORWARD_NOT_FOUND: '404: there is no such forward' },
      answers: { 200: { description: 'The forward with its counters', schema: forwardAnswer } },
      run: ({ params }) => {
        return { status: 200, body: find(table, params.id) };
      },
    }),
    route<IdParams, CloseQuery>({
      method: 'delete',
      path: '/forwards/:id',
      tag: 'forwards',
      summary: 'Removes a forward, by id or key; its connections go on unless `close` is true',
      params: idParams,
      query: closeQuery,
      errors: { ERR_FORWARD_NOT_FOUND: '404: there is no such forward' },
      answers: { 204: { description: 'It listens no more' } },
      run: async ({ params, query }) => {
        const { id } = find(table, params.id);
        if (!(await table.remove(id, { close: query.close }))) throw notFound(params.id);
        return { status: 204 };
      },
    }),
  ];
}

/** The connection that a forward is to last as long as: it is kept from idling out, and its end releases what hangs on it. */
function holderOf(table: ForwardTable, keeper: ConnectionKeeper, incoming: IncomingMessage): object {
  const { socket } = incoming;
  // The release is queued behind whatever this connection has asked for before.
  keeper.keep(socket, () => {
    table.release(socket).catch(() => {});
  });
  return socket;
}

function find(table: ForwardTable, idOrKey: string): Forward {
  const forward = table.get(idOrKey) ?? table.list({ key: idOrKey })[0];
  if (forward === undefined) throw notFound(idOrKey);
  return forward;
}

function fits(forward: Forward, query: ForwardQuery): boolean {
  if (query.owner !== undefined && forward.spec.owner !== query.owner) return false;
  if (query.state !== undefined && forward.state !== query.state) return false;
  if (query.label === undefined) return true;
  const equals = query.label.indexOf('=');
  const name = equals < 0 ? query.label : query.label.slice(0, equals);
  const value = Object.hasOwn(forward.spec.labels ?? {}, name) ? forward.spec.labels?.[name] : undefined;
  return value !== undefined && (equals < 0 || value === query.label.slice(equals + 1));
}

function notFound(id: string): ApiError {
  return new ApiError(404, 'ERR_FORWARD_NOT_FOUND', `there is no forward with the id or key "${shown(id)}"`, 'path.id');
}

/** The key of what is wrong with one forward of a list begins with its place. */
function inList(error: unknown): unknown {
  const refusal = asApiError(error);
  const at = (error as { readonly at?: unknown }).at;
  if (refusal === undefined || typeof at !== 'number') return error;
  const { status, code, message, key } = refusal;
  const placed = new ApiError(status, code, message, `forwards[${at}]${key === undefined ? '' : `.${key}`}`);
  placed.cause = error;
  return placed;
}
