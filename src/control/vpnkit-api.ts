// The HTTP API of vpnkit-forwarder (VPNKit's Go forwarder), as vpnkit-expose-port and vpnkit-list-ports speak it. Ports are named by what
// they are, so exposing one twice is no error. Unix sockets inside a guest need an agent there, which this is not: those are refused.

import { mkdirSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isIP } from 'node:net';
import { dirname } from 'node:path';
import type { Forward, ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import { ApiError, asApiError } from './api-error.ts';
import { BodyBudget } from './body-budget.ts';
import { CompatForwards } from './compat-forwards.ts';
import type { ApiSource } from './resources.ts';

const BODY_MAX_BYTES = 64 * 1024;

/** VPNKit's Port. */
interface VpnkitPort {
  readonly proto: string;
  readonly out_ip: string;
  readonly out_port: number;
  readonly out_path: string;
  readonly in_ip: string;
  readonly in_port: number;
  readonly in_path: string;
  readonly annotation: string;
}

export class VpnkitApi {
  readonly #forwards: CompatForwards;
  readonly #budget = new BodyBudget();
  readonly #onFailure: (error: unknown) => void;

  constructor(source: ApiSource, onFailure: (error: unknown) => void) {
    this.#forwards = new CompatForwards(source.forwards, 'vpnkit');
    this.#onFailure = onFailure;
  }

  /** The request listener. */
  readonly listener = (incoming: IncomingMessage, response: ServerResponse): void => {
    this.#answer(incoming, response).catch((error: unknown) => {
      const refusal = asApiError(error);
      if (refusal === undefined) this.#onFailure(error);
      send(
        response,
        refusal?.status === 404 || refusal?.status === 405 ? refusal.status : refusal === undefined ? 500 : 400,
        {
          message: refusal?.message ?? 'internal error',
        },
      );
    });
  };

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (incoming.url ?? '').replace(/\?.*/s, '');
    const { method = '' } = incoming;
    switch (path) {
      case '/forwards/expose/port':
      case '/forwards/expose/pipe':
        need(method, ['PUT', 'POST']);
        await this.#expose(await this.#port(incoming));
        send(response, 200);
        return;
      case '/forwards/unexpose/port':
      case '/forwards/unexpose/pipe':
        need(method, ['DELETE', 'POST']);
        await this.#unexpose(await this.#port(incoming));
        send(response, 200);
        return;
      case '/forwards/list': {
        need(method, ['GET']);
        const ports = this.#forwards
          .all()
          .map(portOf)
          .filter((p) => p !== undefined);
        // A nil slice in Go.
        send(response, 200, ports.length === 0 ? null : ports);
        return;
      }
      case '/forwards/dump': {
        need(method, ['GET']);
        const lines = this.#forwards.all().map((f) => `${f.key} ${f.state} ${f.bound.join(' ')}\n`);
        response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8' });
        response.end(lines.join(''));
        return;
      }
      default:
        throw new ApiError(404, 'ERR_NOT_FOUND', `there is no ${path}`);
    }
  }

  async #expose(port: VpnkitPort): Promise<void> {
    const listen = listenOf(port);
    if (listen.kind === 'unix') mkdirSync(dirname(listen.path), { recursive: true });
    const labels = port.annotation === '' ? {} : { annotation: port.annotation.slice(0, 256) };
    await this.#forwards.add(nameOf(port), listen, targetOf(port), labels);
  }

  /** Idempotent. */
  async #unexpose(port: VpnkitPort): Promise<void> {
    const found = this.#forwards.find(nameOf(port));
    if (found !== undefined) await this.#forwards.remove(found.id);
  }

  async #port(incoming: IncomingMessage): Promise<VpnkitPort> {
    const text = await this.#budget.read(incoming, BODY_MAX_BYTES);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new ApiError(400, 'ERR_BAD_JSON', `the body is not JSON: ${(error as Error).message}`);
    }
    const given = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
    const words = (name: string): string => {
      const found = given[name] ?? '';
      if (typeof found !== 'string') throw new ApiError(400, 'ERR_VALUE', `${name} is not a string`);
      return found;
    };
    const port = (name: string): number => {
      const found = given[name] ?? 0;
      if (typeof found !== 'number' || !Number.isInteger(found) || found < 0 || found > 65_535)
        throw new ApiError(400, 'ERR_VALUE', `${name} is not a port`);
      return found;
    };
    return {
      proto: words('proto'),
      out_ip: words('out_ip'),
      out_port: port('out_port'),
      out_path: words('out_path'),
      in_ip: words('in_ip'),
      in_port: port('in_port'),
      in_path: words('in_path'),
      annotation: words('annotation'),
    };
  }
}

