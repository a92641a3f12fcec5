// What happens in the daemon, told to whoever listens: numbered events, the last of which are kept so that a client that connects again
// misses nothing in between. It owns the numbers and the memory of the last events; how a client is written to is event-stream's.

export type EventType =
  | 'proxy.settings'
  | 'proxy.refused'
  | 'proxy.problem'
  | 'vm.up'
  | 'vm.down'
  | 'forward.up'
  | 'forward.down'
  | 'forward.failed'
  | 'lease.given'
  | 'lease.released'
  | 'flow.limit'
  | 'dns.servers'
  | 'network.clash'
  | 'dns.records'
  | 'host.wake'
  | 'daemon.draining'
  | 'daemon.stopping';

/** Every event that there is, with what it tells. Public; docs/control-api.md describes them. */
export const EVENT_TYPES: Readonly<Record<EventType, string>> = {
  'proxy.settings': 'other proxy settings are in force',
  'proxy.refused': 'a flow of a guest did not get through the proxy',
  'proxy.problem': 'something about the proxy settings does not work, or does again',
  'vm.up': 'a VM has connected',
  'vm.down': 'a VM has gone',
  'forward.up': 'a forward listens, or goes on with another target',
  'forward.down': 'a forward was removed',
  'forward.failed': 'a forward cannot listen now',
  'lease.given': 'a DHCP lease was given or renewed',
  'lease.released': 'a guest gave its lease back',
  'flow.limit': 'flows were refused or pushed out because a limit was reached',
  'dns.servers': 'who is asked for names has changed',
  'network.clash': "networks of the host overlap the VMs' one, or no longer do: those that do now",
  'dns.records': 'names or zones were changed by the control API',
  'host.wake': 'the host has slept, or its clock was set ahead',
  'daemon.draining': 'the daemon takes no new flows and ends when the last has',
  'daemon.stopping': 'the daemon ends',
};

/** One event. */
export interface ControlEvent {
  /** `BOOT.NUMBER`: grows by one, and begins anew with a new BOOT when the daemon is started. */
  readonly id: string;
  readonly number: number;
  readonly type: EventType;
  /** ISO 8601. */
  readonly at: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export type EventListener = (event: ControlEvent) => void;

const KEPT_EVENTS = 512;

export class EventHub {
  readonly boot: string;
  /** Events that a client did not get because it did not read. */
  lost = 0;
  /** Called when the first listener has come, or the last has gone. */
  onAudience: (present: boolean) => void = () => {};
  #number = 0;
  readonly #kept: ControlEvent[] = [];
  readonly #listeners = new Set<EventListener>();

  constructor(boot: string = Date.now().toString(36)) {
    this.boot = boot;
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  publish(type: EventType, data: Readonly<Record<string, unknown>>): void {
    const number = ++this.#number;
    const event: ControlEvent = { id: `${this.boot}.${number}`, number, type, at: new Date().toISOString(), data };
    if (this.#kept.push(event) > KEPT_EVENTS) this.#kept.shift();
    for (const listener of this.#listeners) listener(event);
  }

  /** @returns a function that ends it. */
  listen(listener: EventListener): () => void {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.onAudience(true);
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.onAudience(false);
    };
  }

  /**
   * Events after the one with this id, and how many of them are not kept any more (all of an earlier boot count as one gap).
   * An id that is none of ours is as good as none.
   */
  since(id: string): { readonly events: readonly ControlEvent[]; readonly lost: number } {
    const [boot, text = ''] = id.split('.');
    const number = Number(text);
    if (!/^\d{1,15}$/.test(text) || number > this.#number) return { events: [], lost: 0 };
    if (boot !== this.boot) return { events: [...this.#kept], lost: 0 };
    const first = this.#kept[0]?.number ?? this.#number + 1;
    return { events: this.#kept.filter((e) => e.number > number), lost: Math.max(0, first - number - 1) };
  }
}
