// What a link counts: plain numbers, read by status and metrics. `rx` = from the guest, `tx` = to the guest.

/** Counters of one link, or of all links of a listener that ever were. */
export class LinkCounters {
  /** Frames read, runts included, zero lengths not. */
  rxFrames = 0;
  rxBytes = 0;
  /** Reads that brought bytes. */
  rxReads = 0;
  /** Lengths of 0: legal on the wire, skipped. */
  rxZeroLength = 0;
  /** Lengths beyond every frame: each ended its link. */
  rxOverlong = 0;
  txFrames = 0;
  txBytes = 0;
  /** Batches handed to the socket, one system call each where the VM drains. */
  txWrites = 0;
  /** Batches of which the kernel did not take all at once. */
  txAsync = 0;
  /** Times that a frame found no room because the VM does not drain. */
  txRefused = 0;
  /** Frames larger than the link carries, dropped. */
  txTooBig = 0;
  /** Times that a link had to wait for packet memory before it could start. */
  memoryWaits = 0;
  handshakeFailures = 0;

  /** Adds these to `total`. */
  addTo(total: LinkCounters): void {
    for (const key of COUNTER_NAMES) total[key] += this[key];
  }
}

/** Names of all counters, for metrics. */
export type LinkCounterName = Exclude<keyof LinkCounters, 'addTo'>;
export const COUNTER_NAMES: readonly LinkCounterName[] = Object.keys(new LinkCounters()) as LinkCounterName[];
