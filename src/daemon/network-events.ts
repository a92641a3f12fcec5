// What happens in the network, as events of the control API: who tells what, in which words. The events themselves, and who hears them,
// are control/event-hub's.

import { EventHub } from '../control/event-hub.ts';
import { formatMac } from '../ethernet/mac.ts';
import type { ForwardEvent } from '../forwarder/forward-spec.ts';
import type { HostNetwork } from '../host/host-networks.ts';
import { type Cidr4, formatV4 } from '../ip/address.ts';
import type { VmPort } from '../stack/vm-port.ts';

/** Counters of limits are looked at so often. */
const LIMIT_CHECK_MS = 1000;

export class NetworkEvents {
  readonly hub: EventHub = new EventHub();
  #timer: NodeJS.Timeout | undefined;

  vmUp(port: VmPort): void {
    this.hub.publish('vm.up', { vm: port.id, link: port.info.name, mtu: port.info.mtu });
  }

  vmDown(port: VmPort): void {
    const { id, info, framesFromGuest, bytesFromGuest, framesToGuest, bytesToGuest } = port;
    const counters = { framesFromGuest, bytesFromGuest, framesToGuest, bytesToGuest };
    this.hub.publish('vm.down', { vm: id, link: info.name, counters });
  }

  lease(mac: Uint8Array, address: number, hostName: string): void {
    this.hub.publish('lease.given', { address: formatV4(address), mac: formatMac(mac), hostName: hostName || null });
  }

  released(mac: Uint8Array, address: number): void {
    this.hub.publish('lease.released', { address: formatV4(address), mac: formatMac(mac) });
  }

  forward({ type, forward }: ForwardEvent): void {
    const { id, key, spec, bound, origin, error } = forward;
    const { owner, labels } = spec;
    const data = {
      id,
      key,
      origin,
      bound,
      ...(owner === undefined ? {} : { owner }),
      ...(labels === undefined ? {} : { labels }),
    };
    if (type === 'down') this.hub.publish('forward.down', data);
    else if (error !== undefined) this.hub.publish('forward.failed', { ...data, error });
    else this.hub.publish('forward.up', data);
  }

  /** A line of the DNS service's log. */
  dns(event: string, fields: Readonly<Record<string, unknown>>): void {
    const { servers, domains } = fields;
    if (event === 'dns.servers.changed')
      this.hub.publish('dns.servers', { servers, ...(domains === undefined ? {} : { domains }) });
  }

  /** Networks of the host overlap the virtual one, or no longer do. */
  clash(network: Cidr4, clashes: readonly HostNetwork[]): void {
    this.hub.publish('network.clash', { network: network.toString(), clashes });
  }

  /** Tells of limits that were reached, while anybody listens: a daemon without listeners sleeps. @param read how often each was, so far. */
  watchLimits(read: () => Readonly<Record<string, number>>): void {
    let before = read();
    const check = (): void => {
      const now = read();
      for (const [limit, times] of Object.entries(now)) {
        const more = times - (before[limit] ?? 0);
        if (more > 0) this.hub.publish('flow.limit', { limit, times: more, total: times });
      }
      before = now;
    };
    this.hub.onAudience = (present) => {
      clearInterval(this.#timer);
      this.#timer = present ? setInterval(check, LIMIT_CHECK_MS).unref() : undefined;
    };
  }

  close(): void {
    this.hub.onAudience = () => {};
    clearInterval(this.#timer);
    this.hub.publish('daemon.stopping', {});
  }
}
