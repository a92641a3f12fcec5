// `/v1/proxy`: the proxy settings in force, and changing them. What begins after a change goes by it; flows that stand stay as they are. It
// is not kept over a restart: what is to last belongs into the options.

import * as v from 'valibot';
import { type AnyRoute, route, type Schema } from './api-route.ts';
import type { ApiSource, ProxyPatch } from './resources.ts';
import { proxyAnswer } from './schemas-answers.ts';

const PORTS = v.pipe(
  v.array(v.pipe(v.number(), v.integer('expected whole numbers'))),
  v.maxLength(64, 'expected 64 ports at most'),
);
const TEXT = v.pipe(v.string(), v.maxLength(2048, 'expected 2,048 characters at most'));

/** The body of a change; what is not given stays as it is. */
const proxyPatch: Schema<ProxyPatch> = v.strictObject({
  proxy: v.optional(TEXT),
  http: v.optional(v.nullable(TEXT)),
  https: v.optional(v.nullable(TEXT)),
  noProxy: v.optional(v.pipe(v.array(TEXT), v.maxLength(4096, 'expected 4,096 entries at most'))),
  ports: v.optional(PORTS),
});

export function proxyRoutes({ proxy }: ApiSource): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/proxy',
      tag: 'proxy',
      summary: 'The proxy settings in force, without passwords',
      answers: { 200: { description: 'The settings', schema: proxyAnswer } },
      run: () => ({ status: 200, body: proxy.info() }),
    }),
    route<undefined, undefined, ProxyPatch>({
      method: 'put',
      path: '/proxy',
      tag: 'proxy',
      summary: 'Changes the proxy settings, for flows that begin from now on',
      body: proxyPatch,
      errors: {
        ERR_PROXY_URL: '400: a proxy or PAC file is written wrongly',
        ERR_PROXY_EXCLUDE: '400: an entry of noProxy is no destination',
        ERR_PROXY_PORTS: '400: ports are no ports',
        ERR_PROXY_LOOP: '409: the proxy leads back to isthmus',
        ERR_PROXY_SYSTEM: '409: the settings of the system cannot be read',
      },
      answers: { 200: { description: 'The settings as they are now', schema: proxyAnswer } },
      run: async ({ body }) => ({ status: 200, body: await proxy.change(body) }),
    }),
  ];
}
