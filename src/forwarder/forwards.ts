// The table of forwards: one for all who make them (options, control API, other programs' protocols, the state file). It owns keys, ids,
// leases, what is stored, and the order of changes: all of them go through one queue, so whatever many clients do at once has the
// outcome of some order of it. What a forward does is its opener's.

import { isDeepStrictEqual } from 'node:util';
import { Breath } from './breath.ts';
import {
  belongs,
  ForwardEntry,
  inUse,
  isNameless,
  keyTaken,
  messageOf,
  ofList,
  portOf,
  sameForward,
  strangerIn,
  twice,
} from './forward-entry.ts';
import type { OpenForward } from './forward-opener.ts';
import { type ForwardRecord, ForwardRecords } from './forward-records.ts';
import { ForwardSlots } from './forward-slots.ts';
import {
  type Added,
  type AddOptions,
  type CheckedForward,
  type Forward,
  ForwardError,
  type ForwardEvent,
  type ForwardFilter,
  type ForwardListen,
  type ForwardOrigin,
  type ForwardSpec,
} from './forward-spec.ts';
import type { ForwardsOptions } from './forwards-options.ts';

/** Longest time that a timer can be set for. */
const LONGEST_TIMER_MS = 0x7fff_ffff;

export class Forwards {
  readonly #options: ForwardsOptions;
  readonly #byId = new Map<string, ForwardEntry>();
  readonly #byKey = new Map<string, ForwardEntry>();
  readonly #slots = new ForwardSlots<ForwardEntry>();
  readonly #listeners = new Set<(event: ForwardEvent) => void>();
  /** Withdrawn forwards whose connections may still run. */
  readonly #leaving = new Set<OpenForward>();
  /** Those that a timer is for: their lease ends, or they are to be tried again. */
  readonly #timed = new Set<ForwardEntry>();
  readonly #records: ForwardRecords;
  #nextChosen = 1;
  #tail: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ForwardsOptions) {
    this.#options = options;
    this.#records = new ForwardRecords(options.store, options.report);
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Ports and sockets that are listened on. */
  get listening(): number {
    let n = 0;
    for (const { open } of this.#byId.values()) n += open?.bound.length ?? 0;
    return n;
  }

  get(id: string): Forward | undefined {
    return this.#byId.get(id)?.view();
  }

  /** In the order in which they were made. */
  list(filter: ForwardFilter = {}): Forward[] {
    const wanted = Object.entries(filter.labels ?? {});
    const found: Forward[] = [];
    for (const entry of this.#byId.values()) {
      const { spec, origin } = entry;
      if (filter.key !== undefined && filter.key !== spec.key) continue;
      if (filter.owner !== undefined && filter.owner !== spec.owner) continue;
      if (filter.origin !== undefined && filter.origin !== origin) continue;
      if (!wanted.every(([name, value]) => spec.labels?.[name] === value)) continue;
      found.push(entry.view());
    }
    return found;
  }

  /** Tells of changes, right after each. @returns a function that ends it. */
  onChange(listener: (event: ForwardEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Makes a forward, or finds the same one under its key. It listens, and is stored if it is to last, when this resolves.
   * @throws ForwardError; then nothing has changed.
   */
  add(spec: ForwardSpec, options: AddOptions = {}): Promise<Added> {
    return this.#change(() => this.#add(this.#check(spec), options));
  }

  /**
   * Withdraws a forward: the listener goes at once, its connections finish, or are reset with `close`.
   * @returns false if there is none.
   */
  remove(id: string, options: { readonly close?: boolean } = {}): Promise<boolean> {
    return this.#change(async () => {
      const entry = this.#byId.get(id);
      if (entry === undefined) return false;
      this.#withdraw(entry, options.close ?? false);
      return true;
    });
  }

  /**
   * Makes the forwards of `owner` exactly these: what is there already stays untouched, the rest is changed, made or withdrawn. All or
   * nothing. @param owner undefined: of all that the API has made, whoever owns them. Specs get it where they name none.
   * @throws ForwardError naming the `key` and its place `at`; then everything is as it was.
   */
  replace(specs: readonly ForwardSpec[], owner: string | undefined, options: AddOptions = {}): Promise<Forward[]> {
    return this.#change(() => this.#replace(specs, owner, options));
  }

  /** A control connection has ended: the forwards that it held end with it. */
  release(holder: object): Promise<void> {
    return this.#change(async () => {
      for (const entry of [...this.#byId.values()]) if (entry.holder === holder) this.#withdraw(entry, false);
    });
  }

  /** Opens what the store holds. Before readiness is told, and after the forwards of the options. Never rejects. */
  restore(): Promise<void> {
    return this.#change(async () => {
      for (const { key, record } of this.#records.all()) await this.#restoreOne(key, record);
    });
  }