/** VPNKit's string form, which is the port's identity. */
function nameOf(p: VpnkitPort): string {
  if (p.proto === 'unix') {
    const encode = (path: string): string => Buffer.from(path).toString('base64');
    return `unix:${encode(p.out_path)}:unix:${encode(p.in_path)}`;
  }
  return `${p.proto}:${p.out_ip}:${p.out_port}:${p.proto}:${p.in_ip}:${p.in_port}`;
}

function listenOf({ proto, out_ip, out_port, out_path }: VpnkitPort): ForwardListen {
  switch (proto) {
    case 'tcp':
    case 'udp': {
      const address = out_ip === '' ? '0.0.0.0' : out_ip;
      if (isIP(address) === 0) throw new ApiError(400, 'ERR_VALUE', `out_ip ${address} is not an IP address`);
      return { kind: proto, address, port: out_port };
    }
    case 'unix':
      if (out_path === '') throw new ApiError(400, 'ERR_VALUE', 'out_path is missing');
      return { kind: 'unix', path: out_path };
    default:
      throw new ApiError(400, 'ERR_VALUE', `proto "${proto}" is unknown; expected tcp, udp or unix`);
  }
}

/** An inner address that no VM can have (unspecified, loopback) is the only VM's own. */
function targetOf({ in_ip, in_port, in_path }: VpnkitPort): ForwardTarget {
  if (in_path !== '')
    throw new ApiError(
      400,
      'ERR_VALUE',
      'in_path: a unix socket inside a guest needs an agent there; give in_ip and in_port',
    );
  if (in_port === 0) throw new ApiError(400, 'ERR_VALUE', 'in_port is missing');
  const only = in_ip === '' || in_ip === '0.0.0.0' || in_ip === '127.0.0.1';
  return { kind: 'guest', ...(only ? {} : { guest: in_ip }), port: in_port };
}

function portOf({ spec, bound }: Forward): VpnkitPort | undefined {
  const { listen, target, labels } = spec;
  if (target.kind !== 'guest') return undefined;
  const rest = { in_ip: target.guest ?? '', in_port: target.port, in_path: '', annotation: labels?.annotation ?? '' };
  if (listen.kind === 'unix') return { proto: 'unix', out_ip: '', out_port: 0, out_path: listen.path, ...rest };
  if (listen.kind !== 'tcp' && listen.kind !== 'udp') return undefined;
  const port = Number(bound[0]?.split(':').at(-1) ?? listen.port);
  return { proto: listen.kind, out_ip: listen.address, out_port: port, out_path: '', ...rest };
}

function need(method: string, allowed: readonly string[]): void {
  if (!allowed.includes(method)) throw new ApiError(405, 'ERR_METHOD', `expected ${allowed.join(' or ')}`);
}

function send(response: ServerResponse, status: number, value?: unknown): void {
  if (response.headersSent) return;
  const text = value === undefined ? '' : `${JSON.stringify(value)}\n`;
  response.writeHead(status, {
    ...(value === undefined ? {} : { 'Content-Type': 'application/json' }),
    'Content-Length': Buffer.byteLength(text),
  });
  response.end(text);
}
