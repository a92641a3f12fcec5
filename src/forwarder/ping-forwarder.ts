// Guests' echo requests to the outside, carried by the host's `ping`: one process for each, and what it says handed back. It owns how
// many run, for whom, and how often one is started; the program is ping-program's. A guest gets real answers or none.
//
// Why a program: an echo request needs a raw socket, which takes root, or a "ping socket", which Node.js does not have. A process costs
// about 2 ms, which is in the round-trip time that the guest sees, so requests are few: what is over the limits is dropped and
// counted, as a slow router does.

import { copyBytes } from '../base/bytes.ts';
import type { Clock, Millis } from '../base/clock.ts';
import type { IpAddress } from '../ip/address.ts';
import type { EchoAcceptor, EchoRequest, EchoSender, LinkPort } from '../stack/ports.ts';
import { Destination, type Destinations, refusalOf } from './destination.ts';
import { plateauBelow, UNREACHABLE, unreachableCodeOfReason } from './errno.ts';
import { PingMode } from './ping-mode.ts';
import type { PingAnswer } from './ping-output.ts';
import { type PingOrder, type PingProgram, PingRun, pingArguments } from './ping-program.ts';
import { StartRate, type StartRateOptions } from './start-rate.ts';

/** Processes at once, of all VMs and of one. */
const RUNNING_MAX = 32;
const RUNNING_VM_MAX = 16;
/** Starts: so many at once, and a second in the long run. A traceroute of 30 hops takes 90 within some seconds. */
const STARTS: StartRateOptions = { burst: 120, perSecond: 60 };
const STARTS_VM: StartRateOptions = { burst: 60, perSecond: 20 };
/** Requests of one destination, identifier and TTL that wait for the process that runs for them, */
const WAITING_MAX = 3;
/** and for how long: a later answer would tell a round-trip time that is none. */
const WAITING_MS = 1000;
/** Bytes of requests held, all together. */
const HELD_MAX_BYTES = 1024 * 1024;
/** A host without a usable ping is looked at again after this long: somebody may have installed one. */
const LOOK_AGAIN_MS = 60_000;

export interface PingForwarderOptions {
  readonly destinations: Destinations;
  readonly sender: EchoSender;
  readonly clock: Clock;
  readonly mode: PingMode;
  /** Finds a program that may be used, or says why there is none. */
  readonly find: () => Promise<PingProgram | string>;
  /** The host's address to send from; undefined: the host chooses. */
  readonly sourceFor?: (remote: IpAddress) => string | undefined;
  readonly log: (level: 'info' | 'warn', event: string, fields: Readonly<Record<string, unknown>>) => void;
}

/** Plain counters for metrics. */
export class PingStats {
  requests = 0;
  processesStarted = 0;
  /** A process could not be started. */
  startsFailed = 0;
  replies = 0;
  timeExceeded = 0;
  unreachables = 0;
  /** The program ended without a word about the request. */
  unanswered = 0;
  /** Dropped: one with the same destination, identifier and TTL is under way, and enough wait for it or have waited too long. */
  droppedBusy = 0;
  /** Dropped: too many processes at once. */
  droppedLimit = 0;
  /** Dropped: too many processes a second. */
  droppedRate = 0;
  /** Dropped or answered "prohibited": there is no ping to carry it, or it is not to be carried. */
  notCarried = 0;
  /** To destinations that are never reached: unused addresses of the network, loopback, link-local, groups. */
  notRelayed = 0;
}

/** A request that waits, or is under way. */
interface Held {
  readonly packet: Uint8Array;
  readonly dataLength: number;
  readonly dontFragment: boolean;
  readonly arrived: Millis;
}

/** The process of one destination, identifier and TTL, and who waits for it. */
class Job {
  readonly vm: LinkPort;
  readonly guest: IpAddress;
  readonly remote: IpAddress;
  readonly id: number;
  readonly ttl: number;
  readonly waiting: Held[] = [];
  current: Held;
  run: PingRun | undefined = undefined;
  answered = false;
  /** Nobody waits for it any more. */
  abandoned = false;

  constructor(request: EchoRequest, held: Held) {
    this.vm = request.vm;
    this.guest = request.guest;
    this.remote = request.remote;
    this.id = request.id;
    this.ttl = request.ttl;
    this.current = held;
  }

  serves({ vm, guest, remote, id, ttl }: EchoRequest): boolean {
    return (
      this.id === id &&
      this.ttl === ttl &&
      this.vm.id === vm.id &&
      this.remote.equals(remote) &&
      this.guest.equals(guest)
    );
  }
}