  /** Stops listening everywhere and, unless the daemon drains first, resets every connection; the store keeps what it has. */
  closeAll(reset = true): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { open } of this.#byId.values()) {
      open?.close();
      if (reset) open?.reset();
    }
    if (!reset) return;
    for (const open of this.#leaving) open.reset();
    this.#leaving.clear();
  }

  // --- Changes, one after the other.

  #change<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(() => {
      if (this.#closed) throw new ForwardError('ERR_STOPPING', 'the daemon ends; no forward can be changed any more');
      return work();
    });
    this.#tail = result.then(this.#settled, this.#settled);
    return result;
  }

  readonly #settled = (): void => {
    this.#arm();
    for (const open of this.#leaving) if (open.counters.active === 0) this.#leaving.delete(open);
  };

  #check(spec: ForwardSpec): CheckedForward {
    try {
      return this.#options.checker.check(spec, this.#options.wallClock());
    } catch (error) {
      if (error instanceof ForwardError && typeof spec?.key === 'string') error.key ??= spec.key;
      throw error;
    }
  }

  async #add(checked: CheckedForward, options: AddOptions): Promise<Added> {
    const holder = checked.lease === 'connection' ? options.holder : undefined;
    if (checked.lease === 'connection' && holder === undefined) {
      const message = 'lease is connection, and there is no connection that could hold it; use permanent or until';
      throw new ForwardError('ERR_FORWARD_SPEC', message, { field: 'lease', key: checked.key });
    }
    const spec = this.#keyed(checked);
    const old = this.#byKey.get(spec.key);
    if (old !== undefined && sameForward(old.spec, spec) && old.holder === holder)
      return { forward: old.view(), created: false };
    const { origin = 'api' } = options;
    if (origin === 'api') this.#options.admit?.(spec);
    if (old === undefined) return { forward: (await this.#make(spec, origin, holder)).view(), created: true };
    if (options.replace !== true) {
      throw keyTaken(spec, old, 'give this one another key, replace that one, or remove it');
    }
    await this.#exchange(old, spec, holder);
    return { forward: old.view(), created: false };
  }

  /** Two that let the system choose the port are two forwards, unless they have been given keys. */
  #keyed(spec: CheckedForward): CheckedForward {
    if (!isNameless(spec)) return spec;
    while (this.#byKey.has(`${spec.key}#${this.#nextChosen}`)) this.#nextChosen++;
    return { ...spec, key: `${spec.key}#${this.#nextChosen++}` };
  }

  async #make(spec: CheckedForward, origin: ForwardOrigin, holder: object | undefined): Promise<ForwardEntry> {
    if (this.#byId.size >= (this.#options.max ?? 16_384)) {
      throw new ForwardError('ERR_FORWARD_LIMIT', `there are ${this.#byId.size} forwards, the most there may be`, {
        key: spec.key,
      });
    }
    const createdAt = new Date(this.#options.wallClock()).toISOString();
    const entry = new ForwardEntry(this.#options.newId(), spec, origin, createdAt, 0);
    entry.holder = holder;
    await this.#open(entry);
    this.#enter(entry);
    try {
      this.#records.put(entry);
    } catch (error) {
      this.#leave(entry, true);
      throw error;
    }
    this.#tell('up', entry);
    return entry;
  }

  /** Another spec for an entry. What listens on the same goes on without a gap. */
  async #exchange(entry: ForwardEntry, spec: CheckedForward, holder: object | undefined): Promise<void> {
    const before = { spec: entry.spec, holder: entry.holder, chosenPort: entry.chosenPort };
    const { open } = entry;
    if (open !== undefined && isDeepStrictEqual(before.spec.listen, spec.listen)) {
      entry.spec = spec;
      entry.holder = holder;
      try {
        this.#records.put(entry);
      } catch (error) {
        entry.spec = before.spec;
        entry.holder = before.holder;
        throw error;
      }
      open.retarget(spec);
      this.#watch(entry);
      this.#tell('changed', entry);
      return;
    }
    // The old listener goes first, for the two may overlap; it comes back if the new one cannot be had.
    this.#slots.remove(entry, entry.chosenPort);
    this.#shut(entry);
    Object.assign(entry, { spec, holder, chosenPort: 0 });
    try {
      await this.#open(entry);
      this.#slots.add(entry, entry.chosenPort);
      this.#records.put(entry);
    } catch (error) {
      if (entry.open !== undefined) this.#slots.remove(entry, entry.chosenPort);
      this.#shut(entry);
      Object.assign(entry, before);
      await this.#reopen(entry);
      this.#slots.add(entry, entry.chosenPort);
      this.#watch(entry);
      if (entry.open === undefined) this.#tell('failed', entry);
      throw error;
    }
    this.#watch(entry);
    this.#tell('changed', entry);
  }

  async #replace(specs: readonly ForwardSpec[], owner: string | undefined, options: AddOptions): Promise<Forward[]> {
    const wanted: CheckedForward[] = [];
    const places = new Map<string, number>();
    const undo: (() => Promise<unknown> | unknown)[] = [];
    const result: string[] = [];
    const breath = new Breath();
    let at = -1;
    try {
      for (const given of specs) {
        at++;
        const spec = this.#check(owner === undefined || given.owner !== undefined ? given : { ...given, owner });
        const { key } = spec;
        if (owner !== undefined && spec.owner !== owner) throw strangerIn(spec, owner);
        const twin = isNameless(spec) ? undefined : places.get(key);
        if (twin !== undefined) throw twice(spec, twin);
        places.set(key, at);
        const there = this.#byKey.get(key);
        if (there !== undefined && !belongs(there, owner))
          throw keyTaken(spec, there, 'give this one another key, or remove that one');
        wanted.push(spec);
      }
      at = -1;
      for (const entry of [...this.#byId.values()]) {
        if (!belongs(entry, owner) || places.has(entry.spec.key)) continue;
        if (breath.due) await breath.take();
        this.#withdraw(entry, false);
        undo.push(() => this.#putBack(entry));
      }
      for (const spec of wanted) {
        at++;
        if (breath.due) await breath.take();
        const there = this.#byKey.get(spec.key);
        const before = there === undefined ? undefined : { spec: there.spec, holder: there.holder };
        const { forward, created } = await this.#add(spec, { ...options, replace: true });
        result.push(forward.id);
        if (created) undo.push(() => this.#withdraw(this.#byId.get(forward.id)!, true));
        else if (there !== undefined && before !== undefined && there.spec !== before.spec)
          undo.push(() => this.#exchange(there, before.spec, before.holder));
      }
    } catch (error) {
      for (const step of undo.reverse()) await step();
      throw ofList(error, at);
    }
    return result.map((id) => this.#byId.get(id)!.view());
  }

  /** A forward that was withdrawn is wanted again. */
  async #putBack(entry: ForwardEntry): Promise<void> {
    await this.#reopen(entry);
    this.#enter(entry);
    this.#records.tryPut(entry);
    this.#tell(entry.open === undefined ? 'failed' : 'up', entry);
  }

  // --- Entries.

  /** Opens; says who holds the place. @throws ForwardError */
  async #open(entry: ForwardEntry): Promise<void> {
    const { spec } = entry;
    const { listen } = spec;
    const taken = this.#slots.find(listen);
    if (taken !== undefined) throw inUse(spec, taken.at, taken.holder.asHolder);
    try {
      entry.open = await this.#openChosen(spec, entry.chosenPort);
    } catch (error) {
      const known =
        error instanceof ForwardError ? error : new ForwardError('ERR_FORWARD', messageOf(error), { cause: error });
      known.key = spec.key;
      throw known;
    }
    if (this.#closed) {
      entry.open.close();
      throw new ForwardError('ERR_STOPPING', 'the daemon ends', { key: spec.key });
    }
    entry.error = undefined;
    if ('port' in listen && listen.port === 0 && (listen.kind === 'tcp' || listen.kind === 'udp'))
      entry.chosenPort = portOf(entry.open.bound[0]!);
  }

  /** The port that was chosen before is asked for first. */
  async #openChosen(spec: CheckedForward, chosenPort: number): Promise<OpenForward> {
    const { listen } = spec;
    if (chosenPort === 0 || (listen.kind !== 'tcp' && listen.kind !== 'udp') || listen.port !== 0)
      return this.#options.opener.open(spec);
    const again: ForwardListen = { ...listen, port: chosenPort };
    if (this.#slots.find(again) === undefined) {
      try {
        return await this.#options.opener.open({ ...spec, listen: again });
      } catch (error) {
        if (!(error instanceof ForwardError) || error.code !== 'ERR_PORT_IN_USE') throw error;
      }
    }
    return this.#options.opener.open(spec);
  }

  /** Opens what should be open; if it cannot be, it is `failed` and tried again. */
  async #reopen(entry: ForwardEntry): Promise<void> {
    const failedBefore = entry.error?.message;
    try {
      await this.#open(entry);
    } catch (error) {
      entry.error = error as ForwardError;
      if (entry.error.message !== failedBefore)
        this.#options.report(`forward ${entry.spec.key} does not listen: ${entry.error.message}`);
    }
  }

  #enter(entry: ForwardEntry): void {
    this.#byId.set(entry.id, entry);
    this.#byKey.set(entry.spec.key, entry);
    this.#slots.add(entry, entry.chosenPort);
    this.#watch(entry);
  }

  #leave(entry: ForwardEntry, reset: boolean): void {
    this.#byId.delete(entry.id);
    this.#byKey.delete(entry.spec.key);
    this.#slots.remove(entry, entry.chosenPort);
    this.#timed.delete(entry);
    const { open } = entry;
    this.#shut(entry);
    if (reset) open?.reset();
  }

  #shut(entry: ForwardEntry): void {
    const { open } = entry;
    entry.open = undefined;
    if (open === undefined) return;
    open.close();
    if (open.counters.active > 0) this.#leaving.add(open);
  }

  #withdraw(entry: ForwardEntry, reset: boolean): void {
    const last = entry.view();
    this.#leave(entry, reset);
    this.#records.forget(entry);
    this.#emit({ type: 'down', forward: last });
  }

  async #restoreOne(key: string, record: ForwardRecord | undefined): Promise<void> {
    const { checker, wallClock, report } = this.#options;
    let spec: CheckedForward;
    try {
      if (record === undefined || this.#byId.has(record.id)) throw new Error('its record is malformed');
      spec = checker.check(record.spec, wallClock());
    } catch (error) {
      // What is over needs no word. The rest stays stored: another start may have the options that it fits.
      if ((error as ForwardError).field === 'lease.until') this.#records.drop(key);
      else report(`forward ${key} is not restored: ${messageOf(error)}`);
      return;
    }
    const there = this.#byKey.get(key);
    if (there !== undefined) {
      if (!sameForward(there.spec, spec)) report(`forward ${key} of the state file gives way to that of an option`);
      this.#records.drop(key);
      return;
    }
    const entry = new ForwardEntry(record.id, spec, 'state', record.createdAt, record.chosenPort);
    await this.#reopen(entry);
    this.#enter(entry);
    if (entry.chosenPort !== record.chosenPort) this.#records.tryPut(entry);
    this.#tell(entry.open === undefined ? 'failed' : 'up', entry);
  }

  // --- Time.

  /** One timer: for the next lease that ends, and for what is to be tried again. */
  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#closed) return;
    const { wallClock, retryMs = 5000 } = this.#options;
    let waitMs = Number.POSITIVE_INFINITY;
    for (const { spec, open } of this.#timed) {
      if (typeof spec.lease === 'object') waitMs = Math.min(waitMs, Date.parse(spec.lease.until) - wallClock());
      if (open === undefined) waitMs = Math.min(waitMs, retryMs);
    }
    if (waitMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#due(), Math.min(Math.max(waitMs, 1), LONGEST_TIMER_MS));
    this.#timer.unref();
  }

  #due(): void {
    this.#change(async () => {
      const now = this.#options.wallClock();
      for (const entry of [...this.#timed]) {
        const { lease } = entry.spec;
        if (typeof lease === 'object' && Date.parse(lease.until) <= now) this.#withdraw(entry, false);
        else if (entry.open === undefined) await this.#retry(entry);
      }
    }).catch((error: unknown) => {
      if (!(error instanceof ForwardError)) throw error;
    });
  }

  async #retry(entry: ForwardEntry): Promise<void> {
    this.#slots.remove(entry, entry.chosenPort);
    await this.#reopen(entry);
    this.#slots.add(entry, entry.chosenPort);
    this.#watch(entry);
    if (entry.open !== undefined) this.#tell('up', entry);
  }

  #watch(entry: ForwardEntry): void {
    if (entry.open === undefined || typeof entry.spec.lease === 'object') this.#timed.add(entry);
    else this.#timed.delete(entry);
  }

  // --- Events.

  #tell(type: ForwardEvent['type'], entry: ForwardEntry): void {
    if (this.#listeners.size > 0) this.#emit({ type, forward: entry.view() });
  }

  #emit(event: ForwardEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
