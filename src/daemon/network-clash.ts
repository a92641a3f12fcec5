// Watches that no network of the host lies over the virtual one: a VPN or Wi-Fi that comes up later may bring one, and guests could not
// reach it. It looks when something suggests it, at most so often, and sets no timer: an idle daemon sleeps.

import type { Millis } from '../base/clock.ts';
import type { HostNetwork } from '../host/host-networks.ts';
import type { Cidr4 } from '../ip/address.ts';
import { clashesOf } from './network-choice.ts';

/** While guests open flows. */
const TRAFFIC_MS = 30_000;
/** After errors for want of a route, and when somebody asks. */
const ASKED_MS = 1000;

export interface NetworkClashOptions {
  readonly network: Cidr4;
  readonly read: () => readonly HostNetwork[];
  readonly now: () => Millis;
  /** Something has changed: all clashes now, and which of them are new or over. */
  readonly onChange: (change: ClashChange) => void;
}

export interface ClashChange {
  readonly clashes: readonly HostNetwork[];
  readonly appeared: readonly HostNetwork[];
  readonly gone: readonly HostNetwork[];
}

export class NetworkClash {
  readonly #options: NetworkClashOptions;
  #clashes: readonly HostNetwork[] = [];
  #checkedAt: Millis = Number.NEGATIVE_INFINITY;

  constructor(options: NetworkClashOptions) {
    this.#options = options;
  }

  /** Looks now. */
  check(): void {
    const { network, read, now, onChange } = this.#options;
    this.#checkedAt = now();
    const before = this.#clashes;
    const clashes = clashesOf(network, read());
    this.#clashes = clashes;
    const appeared = clashes.filter((clash) => !holds(before, clash));
    const gone = before.filter((clash) => !holds(clashes, clash));
    if (appeared.length > 0 || gone.length > 0) onChange({ clashes, appeared, gone });
  }

  /** A guest opens a flow. */
  onTraffic(now: Millis): void {
    if (now - this.#checkedAt >= TRAFFIC_MS) this.check();
  }

  /** The host had no route, or somebody wants to know. */
  onHint(): void {
    if (this.#options.now() - this.#checkedAt >= ASKED_MS) this.check();
  }

  /** One line for each clash there is, as far as is known. */
  warnings(): string[] {
    const { network } = this.#options;
    return this.#clashes.map((clash) => clashText(network, clash));
  }
}

/** What the operator is told. */
export function clashText(network: Cidr4, { cidr, device, kind }: HostNetwork): string {
  const what = kind === 'interface' ? `the network of interface ${device}` : `a route by ${device}`;
  return `the VMs' network ${network} overlaps ${cidr}, ${what}: VMs cannot reach hosts there; use another --network, or auto`;
}

function holds(list: readonly HostNetwork[], { cidr, device }: HostNetwork): boolean {
  return list.some((one) => one.cidr === cidr && one.device === device);
}
