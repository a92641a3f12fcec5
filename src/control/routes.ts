// What each side of the control server answers, as a hono app. The unix socket has all: /healthz, /metrics and /v1. The TCP port of
// --control-tcp has the same, for who has shown the token (front-door.ts); that of --metrics only what changes nothing. It owns no socket.
// Loaded on demand, as hono takes 20 ms.
//
// Every error is `{ "error": { "code", "message", "key"? } }`; codes are public, messages are for people.

import type { RequestListener } from 'node:http';
import { getRequestListener, RequestError } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { type ApiEnv, mountApi, type OnFailure } from './api.ts';
import { errorBody } from './api-error.ts';
import { BODY_MAX_BYTES } from './api-route.ts';
import { answerBeforeBody } from './body-budget.ts';
import type { ConnectionKeeper } from './connection-limit.ts';
import type { ApiSource, ControlSource } from './resources.ts';

/**
 * Where a request came in: the private unix socket; the loopback TCP port of --control-tcp, with a token; or that of --metrics, which
 * any user of the host can reach.
 */
export type ControlSide = 'socket' | 'tcp' | 'metrics';

export interface SideOptions {
  readonly side: ControlSide;
  /** Absent where there is no network behind it. */
  readonly api: ApiSource | undefined;
  readonly keeper: ConnectionKeeper;
  readonly onFailure: OnFailure;
}

const INTERNAL = { code: 'ERR_INTERNAL', message: 'the request failed; the log has the reason' } as const;

/** The request listener of one side. */
export function createListener(source: ControlSource, options: SideOptions): RequestListener {
  const { side, api, keeper, onFailure } = options;
  const app = new Hono<ApiEnv>();
  if (side !== 'socket') {
    // A web page can make a browser of this host ask us under a name of its own (DNS rebinding): names are not answered.
    app.use(async (c, next) => {
      if (!isLocalHost(new URL(c.req.url).hostname))
        return fail(c, 403, 'ERR_HOST', 'ask by loopback address, not by name');
      return next();
    });
  }
  const limit = bodyLimit({
    maxSize: BODY_MAX_BYTES,
    onError: (c) => fail(c, 413, 'ERR_BODY_TOO_LARGE', `a request body has at most ${BODY_MAX_BYTES} bytes`),
  });
  app.get('/healthz', limit, (c) => {
    const health = source.health();
    return c.json(health, health.status === 'stopping' ? 503 : 200, { 'Cache-Control': 'no-store' });
  });
  app.get('/metrics', limit, async (c) => {
    const { contentType, text } = await source.metrics();
    return c.body(text, 200, { 'Content-Type': contentType, 'Cache-Control': 'no-store' });
  });
  for (const path of ['/healthz', '/metrics']) {
    app.all(path, limit, (c) => {
      c.header('Allow', 'GET, HEAD');
      return fail(c, 405, 'ERR_METHOD', `${path} is read with GET`);
    });
  }
  if (api !== undefined && side !== 'metrics') mountApi(app, api, keeper, onFailure);
  app.notFound((c) => fail(c, 404, 'ERR_NOT_FOUND', `there is no ${c.req.path}`));
  app.onError((error, c) => {
    onFailure(error, c.req.path);
    return fail(c, 500, INTERNAL.code, INTERNAL.message);
  });
  return getRequestListener(app.fetch, {
    // HTTP/1.0 needs no Host.
    hostname: 'localhost',
    // A Host or a target that makes no URL.
    errorHandler: (error) => {
      const body = errorBody({
        code: 'ERR_BAD_REQUEST',
        message: 'the header Host or the path of the request is malformed',
      });
      if (error instanceof RequestError) return Response.json(body, { status: 400 });
      onFailure(error, '');
      return Response.json(errorBody(INTERNAL), { status: 500 });
    },
  });
}

function fail(c: Context<ApiEnv>, status: ContentfulStatusCode, code: string, message: string): Response {
  answerBeforeBody(c.env.incoming, c.env.outgoing);
  return c.json(errorBody({ code, message }), status);
}

function isLocalHost(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}
