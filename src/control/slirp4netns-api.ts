// slirp4netns' API socket: one JSON request a connection, ended by the client's half-close, one JSON answer. Commands, arguments and error
// texts are slirp4netns'; the forwards are those of the table, each port with a number of its own.

import type { Socket } from 'node:net';
import { isIPv4 } from 'node:net';
import { ApiError, asApiError } from './api-error.ts';
import { CompatForwards, type CompatPort, portsOf } from './compat-forwards.ts';
import type { ApiSource } from './resources.ts';

/** slirp4netns' limit of a request. */
const REQUEST_MAX_BYTES = 4096;
const TIMEOUT_MS = 10_000;

class BadRequest extends Error {}

export class Slirp4netnsApi {
  readonly #forwards: CompatForwards;
  readonly #onFailure: (error: unknown) => void;
  readonly #numbers = new Map<string, number>();
  #nextNumber = 1;
  #sweepAt = 64;

  constructor(source: ApiSource, onFailure: (error: unknown) => void) {
    this.#forwards = new CompatForwards(source.forwards, 'slirp4netns');
    this.#onFailure = onFailure;
  }

  /** One client. */
  serve(socket: Socket): void {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let answered = false;
    const answer = (value: object): void => {
      if (answered) return;
      answered = true;
      socket.end(JSON.stringify(value));
    };
    // For all of it: one that sends a byte now and then would never be idle.
    const limit = setTimeout(() => socket.destroy(), TIMEOUT_MS);
    limit.unref();
    socket.once('close', () => clearTimeout(limit));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes < REQUEST_MAX_BYTES) chunks.push(chunk);
      else answer(errorAnswer('bad request: too large message'));
    });
    socket.on('end', () => {
      if (answered) return;
      this.#run(Buffer.concat(chunks).toString()).then(answer, (error: unknown) => {
        if (error instanceof BadRequest) {
          answer(errorAnswer(`bad request: ${error.message}`));
          return;
        }
        this.#onFailure(error);
        answer(errorAnswer('internal error'));
      });
    });
  }

  async #run(text: string): Promise<object> {
    let request: unknown;
    try {
      request = JSON.parse(text);
    } catch {
      throw new BadRequest('cannot parse JSON');
    }
    const { execute, arguments: args } = objectOf(request);
    if (typeof execute !== 'string') throw new BadRequest('no execute found');
    switch (execute) {
      case 'add_hostfwd':
        return this.#add(objectOf(args));
      case 'list_hostfwd':
        return { return: { entries: this.#list() } };
      case 'remove_hostfwd':
        return this.#remove(objectOf(args));
      default:
        throw new BadRequest('unknown execute');
    }
  }

  async #add(args: Readonly<Record<string, unknown>>): Promise<object> {
    const bad = (name: string): BadRequest => new BadRequest(`add_hostfwd: bad arguments.${name}`);
    const protocol = /^(tcp|udp)4?$/.exec(String(args.proto ?? ''))?.[1];
    if (protocol !== 'tcp' && protocol !== 'udp') throw bad('proto');
    const host = args.host_addr ?? '0.0.0.0';
    if (typeof host !== 'string' || !isIPv4(host)) throw bad('host_addr');
    if (!isPort(args.host_port)) throw bad('host_port');
    const guest = args.guest_addr;
    if (guest !== undefined && (typeof guest !== 'string' || !isIPv4(guest))) throw bad('guest_addr');
    if (!isPort(args.guest_port)) throw bad('guest_port');
    const name = `${protocol}:${host}:${args.host_port}`;
    try {
      const { forward, created } = await this.#forwards.add(
        name,
        { kind: protocol, address: host, port: args.host_port },
        { kind: 'guest', ...(guest === undefined ? {} : { guest }), port: args.guest_port },
        {},
      );
      if (!created) throw new BadRequest('add_hostfwd: slirp_add_hostfwd failed');
      return { return: { id: this.#number(portsOf(forward)[0]!) } };
    } catch (error) {
      if (error instanceof BadRequest || asApiError(error) === undefined) throw error;
      throw new BadRequest('add_hostfwd: slirp_add_hostfwd failed');
    }
  }

  #list(): object[] {
    return this.#ports().map((port) => ({
      id: this.#number(port),
      proto: port.protocol,
      host_addr: port.host,
      host_port: port.port,
      guest_addr: port.guest === '' ? '0.0.0.0' : port.guest,
      guest_port: port.guestPort,
    }));
  }

  async #remove(args: Readonly<Record<string, unknown>>): Promise<object> {
    const { id } = args;
    if (typeof id !== 'number' || !Number.isInteger(id)) throw new BadRequest('remove_hostfwd: bad arguments.id');
    const found = this.#ports().find((port) => this.#numbers.get(nameOf(port)) === id);
    if (found === undefined || !(await this.#removed(found))) throw new BadRequest('remove_hostfwd: bad id');
    this.#numbers.delete(nameOf(found));
    return { return: {} };
  }

  async #removed(port: CompatPort): Promise<boolean> {
    try {
      return await this.#forwards.remove(port);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      throw new BadRequest(`remove_hostfwd: ${error.message}`);
    }
  }

  #ports(): CompatPort[] {
    return this.#forwards.ports().filter(({ protocol }) => protocol !== 'unix');
  }

  #number(port: CompatPort): number {
    const name = nameOf(port);
    let number = this.#numbers.get(name);
    if (number === undefined) {
      // Forwards that others have removed since leave theirs behind.
      if (this.#numbers.size >= this.#sweepAt) this.#sweep();
      number = this.#nextNumber++;
      this.#numbers.set(name, number);
    }
    return number;
  }

  #sweep(): void {
    const live = new Set(this.#ports().map(nameOf));
    for (const name of this.#numbers.keys()) if (!live.has(name)) this.#numbers.delete(name);
    this.#sweepAt = 2 * live.size + 64;
  }
}

/** Of one port, as long as it lasts. */
function nameOf({ forward, index }: CompatPort): string {
  return `${forward.id}/${index}`;
}

function errorAnswer(desc: string): object {
  return { error: { desc } };
}

function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= 65_535;
}
