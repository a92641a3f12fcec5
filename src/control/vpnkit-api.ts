// The HTTP API of vpnkit-forwarder (VPNKit's Go forwarder), as vpnkit-expose-port and vpnkit-list-ports speak it. Ports are named by what
// they are, so exposing one twice is no error. Unix sockets inside a guest need an agent there, which this is not: those are refused.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { isIP } from 'node:net';
import { dirname } from 'node:path';
import type { ForwardListen, ForwardTarget } from '../forwarder/forward-spec.ts';
import { makeFolder } from '../host/make-folder.ts';
import { errnoOf } from '../host/operator-error.ts';
import { ApiError, asApiError } from './api-error.ts';
import { BodyBudget } from './body-budget.ts';
import { CompatForwards, type CompatPort, portsOf } from './compat-forwards.ts';
import type { ApiSource } from './resources.ts';

const BODY_MAX_BYTES = 64 * 1024;
const OWNER = 'vpnkit';
/** Names of the labels that hold what was asked for. */
const ANNOTATION_LABEL = 'annotation';
const OUT_IP_LABEL = 'out_ip';
const IN_IP_LABEL = 'in_ip';

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
    this.#forwards = new CompatForwards(source.forwards, OWNER);
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
        const ports = this.#forwards.ports().map(listedOf);
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
    if (listen.kind === 'unix') makeFolderOf(listen.path);
    const labels = {
      ...(port.annotation === '' ? {} : { [ANNOTATION_LABEL]: port.annotation.slice(0, 256) }),
      [OUT_IP_LABEL]: port.out_ip,
      [IN_IP_LABEL]: port.in_ip,
    };
    try {
      await this.#forwards.add(nameOf(port), listen, targetOf(port), labels);
    } catch (error) {
      // The same port under another annotation is the same to VPNKit.
      if (asApiError(error)?.code !== 'ERR_FORWARD_EXISTS') throw error;
    }
  }

  /** Idempotent. By the name that it was exposed under, or that it is listed under, which is not the same for port 0 and others' forwards. */
  async #unexpose(port: VpnkitPort): Promise<void> {
    const name = nameOf(port);
    const own = this.#forwards.find(name);
    const [found] =
      own === undefined ? this.#forwards.ports().filter((p) => nameOf(listedOf(p)) === name) : portsOf(own);
    if (found !== undefined) await this.#forwards.remove(found);
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

/** @throws ApiError 400 */
function makeFolderOf(path: string): void {
  if (!path.startsWith('/')) throw new ApiError(400, 'ERR_VALUE', `out_path ${path} is not an absolute path`);
  try {
    makeFolder(dirname(path));
  } catch (error) {
    throw new ApiError(400, 'ERR_SOCKET_PATH', `out_path: ${dirname(path)} cannot be made (${errnoOf(error) ?? ''})`);
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

/** As it was asked for where that was by this protocol; the port is the real one. */
function listedOf({ forward, protocol, host, port, guest, guestPort }: CompatPort): VpnkitPort {
  const { owner, labels } = forward.spec;
  const given = owner === OWNER ? labels : undefined;
  const unix = protocol === 'unix';
  return {
    proto: protocol,
    out_ip: unix ? '' : (given?.[OUT_IP_LABEL] ?? host),
    out_port: port,
    out_path: unix ? host : '',
    in_ip: given?.[IN_IP_LABEL] ?? guest,
    in_port: guestPort,
    in_path: '',
    annotation: given?.[ANNOTATION_LABEL] ?? '',
  };
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
