// The OpenAPI document without a daemon: the routes are made, and none is ever run.

import { apiRoutes } from './api.ts';
import type { ConnectionKeeper } from './connection-limit.ts';
import { openApiDocument } from './openapi.ts';
import type { ApiSource } from './resources.ts';

/** What `GET /v1/openapi.json` of a daemon of this version answers. */
export function offlineDocument(version: string): Readonly<Record<string, unknown>> {
  return openApiDocument(apiRoutes({ version } as ApiSource, {} as ConnectionKeeper), version);
}
