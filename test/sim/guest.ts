// A VM in the simulation, whichever TCP it runs: the simple peer, or the embedded guest's stack.

import type { Pair, SimEnd } from './ends.ts';

export interface SimGuest {
  readonly name: string;
  /** uint32. */
  readonly ip: number;
  /** Connections that are not over. */
  readonly live: number;
  /** Makes itself known to the network. */
  start(): void;
  /**
   * Connects; sets `pair.guest`.
   * @param localPort, isn for a TCP that lets them be chosen. @returns the port connected from.
   */
  open(pair: Pair, localPort: number, remoteIp: number, remotePort: number, isn: number): number;
  /** Takes connections to `port`; sets `pair.guest` for each. */
  listen(pair: Pair, port: number, isn: number, onAccept: (end: SimEnd) => void): void;
  /** Frames that arrived together. */
  receive(frames: Uint8Array[]): void;
  /** The machine stops without a word. */
  vanish(): void;
}
