// The host's own resolver (getaddrinfo) for addresses: where no DNS server is configured that could be asked by wire, where none answers,
// and for domains that the platform alone knows how to reach. It runs in libuv's thread pool, which files share and whose size is fixed at
// start: half of it at most, a short queue, and no word of it once too late.

import { type LookupAddress, lookup } from 'node:dns';
import type { Lookup } from '../dns/lookup.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';

/** libuv reads UV_THREADPOOL_SIZE once, 4 without it. A dead resolver holds a thread for up to half a minute. */
const RUNNING_MAX = Math.max(1, Math.min(Math.floor((Number(process.env.UV_THREADPOOL_SIZE) || 4) / 2), 64));
const QUEUE_MAX = 256;
/** UV_EAI_NODATA: the name exists. Node calls both this and UV_EAI_NONAME `ENOTFOUND`. */
const ERRNO_NODATA = -3007;

type Done = (lookup: Lookup, addresses: readonly IpAddress[] | undefined, exists: boolean) => void;

export class HostLookup {
  readonly #done: Done;
  readonly #queue: { readonly lookup: Lookup; readonly name: string }[] = [];
  #running = 0;
  #closed = false;

  /** @param done addresses undefined: the lookup failed; `exists` false: there is no such name. */
  constructor(done: Done) {
    this.#done = done;
  }

  /** @returns false if the queue is full. */
  start(l: Lookup, name: string): boolean {
    if (this.#queue.length >= QUEUE_MAX) return false;
    this.#queue.push({ lookup: l, name });
    this.#next();
    return true;
  }

  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  #next(): void {
    while (this.#running < RUNNING_MAX) {
      const job = this.#queue.shift();
      if (job === undefined) return;
      // Its guest has given up while it waited.
      if (job.lookup.finished) continue;
      this.#running++;
      // The dot keeps the host's search list out of the guest's names.
      lookup(`${job.name}.`, { all: true, verbatim: true }, (err, found) => {
        this.#running--;
        if (this.#closed) return;
        this.#report(job.lookup, err, found);
        this.#next();
      });
    }
  }

  #report(l: Lookup, err: NodeJS.ErrnoException | null, found: LookupAddress[] | undefined): void {
    if (err === null) {
      const addresses = (found ?? []).map((f) => parseAddress(f.address)).filter((a) => a !== undefined);
      this.#done(l, addresses, true);
    } else if (err.code === 'ENOTFOUND') {
      this.#done(l, [], err.errno === ERRNO_NODATA);
    } else {
      this.#done(l, undefined, true);
    }
  }
}
