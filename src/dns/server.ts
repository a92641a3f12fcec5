// What is known of the health of the upstream servers, and the order in which they are asked: as configured, those that
// fell silent last. A silent server is probed beside a healthy one, so that nobody waits for it. RFC 1035 7.2.

import type { Millis } from '../base/clock.ts';
import { isLoopbackV4 } from '../ip/address.ts';
import { type ServerAddress, serverText } from './resolv-conf.ts';

const PROBE_MIN_MS = 1000;
const PROBE_MAX_MS = 30_000;

export class Server {
  readonly at: ServerAddress;
  /** `address:port`, for logs and status. */
  readonly text: string;
  /** No link between us: any UDP size passes. */
  readonly isLoopback: boolean;
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

  constructor(at: ServerAddress) {
    this.at = at;
    this.text = serverText(at);
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

export class ServerList {
  #servers: readonly Server[] = [];

  get all(): readonly Server[] {
    return this.#servers;
  }

  /** Takes a new list; servers that stay keep what is known of them. @returns false if nothing changed. */
  replace(addresses: readonly ServerAddress[]): boolean {
    const texts = addresses.map(serverText);
    const old = this.#servers;
    if (texts.length === old.length && texts.every((t, i) => t === old[i]!.text)) return false;
    this.#servers = addresses.map((a, i) => old.find((s) => s.text === texts[i]) ?? new Server(a));
    return true;
  }

  /** Nothing is held against anybody any more: the network may be another one. */
  forgive(): void {
    for (const s of this.#servers) s.suspect = false;
  }

  /** Healthy ones first, each kind in the configured order. */
  order(): Server[] {
    return [...this.#servers.filter((s) => !s.suspect), ...this.#servers.filter((s) => s.suspect)];
  }
}