export class PingForwarder implements EchoAcceptor {
  readonly stats: PingStats = new PingStats();
  readonly #options: PingForwarderOptions;
  readonly #jobs: Job[] = [];
  /** To be started, one a turn of the event loop: each start holds up everything else for 1 to 3 ms. */
  readonly #starting: Job[] = [];
  readonly #rate: StartRate;
  readonly #vmRates = new Map<number, StartRate>();
  /** What was found; a string says why nothing. */
  #program: PingProgram | string | undefined = undefined;
  #finding = false;
  #foundAt: Millis = 0;
  #heldBytes = 0;
  #closed = false;

  constructor(options: PingForwarderOptions) {
    this.#options = options;
    this.#rate = new StartRate(STARTS, options.clock.now());
  }

  /** Processes that run, or are about to. */
  get running(): number {
    return this.#jobs.length;
  }

  onEcho(request: EchoRequest, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    this.stats.requests++;
    if (this.#closed) return false;
    const { destinations, mode, sender } = this.#options;
    const kind = destinations.classify(request.remote);
    if (kind !== Destination.Outside) {
      this.stats.notRelayed++;
      const refusal = refusalOf(kind);
      // RFC 1122 3.2.2: never an ICMP error about a group or broadcast.
      if (refusal === undefined || kind === Destination.Multicast || kind === Destination.Broadcast) return false;
      const packet = buf.subarray(off, off + len);
      sender.sendEchoUnreachable(request.vm, packet, undefined, unreachableCodeOfReason(refusal), 0, now);
      return true;
    }
    if (typeof this.#program === 'string' && now - this.#foundAt >= LOOK_AGAIN_MS) this.#program = undefined;
    if (mode === PingMode.Unreachable || mode === PingMode.Drop || typeof this.#program === 'string') {
      return this.#notCarried(request.vm, buf, off, len, now);
    }
    return this.#carry(request, buf, off, len, now);
  }

  /** A VM has gone: what ran for it ends. */
  onVmGone(vmId: number): void {
    this.#vmRates.delete(vmId);
    for (const job of this.#jobs) if (job.vm.id === vmId) this.#abandon(job);
  }

  close(): void {
    this.#closed = true;
    for (const job of this.#jobs) this.#abandon(job);
  }

  #carry(request: EchoRequest, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    const { stats } = this;
    let ofVm = 0;
    for (const job of this.#jobs) {
      if (job.vm.id === request.vm.id) ofVm++;
      if (!job.serves(request)) continue;
      const held = job.waiting.length < WAITING_MAX ? this.#hold(request, buf, off, len, now) : undefined;
      if (held === undefined) stats.droppedBusy++;
      else job.waiting.push(held);
      return held !== undefined;
    }
    if (this.#jobs.length >= RUNNING_MAX || ofVm >= RUNNING_VM_MAX) {
      stats.droppedLimit++;
      return false;
    }
    if (!this.#mayStart(request.vm.id, now)) {
      stats.droppedRate++;
      return false;
    }
    const held = this.#hold(request, buf, off, len, now);
    if (held === undefined) {
      stats.droppedLimit++;
      return false;
    }
    const job = new Job(request, held);
    this.#jobs.push(job);
    if (this.#program === undefined) this.#find();
    else this.#start(job);
    return true;
  }

  /** Copy: the request must outlast the link's memory, for its answer. @returns undefined if enough is held. */
  #hold(
    { dataLength, dontFragment }: EchoRequest,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): Held | undefined {
    if (this.#heldBytes + len > HELD_MAX_BYTES) return undefined;
    this.#heldBytes += len;
    return { packet: copyOf(buf, off, len), dataLength, dontFragment, arrived: now };
  }

  #release(held: Held): void {
    this.#heldBytes -= held.packet.length;
  }

  #mayStart(vmId: number, now: Millis): boolean {
    let ofVm = this.#vmRates.get(vmId);
    if (ofVm === undefined) {
      ofVm = new StartRate(STARTS_VM, now);
      this.#vmRates.set(vmId, ofVm);
    }
    if (!this.#rate.allows(now) || !ofVm.allows(now)) return false;
    this.#rate.take();
    ofVm.take();
    return true;
  }

  #find(): void {
    if (this.#finding) return;
    this.#finding = true;
    const { find, clock, log } = this.#options;
    const found = (program: PingProgram | string): void => {
      this.#finding = false;
      this.#program = program;
      this.#foundAt = clock.now();
      if (typeof program === 'string') log('warn', 'ping.none', { reason: program });
      else log('info', 'ping.found', { path: program.path, kind: program.kind });
      for (const job of [...this.#jobs]) {
        if (job.abandoned) this.#onEnd(job, undefined);
        else if (typeof program === 'string') this.#giveUp(job);
        else this.#start(job);
      }
    };
    find().then(found, (error: unknown) => found(`it could not be looked for (${String(error)})`));
  }

  #start(job: Job): void {
    this.#starting.push(job);
    if (this.#starting.length === 1) setImmediate(() => this.#startNext());
  }

  #startNext(): void {
    const job = this.#starting.shift();
    if (this.#starting.length > 0) setImmediate(() => this.#startNext());
    if (job === undefined) return;
    if (job.abandoned) this.#onEnd(job, undefined);
    else this.#run(job);
  }

  #run(job: Job): void {
    const program = this.#program;
    const { current, remote, ttl } = job;
    if (program === undefined || typeof program === 'string') {
      this.#giveUp(job);
      return;
    }
    this.stats.processesStarted++;
    job.answered = false;
    const order: PingOrder = {
      destination: remote.toString(),
      // The gateway is a hop, and has said so of TTL 1.
      ttl: Math.max(1, ttl - 1),
      dataLength: current.dataLength,
      dontFragment: current.dontFragment,
      source: this.#options.sourceFor?.(remote),
    };
    job.run = PingRun.start(program, pingArguments(program, order), {
      onAnswer: (answer) => this.#onAnswer(job, answer),
      onEnd: (failed) => this.#onEnd(job, failed),
    });
  }

  #onAnswer(job: Job, answer: PingAnswer): void {
    job.answered = true;
    const { sender, clock, destinations, log } = this.#options;
    const { packet } = job.current;
    const now = clock.now();
    if (answer.kind === 'unusable') {
      this.#program = answer.why;
      this.#foundAt = now;
      log('warn', 'ping.none', { reason: answer.why });
      this.#notCarried(job.vm, packet, 0, packet.length, now);
      return;
    }
    // A router whose address a guest could not tell from one of its own network's is the gateway.
    const from = answer.from === undefined ? undefined : destinations.seenFromGuest(answer.from);
    if (answer.kind === 'reply') {
      if (from === undefined) return;
      this.stats.replies++;
      sender.sendEchoReply(job.vm, packet, from, Math.max(1, answer.ttl - 1), now);
    } else if (answer.kind === 'exceeded') {
      this.stats.timeExceeded++;
      sender.sendEchoExceeded(job.vm, packet, from ?? destinations.gateway, answer.code, now);
    } else {
      this.stats.unreachables++;
      const unknown = answer.code === UNREACHABLE.FragNeeded && answer.mtu === 0;
      const mtu = unknown ? plateauBelow(packet.length) : answer.mtu;
      sender.sendEchoUnreachable(job.vm, packet, from, answer.code, mtu, now);
    }
  }

  #onEnd(job: Job, failed: string | undefined): void {
    if (failed !== undefined) this.stats.startsFailed++;
    else if (!job.answered && !job.abandoned) this.stats.unanswered++;
    this.#release(job.current);
    const now = this.#options.clock.now();
    for (let next = job.waiting.shift(); next !== undefined; next = job.waiting.shift()) {
      const tooLate = now - next.arrived > WAITING_MS;
      if (tooLate) this.stats.droppedBusy++;
      else if (!this.#mayStart(job.vm.id, now)) this.stats.droppedRate++;
      else {
        job.current = next;
        this.#start(job);
        return;
      }
      this.#release(next);
    }
    this.#remove(job);
  }

  /** There is no program for it. */
  #giveUp(job: Job): void {
    const now = this.#options.clock.now();
    for (const held of [job.current, ...job.waiting]) {
      this.#notCarried(job.vm, held.packet, 0, held.packet.length, now);
      this.#release(held);
    }
    job.waiting.length = 0;
    this.#remove(job);
  }

  /** Nobody waits for its answer any more; it leaves the table when its process has ended. */
  #abandon(job: Job): void {
    for (const held of job.waiting) this.#release(held);
    job.waiting.length = 0;
    job.abandoned = true;
    job.run?.stop();
  }

  #remove(job: Job): void {
    const at = this.#jobs.indexOf(job);
    if (at >= 0) this.#jobs.splice(at, 1);
  }

  #notCarried(vm: LinkPort, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    this.stats.notCarried++;
    const { mode, sender } = this.#options;
    if (mode === PingMode.Drop || mode === PingMode.AutoDrop) return false;
    sender.sendEchoUnreachable(vm, buf.subarray(off, off + len), undefined, UNREACHABLE.Prohibited, 0, now);
    return true;
  }
}

/** The memory may be a Buffer, whose own `slice` copies nothing. */
function copyOf(buf: Uint8Array, off: number, len: number): Uint8Array {
  const copy = new Uint8Array(len);
  copyBytes(buf, off, copy, 0, len);
  return copy;
}
