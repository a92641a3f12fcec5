// `/v1`: mounts every route on the app, with what all of them have in common: parameters and body are checked before the route runs,
// errors come in one shape, a path with the wrong method says which it takes.

import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { Context, Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { ApiError, asApiError, errorBody } from './api-error.ts';
import { type AnyRoute, route, runRoute } from './api-route.ts';
import { answerBeforeBody, BodyBudget } from './body-budget.ts';
import type { ConnectionKeeper } from './connection-limit.ts';
import { openApiDocument } from './openapi.ts';
import type { ApiSource } from './resources.ts';
import { daemonRoutes } from './v1-daemon.ts';
import { dnsRoutes } from './v1-dns.ts';
import { forwardRoutes } from './v1-forwards.ts';
import { networkRoutes } from './v1-network.ts';
import { proxyRoutes } from './v1-proxy.ts';

/** What the app is given for each request. */
export interface ApiEnv {
  Bindings: HttpBindings;
}

/** Every route of `/v1`. */
export function apiRoutes(source: ApiSource, keeper: ConnectionKeeper): AnyRoute[] {
  const routes: AnyRoute[] = [
    ...forwardRoutes(source, keeper),
    ...networkRoutes(source),
    ...dnsRoutes(source),
    ...proxyRoutes(source),
    ...daemonRoutes(source, keeper),
  ];
  let document: unknown;
  routes.push(
    route({
      method: 'get',
      path: '/openapi.json',
      tag: 'document',
      summary: 'This document',
      answers: { 200: { description: 'OpenAPI 3.1', type: 'application/json' } },
      run: () => {
        document ??= openApiDocument(routes, source.version);
        return { status: 200, body: document };
      },
    }),
  );
  return routes;
}

/** Puts the routes on the app. */
export function mountApi(app: Hono<ApiEnv>, source: ApiSource, keeper: ConnectionKeeper, onFailure: OnFailure): void {
  const budget = new BodyBudget();
  const methods = new Map<string, string[]>();
  for (const r of apiRoutes(source, keeper)) {
    const path = `/v1${r.path}`;
    methods.set(path, [
      ...(methods.get(path) ?? []),
      ...(r.method === 'get' ? ['GET', 'HEAD'] : [r.method.toUpperCase()]),
    ]);
    app.on(r.method.toUpperCase(), path, (c) => answer(c, r, budget, onFailure));
  }
  for (const [path, allowed] of methods) {
    const allow = allowed.join(', ');
    app.all(path, (c) => {
      c.header('Allow', allow);
      answerBeforeBody(c.env.incoming, c.env.outgoing);
      return c.json(errorBody({ code: 'ERR_METHOD', message: `${c.req.path} takes ${allow}` }), 405);
    });
  }
}

/** Hears of failures of our own. */
export type OnFailure = (error: unknown, path: string) => void;

async function answer(c: Context<ApiEnv>, r: AnyRoute, budget: BodyBudget, onFailure: OnFailure): Promise<Response> {
  const { incoming, outgoing } = c.env;
  const { type } = r.answers[200] ?? {};
  // A stream has no end that HEAD could be answered at.
  if (incoming.method === 'HEAD' && type !== undefined) return c.body(null, 200, { 'Content-Type': type });
  try {
    const params = c.req.param() as Record<string, string>;
    const { status, body, headers, stream } = await runRoute(r, incoming, outgoing, params, c.req.queries(), budget);
    if (stream === true) return RESPONSE_ALREADY_SENT;
    if (body === undefined) return c.body(null, status as 204);
    return c.json(body as object, status as ContentfulStatusCode, { 'Cache-Control': 'no-store', ...headers });
  } catch (error) {
    const refusal = asApiError(error);
    if (refusal === undefined) {
      onFailure(error, c.req.path);
      return refuse(c, new ApiError(500, 'ERR_INTERNAL', 'the request failed; the log has the reason'));
    }
    if (refusal.status >= 500 && refusal.status !== 503) onFailure(error, c.req.path);
    return refuse(c, refusal);
  }
}

function refuse(c: Context<ApiEnv>, error: ApiError): Response {
  // Hono's node server reads it away, for a moment.
  answerBeforeBody(c.env.incoming, c.env.outgoing);
  return c.json(errorBody(error), error.status as ContentfulStatusCode);
}
