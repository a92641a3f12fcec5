// What is known of the health of the upstream servers, and the order in which they are asked: as configured, those that
// fell silent last. A silent server is probed beside a healthy one, so that nobody waits for it. RFC 1035 7.2.

import type { Millis } from '../base/clock.ts';
import { isLoopbackV4 } from '../ip/address.ts';
import { type ServerAddress, serverText } from './resolv-conf.ts';

/** A server as a rule names it. */
export interface UpstreamServer extends ServerAddress {
  /** Lower ones are asked first. 0 if not given. */
  readonly order?: number | undefined;
  /** How long it is waited for; undefined: as long as the guest waits. */
  readonly timeoutMs?: number | undefined;
}

const PROBE_MIN_MS = 1000;
const PROBE_MAX_MS = 30_000;

export class Server {
  readonly at: ServerAddress;
  /** `address:port`, for logs and status. */
  readonly text: string;
  /** No link between us: any UDP size passes. */
  readonly isLoopback: boolean;
  readonly order: number;
  readonly timeoutMs: number;
  /** Fell silent or failed, and has not answered since. */
  suspect = false;
  /** When a suspect server is worth a question again. */
  probeAt: Millis = 0;
  lastAnswerAt: Millis = Number.NEGATIVE_INFINITY;
  /** Smoothed time to an answer, ms; 0 before the first. */
  srttMs = 0;
  sent = 0;
  answered = 0;
  silences = 0;
  failures = 0;
  #probeMs = PROBE_MIN_MS;

  constructor(at: UpstreamServer) {
    this.at = at;
    this.text = serverText(at);
    this.order = at.order ?? 0;
    this.timeoutMs = at.timeoutMs ?? Number.POSITIVE_INFINITY;
    const a = at.address;
    this.isLoopback = a.isV4 ? isLoopbackV4(a.v4) : a.w0 === 0 && a.w1 === 0 && a.w2 === 0 && a.w3 === 1;
  }

  onAnswer(sentAt: Millis, now: Millis): void {
    this.answered++;
    this.lastAnswerAt = now;
    this.suspect = false;
    this.#probeMs = PROBE_MIN_MS;
    this.srttMs = this.srttMs === 0 ? now - sentAt : this.srttMs + (now - sentAt - this.srttMs) / 8;
  }

  /** A query went unanswered for its time. One slow name is not a dead server: others may have been answered meanwhile. */
  onSilence(sentAt: Millis, now: Millis): void {
    this.silences++;
    if (this.lastAnswerAt < sentAt) this.#doubt(now);
  }

  /** The host's socket refused: nobody listens, or there is no route. */
  onFailure(now: Millis): void {
    this.failures++;
    this.#doubt(now);
  }

  /** The next probe is later, and later still. */
  onProbe(now: Millis): void {
    this.probeAt = now + this.#probeMs;
    this.#probeMs = Math.min(this.#probeMs * 2, PROBE_MAX_MS);
  }

  #doubt(now: Millis): void {
    if (this.suspect) return;
    this.suspect = true;
    this.probeAt = now + this.#probeMs;
  }
}

/** What makes a server the same for two rules: then they share what is known of its health. */
function keyOf(s: UpstreamServer): string {
  return `${serverText(s)} ${s.order ?? 0} ${s.timeoutMs ?? ''}`;
}

const isSuspect = (s: Server): boolean => s.suspect;

export class ServerList {
  #servers: readonly Server[] = [];
  #keys: readonly string[] = [];

  get all(): readonly Server[] {
    return this.#servers;
  }

  /**
   * Takes a new list; servers that stay keep what is known of them.
   * @param known servers by key, which lists share; new ones are added. @returns false if nothing changed.
   */
  replace(addresses: readonly UpstreamServer[], known: Map<string, Server>): boolean {
    const sorted = [...addresses].sort((a, b) => (a.order ?? 0) - (b.order ?? 0));
    const keys = sorted.map(keyOf);
    const changed = keys.length !== this.#keys.length || keys.some((k, i) => k !== this.#keys[i]);
    this.#servers = sorted.map((a, i) => {
      const server = known.get(keys[i]!) ?? new Server(a);
      known.set(keys[i]!, server);
      return server;
    });
    this.#keys = keys;
    return changed;
  }

  /** Adds its servers by key, for other lists. */
  share(known: Map<string, Server>): void {
    for (const [i, key] of this.#keys.entries()) known.set(key, this.#servers[i]!);
  }

  /** Nothing is held against anybody any more: the network may be another one. */
  forgive(): void {
    for (const s of this.#servers) s.suspect = false;
  }

  /** Healthy ones first, each kind in the configured order. */
  order(): readonly Server[] {
    if (!this.#servers.some(isSuspect)) return this.#servers;
    return [...this.#servers.filter((s) => !s.suspect), ...this.#servers.filter((s) => s.suspect)];
  }
}
