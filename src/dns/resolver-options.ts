// What the resolver is given to work with, and what it says to who asks. Types, and the names of the verdicts.

import type { Millis } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { IpAddress } from '../ip/address.ts';
import type { Attempt, Lookup } from './lookup.ts';
import type { ResponseView } from './response.ts';
import type { DnsStats } from './stats.ts';

/** How the resolver sends. Failures and answers come later, never from inside these calls. */
export interface ResolverTransport {
  /** Sends `attempt.wire`; sets `attempt.channel`. */
  send(attempt: Attempt, now: Millis): void;
  /** Nobody waits for it any more. */
  cancel(attempt: Attempt): void;
  /** Asks the host's own resolver for all addresses of a name. @returns false if too many are asked already. */
  lookupHost(lookup: Lookup, name: string, now: Millis): boolean;
}

export const ResolveVerdict = {
  /** The waiter will be called (or has been already). */
  Pending: 0,
  /** This client has too many questions open: REFUSED. */
  ClientLimit: 1,
  /** All have: SERVFAIL. */
  Full: 2,
} as const;
export type ResolveVerdict = (typeof ResolveVerdict)[keyof typeof ResolveVerdict];

export interface ResolverOptions {
  readonly transport: ResolverTransport;
  readonly random: Random;
  readonly stats: DnsStats;
  /** Questions in flight at most. */
  readonly maxInFlight: number;
  /** Waiters of one client at most. */
  readonly maxPerClient: number;
  /** What addresses of the host's own resolver are to a guest: the host's loopback is not the guest's. */
  readonly seenByGuest?: (addresses: readonly IpAddress[]) => readonly IpAddress[];
  /** Called once for each lookup that a server answered, before its waiters. */
  readonly onAnswered: (lookup: Lookup, view: ResponseView, now: Millis) => void;
}
