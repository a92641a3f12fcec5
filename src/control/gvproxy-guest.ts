// The HTTP server of gvproxy's API inside guests, at the gateway's port 80: the three requests of `/services/forwarder`, for the guest that
// sends them. It listens nowhere: connections are handed to it.

import type { Server } from 'node:http';
import { BodyBudget } from './body-budget.ts';
import { CompatForwards } from './compat-forwards.ts';
import { GoError } from './go-http.ts';
import { forwarderRoutes, goServer } from './gvproxy-api.ts';
import { GUEST_OWNER, GvproxyForwarder } from './gvproxy-forwarder.ts';
import type { ForwardTable } from './resources.ts';
import { Token } from './token.ts';

/** Bytes of all bodies of guests that are being read. */
const BODIES_BYTES = 1024 * 1024;

/** @param secret what guests must send as their bearer token; undefined: none. */
export function guestServer(
  table: ForwardTable,
  secret: string | undefined,
  onFailure: (error: unknown) => void,
): Server {
  const token = secret === undefined ? undefined : new Token(secret);
  const forwarder = new GvproxyForwarder(new CompatForwards(table, GUEST_OWNER));
  const routes = forwarderRoutes(forwarder, new BodyBudget(BODIES_BYTES), (incoming) => {
    if (token !== undefined && !token.matches(incoming.headers.authorization))
      throw new GoError(401, 'a valid bearer token is needed');
    return { guest: incoming.socket.remoteAddress ?? '' };
  });
  return goServer(routes, onFailure);
}
