// `/v1/events`, `/v1/capture`, `/v1/config`, `/v1/drain`, `/v1/shutdown`: the daemon as a whole. Streams are few and bounded: a client
// that does not read loses events or packets, which are counted, and holds nobody up.

import { type AnyRoute, route } from './api-route.ts';
import type { ConnectionKeeper } from './connection-limit.ts';
import { EventStream } from './event-stream.ts';
import type { ApiSource } from './resources.ts';
import { type CaptureQuery, captureQuery, type DrainBody, drainBody, type EventQuery, eventQuery } from './schemas.ts';
import { configAnswer, stoppingAnswer } from './schemas-answers.ts';

const STREAM_ERRORS = { ERR_STREAM_LIMIT: '503: too many streams are open' } as const;

export function daemonRoutes(source: ApiSource, keeper: ConnectionKeeper): AnyRoute[] {
  return [
    route<undefined, EventQuery>({
      method: 'get',
      path: '/events',
      tag: 'events',
      summary: 'Server-sent events; Last-Event-ID goes on after that event',
      query: eventQuery,
      errors: STREAM_ERRORS,
      answers: { 200: { description: 'A stream of events', type: 'text/event-stream' } },
      run: ({ query, incoming, outgoing }) => {
        keeper.openStream(incoming.socket, outgoing);
        const lastId = incoming.headers['last-event-id'];
        EventStream.serve(source.events, outgoing, {
          types: query.types ?? [],
          lastId: typeof lastId === 'string' ? lastId : undefined,
        });
        return { status: 200, stream: true };
      },
    }),
    route<undefined, CaptureQuery>({
      method: 'get',
      path: '/capture',
      tag: 'capture',
      summary: 'A live capture of all VMs, or of one, as pcapng',
      query: captureQuery,
      errors: { ...STREAM_ERRORS, ERR_VM_NOT_FOUND: '404: there is no such VM' },
      answers: { 200: { description: 'A stream of blocks', type: 'application/x-pcapng' } },
      run: ({ query, incoming, outgoing }) => {
        keeper.openStream(incoming.socket, outgoing);
        const { output, stop } = source.capture({ vm: query.vm, snapBytes: query.snap });
        outgoing.writeHead(200, { 'Content-Type': 'application/x-pcapng', 'Cache-Control': 'no-store' });
        outgoing.on('close', stop);
        output.on('error', () => outgoing.destroy());
        output.pipe(outgoing);
        return { status: 200, stream: true };
      },
    }),
    route({
      method: 'get',
      path: '/config',
      tag: 'config',
      summary: 'Every option with its value and where that came from',
      answers: { 200: { description: 'The options', schema: configAnswer } },
      run: () => ({ status: 200, body: { options: source.config() } }),
    }),
    route<undefined, undefined, DrainBody>({
      method: 'post',
      path: '/drain',
      tag: 'daemon',
      summary: 'Takes no new flows, clients or VMs, and ends the daemon when the last flow has ended',
      body: drainBody,
      bodyOptional: true,
      answers: { 202: { description: 'It drains', schema: stoppingAnswer } },
      run: ({ body }) => {
        source.drain(body.timeoutSeconds * 1000);
        return { status: 202, body: { status: 'draining' } };
      },
    }),
    route({
      method: 'post',
      path: '/shutdown',
      tag: 'daemon',
      summary: 'Ends the daemon as SIGTERM does',
      answers: { 202: { description: 'It ends', schema: stoppingAnswer } },
      run: ({ outgoing }) => {
        // The answer leaves first.
        outgoing.once('close', () => source.shutdown());
        return { status: 202, body: { status: 'stopping' } };
      },
    }),
  ];
}
