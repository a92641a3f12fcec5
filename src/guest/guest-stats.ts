// What the embedded guest counts, as plain integers; tests and the demo read them.

import { DropCounters } from '../base/drop.ts';
import { TcpStats } from '../tcp/stats.ts';

export class GuestStats {
  readonly drops: DropCounters = new DropCounters();
  /** Of connections whose far side is the "guest" of tcp/: `FromGuest` reads "received", `ToGuest` "sent". */
  readonly tcp: TcpStats = new TcpStats();
  framesReceived = 0;
  bytesReceived = 0;
  framesSent = 0;
  bytesSent = 0;
  /** Frames to somebody else's MAC: a switch that floods. */
  notForUs = 0;
  /** Largest IPv4 packet that came in. */
  largestPacketReceived = 0;
  arpReplies = 0;
  arpRequests = 0;
  echoReplies = 0;
  icmpErrorsReceived = 0;
  icmpErrorsSent = 0;
  datagramsReceived = 0;
  datagramsSent = 0;
  /** Contradictions of our own. */
  bugs = 0;
}
