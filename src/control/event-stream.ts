// One client of `GET /v1/events`: server-sent events (WHATWG HTML 9.2) over one response. A client that does not read is not waited
// for: beyond a bound its events are lost, and once it reads again an event `lost` tells how many.

import type { ServerResponse } from 'node:http';
import type { ControlEvent, EventHub } from './event-hub.ts';

/** Bytes that may wait for one client, besides what the kernel holds. */
const WAITING_BYTES = 64 * 1024;
const HEARTBEAT_MS = 15_000;

export interface EventStreamOptions {
  /** Prefixes of types, like `vm` or `forward.failed`; empty for all. */
  readonly types: readonly string[];
  /** `Last-Event-ID` of a client that comes back. */
  readonly lastId?: string | undefined;
  readonly heartbeatMs?: number;
}

export class EventStream {
  /** Events that this client did not get. */
  lost = 0;
  #lostNow = 0;
  #blocked = false;
  readonly #hub: EventHub;
  readonly #response: ServerResponse;
  readonly #types: readonly string[];

  private constructor(hub: EventHub, response: ServerResponse, types: readonly string[]) {
    this.#hub = hub;
    this.#response = response;
    this.#types = types;
  }

  /** Serves until the client goes or the daemon ends. */
  static serve(hub: EventHub, response: ServerResponse, options: EventStreamOptions): EventStream {
    const stream = new EventStream(hub, response, options.types);
    response.writeHead(200, {
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-store',
      'X-Accel-Buffering': 'no',
    });
    response.write('retry: 1000\n\n');
    if (options.lastId !== undefined) {
      const { events, lost } = hub.since(options.lastId);
      if (lost > 0) stream.#lose(lost);
      for (const event of events) stream.#send(event);
    }
    const unlisten = hub.listen((event) => stream.#send(event));
    const heartbeat = setInterval(() => {
      if (!stream.#blocked) response.write(': here\n\n');
    }, options.heartbeatMs ?? HEARTBEAT_MS);
    heartbeat.unref();
    response.on('drain', () => stream.#onDrain());
    response.on('close', () => {
      unlisten();
      clearInterval(heartbeat);
    });
    return stream;
  }

  #send(event: ControlEvent): void {
    const { type } = event;
    if (this.#types.length > 0 && !this.#types.some((t) => type === t || type.startsWith(`${t}.`))) return;
    if (this.#blocked) {
      this.#lose(1);
      return;
    }
    this.#tellLost();
    const data = JSON.stringify({ at: event.at, ...event.data });
    this.#response.write(`id: ${event.id}\nevent: ${type}\ndata: ${data}\n\n`);
    this.#blocked = this.#response.writableLength > WAITING_BYTES;
  }

  #lose(n: number): void {
    this.lost += n;
    this.#hub.lost += n;
    this.#lostNow += n;
  }

  #onDrain(): void {
    this.#blocked = false;
    this.#tellLost();
  }

  #tellLost(): void {
    if (this.#lostNow === 0) return;
    this.#response.write(`event: lost\ndata: {"count":${this.#lostNow}}\n\n`);
    this.#lostNow = 0;
  }
}
