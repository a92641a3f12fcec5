// A client of the control API: finds the daemon, asks, and turns what goes wrong into one line and an exit code. What answers look like on a
// terminal is the commands' business.

import {
  Agent,
  type ClientRequest,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
} from 'node:http';
import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import type { ErrorBody } from './api-error.ts';

/** Where a daemon's control API is: a unix socket, or a port of the loopback with a token. */
export type ControlPlace =
  | { readonly kind: 'unix'; readonly path: string; readonly from: string }
  | {
      readonly kind: 'tcp';
      readonly host: string;
      readonly port: number;
      readonly token: string | undefined;
      readonly from: string;
    };

type Environment = Readonly<Record<string, string | undefined>>;

/** The socket that clients try when nobody names one: that of the system for root, else the user's own. */
export function defaultControlPath(env: Environment, uid: number): string {
  if (uid === 0) return '/run/isthmus.sock';
  return `${env.XDG_RUNTIME_DIR?.startsWith('/') ? env.XDG_RUNTIME_DIR : `/run/user/${uid}`}/isthmus.sock`;
}

/** `--control`, else `ISTHMUS_CONTROL`, else the default. `tcp:ADDRESS:PORT` is the port of `--control-tcp`. */
export function findControl(given: string | undefined, env: Environment, uid: number): ControlPlace {
  const text = given ?? (env.ISTHMUS_CONTROL === '' ? undefined : env.ISTHMUS_CONTROL);
  const from = given !== undefined ? '--control' : text !== undefined ? 'ISTHMUS_CONTROL' : 'the default';
  if (text === undefined) return { kind: 'unix', path: defaultControlPath(env, uid), from };
  const tcp = /^tcp:(\[[^\]]*\]|[^:]*):(\d{1,5})$/.exec(text);
  if (tcp === null) return { kind: 'unix', path: text, from };
  return {
    kind: 'tcp',
    host: tcp[1]!.replace(/^\[|\]$/g, ''),
    port: Number(tcp[2]),
    token: env.ISTHMUS_CONTROL_TOKEN,
    from,
  };
}

export interface ControlAnswer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: unknown;
}

/** How long an answer may take; streams have no limit. */
const ANSWER_LIMIT_MS = 30_000;

export class ControlClient {
  readonly place: ControlPlace;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8 });

  constructor(place: ControlPlace) {
    this.place = place;
  }

  /**
   * Asks for JSON.
   * @throws OperatorError ERR_CONTROL_UNREACHABLE (69) when no daemon answers; the daemon's own code (65) when it refuses.
   */
  async ask(method: string, path: string, body?: unknown): Promise<unknown> {
    const answer = await this.send(method, path, body);
    if (answer.status < 400) return answer.body;
    throw refusal(answer);
  }

  /** The same without judging the status. */
  async send(method: string, path: string, body?: unknown): Promise<ControlAnswer> {
    const response = await this.#request(method, path, body, ANSWER_LIMIT_MS);
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of response) chunks.push(chunk as Buffer);
    } catch (error) {
      throw this.#unreachable(error);
    }
    const text = Buffer.concat(chunks).toString();
    const json = /^application\/json\b/.test(response.headers['content-type'] ?? '');
    return { status: response.statusCode ?? 0, headers: response.headers, body: json ? parsed(text) : text };
  }

  /** Opens a stream, without a limit of time. */
  async stream(path: string, headers: Readonly<Record<string, string>> = {}): Promise<IncomingMessage> {
    const response = await this.#request('GET', path, undefined, 0, headers);
    if ((response.statusCode ?? 0) < 400) return response;
    let text = '';
    for await (const chunk of response) text += String(chunk);
    throw refusal({ status: response.statusCode ?? 0, headers: response.headers, body: parsed(text) });
  }

  /** A stream ended before whoever reads it was done. */
  lost(what: string): OperatorError {
    return new OperatorError(`${what}: the daemon on ${this.#where} has ended`, {
      code: 'ERR_CONTROL_LOST',
      exitCode: ExitCode.Unavailable,
    });
  }

  /** Lets go of idle connections; forwards that last as long as one of them end. */
  close(): void {
    this.#agent.destroy();
  }

  #request(
    method: string,
    path: string,
    body: unknown,
    limitMs: number,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<IncomingMessage> {
    const { place } = this;
    const text = body === undefined ? undefined : JSON.stringify(body);
    const options: RequestOptions = {
      method,
      path,
      agent: this.#agent,
      headers: {
        ...headers,
        ...(text === undefined
          ? {}
          : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) }),
        ...(place.kind === 'tcp' && place.token !== undefined ? { Authorization: `Bearer ${place.token}` } : {}),
      },
      ...(place.kind === 'unix' ? { socketPath: place.path } : { host: place.host, port: place.port }),
    };
    return new Promise((resolve, reject) => {
      const request: ClientRequest = httpRequest(options, resolve);
      if (limitMs > 0)
        request.setTimeout(limitMs, () => request.destroy(new Error(`no answer within ${limitMs / 1000} s`)));
      request.on('error', (error) => reject(this.#unreachable(error)));
      request.end(text);
    });
  }

  get #where(): string {
    const { place } = this;
    return place.kind === 'unix' ? place.path : `${place.host}:${place.port}`;
  }

  #unreachable(error: unknown): OperatorError {
    const { place } = this;
    const where = this.#where;
    const why: Record<string, string> = {
      ENOENT: 'there is no such socket',
      ECONNREFUSED: 'nobody listens there',
      EACCES: 'this user may not connect to it',
      ENOTSOCK: 'it is no socket',
    };
    const reason = why[errnoOf(error) ?? ''] ?? (error instanceof Error ? error.message : String(error));
    return new OperatorError(
      `no daemon answers on ${where} (${place.from}): ${reason}; start one with isthmus run --control PATH, and name it with --control or ISTHMUS_CONTROL`,
      { code: 'ERR_CONTROL_UNREACHABLE', exitCode: ExitCode.Unavailable, cause: error },
    );
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function refusal({ status, body }: ControlAnswer): OperatorError {
  const { error } = (typeof body === 'object' && body !== null ? body : {}) as Partial<ErrorBody>;
  const message = error?.message ?? `the daemon answered ${status}`;
  return new OperatorError(message, {
    code: error?.code ?? 'ERR_CONTROL',
    exitCode: ExitCode.Refused,
    ...(error?.key === undefined ? {} : { key: error.key }),
  });
}
