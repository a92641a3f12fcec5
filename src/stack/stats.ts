// What the stack counts, as plain integers; metrics and status read them.

import { DropCounters } from '../base/drop.ts';
import { TcpStats } from '../tcp/stats.ts';

export class StackStats {
  readonly drops: DropCounters = new DropCounters();
  readonly tcp: TcpStats = new TcpStats();
  framesFromGuest = 0;
  bytesFromGuest = 0;
  framesToGuest = 0;
  bytesToGuest = 0;
  /** Frames between VMs. */
  framesSwitched = 0;
  bytesSwitched = 0;
  arpReplies = 0;
  arpRequests = 0;
  icmpEchoReplies = 0;
  /** Replies from outside. */
  icmpEchoesCarried = 0;
  icmpErrorsToGuest = 0;
  icmpErrorsFromGuest = 0;
  datagramsFromGuest = 0;
  datagramsToGuest = 0;
  turns = 0;
  /** Contradictions of our own, each of which cost one flow or frame. */
  bugs = 0;
}
