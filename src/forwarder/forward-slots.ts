// What forwards listen on, as places that only one of them can have: who holds a place that another one asks for. The kernel decides in
// the end; this says the name.

import type { CheckedForward, ForwardListen } from './forward-spec.ts';

/** Something that holds places; compared by identity. */
export interface SlotHolder {
  readonly spec: CheckedForward;
}

interface Place<T> {
  readonly holder: T;
  /** Canonical address; '' where there is none. */
  readonly address: string;
  readonly v6Only: boolean;
}

/** The places of one listener: a text each, and the address at it. */
function placesOf(listen: ForwardListen, boundPort: number): string[] {
  switch (listen.kind) {
    case 'tcp':
    case 'udp':
    case 'guest': {
      const first = listen.port === 0 ? boundPort : listen.port;
      if (first === 0) return [];
      return Array.from({ length: listen.count ?? 1 }, (_, i) => `${listen.kind}:${first + i}`);
    }
    case 'unix':
      return [`path:${listen.path}`];
    case 'vsock':
      return [`vsock:${listen.path}:${listen.port}`];
    case 'fd':
      return [`fd:${listen.name}`];
  }
}

function addressOf(listen: ForwardListen): string {
  return 'address' in listen ? listen.address : '';
}

/** Whether two listeners at one port are in each other's way. */
function overlap(a: string, aV6Only: boolean, b: string, bV6Only: boolean): boolean {
  if (a === b) return true;
  const is6 = (text: string): boolean => text.includes(':');
  if (a === '::' && !aV6Only) return true;
  if (b === '::' && !bV6Only) return true;
  if (is6(a) !== is6(b)) return false;
  return a === '::' || b === '::' || a === '0.0.0.0' || b === '0.0.0.0';
}

/** Index of who listens where. */
export class ForwardSlots<T extends SlotHolder> {
  readonly #places = new Map<string, Place<T>[]>();

  /** @param boundPort the port that the system chose, for a spec with port 0. */
  add(holder: T, boundPort: number): void {
    const { listen } = holder.spec;
    const place: Place<T> = { holder, address: addressOf(listen), v6Only: v6OnlyOf(listen) };
    for (const name of placesOf(listen, boundPort)) {
      const at = this.#places.get(name);
      if (at === undefined) this.#places.set(name, [place]);
      else at.push(place);
    }
  }

  remove(holder: T, boundPort: number): void {
    for (const name of placesOf(holder.spec.listen, boundPort)) {
      const left = (this.#places.get(name) ?? []).filter((p) => p.holder !== holder);
      if (left.length === 0) this.#places.delete(name);
      else this.#places.set(name, left);
    }
  }

  /** Somebody who listens where `listen` wants to, and the place. */
  find(listen: ForwardListen): { holder: T; at: string } | undefined {
    const address = addressOf(listen);
    for (const name of placesOf(listen, 0)) {
      const found = this.#places.get(name)?.find((p) => overlap(address, v6OnlyOf(listen), p.address, p.v6Only));
      if (found !== undefined) return { holder: found.holder, at: describe(found.address, name) };
    }
    return undefined;
  }
}

function v6OnlyOf(listen: ForwardListen): boolean {
  return 'v6Only' in listen ? (listen.v6Only ?? true) : true;
}

function describe(address: string, name: string): string {
  const rest = name.slice(name.indexOf(':') + 1);
  if (address === '') return rest;
  return address.includes(':') ? `[${address}]:${rest}` : `${address}:${rest}`;
}
