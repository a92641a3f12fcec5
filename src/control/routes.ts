// The routes of the control API, as a hono app: what is answered to which request, and in which shape errors come. It owns no
// socket. Loaded on demand, as hono takes 20 ms.
//
// Every error is `{ "error": { "code", "message" } }`; codes are public, messages are for people.

import type { RequestListener } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { ContentfulStatusCode } from 'hono/utils/http-status';

/** Answer of `GET /healthz`. `ok` is 200, `degraded` is 200 with a reason (it still serves), `stopping` is 503. */
export interface HealthAnswer {
  readonly status: 'ok' | 'degraded' | 'stopping';
  readonly reason?: string;
  readonly pid: number;
  readonly uptimeSeconds: number;
}

/** What the routes read. */
export interface ControlSource {
  health(): HealthAnswer;
  /** Prometheus text. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
}

/** Where a request came in: the private unix socket, or the loopback TCP port, which any user of the host can reach. */
export type ControlSide = 'socket' | 'loopback';

/** Hears of failures of our own. */
export type OnFailure = (error: unknown, path: string) => void;

/** Largest request body. */
export const BODY_MAX_BYTES: number = 64 * 1024;

/** The request listener of one side. */
export function createListener(source: ControlSource, side: ControlSide, onFailure: OnFailure): RequestListener {
  const app = new Hono();
  if (side === 'loopback') {
    // A web page can make a browser of this host ask us under a name of its own (DNS rebinding): names are not answered.
    app.use(async (c, next) => {
      if (!isLocalHost(new URL(c.req.url).hostname))
        return fail(c, 403, 'ERR_HOST', 'ask by loopback address, not by name');
      return next();
    });
  }
  app.use(
    bodyLimit({
      maxSize: BODY_MAX_BYTES,
      onError: (c) => fail(c, 413, 'ERR_BODY_TOO_LARGE', `a request body has at most ${BODY_MAX_BYTES} bytes`),
    }),
  );
  app.get('/healthz', (c) => {
    const health = source.health();
    return c.json(health, health.status === 'stopping' ? 503 : 200, { 'Cache-Control': 'no-store' });
  });
  app.get('/metrics', async (c) => {
    const { contentType, text } = await source.metrics();
    return c.body(text, 200, { 'Content-Type': contentType, 'Cache-Control': 'no-store' });
  });
  for (const path of ['/healthz', '/metrics']) {
    app.all(path, (c) => {
      c.header('Allow', 'GET, HEAD');
      return fail(c, 405, 'ERR_METHOD', `${path} is read with GET`);
    });
  }
  app.notFound((c) => fail(c, 404, 'ERR_NOT_FOUND', `there is no ${c.req.path}`));
  app.onError((error, c) => {
    onFailure(error, c.req.path);
    return fail(c, 500, 'ERR_INTERNAL', 'the request failed; the log has the reason');
  });
  return getRequestListener(app.fetch);
}

function fail(c: Context, status: ContentfulStatusCode, code: string, message: string): Response {
  return c.json({ error: { code, message } }, status);
}

function isLocalHost(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}
