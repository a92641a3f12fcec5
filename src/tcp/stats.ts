// What the TCP counts; plain integers that metrics read.

export class TcpStats {
  segmentsFromGuest = 0;
  segmentsToGuest = 0;
  bytesFromGuest = 0;
  bytesToGuest = 0;
  /** Opens by guests, and by us towards them. */
  passiveOpens = 0;
  activeOpens = 0;
  established = 0;
  refused = 0;
  unreachable = 0;
  resetsFromGuest = 0;
  resetsToGuest = 0;
  retransmits = 0;
  fastRecoveries = 0;
  timeouts = 0;
  tailProbes = 0;
  spuriousRecoveries = 0;
  persistProbes = 0;
  duplicateAcks = 0;
  challengeAcks = 0;
  challengeAcksLimited = 0;
  outOfOrder = 0;
  duplicates = 0;
  pawsRejected = 0;
  outOfWindow = 0;
  noMemory = 0;
  /** Times that a transfer waited for acknowledgements, so that a small message need not wait behind it. */
  budgetWaits = 0;
  retransmitLimit = 0;
  timeWaitEvicted = 0;
  timeWaitReused = 0;
  icmpAccepted = 0;
  icmpIgnored = 0;
  bugs = 0;
}
