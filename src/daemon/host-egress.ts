// The way out to the host's network, as far as the operator has a say in it: source addresses, pings, and clashes of the virtual network
// with the host's own. It wires these parts and gives them words in the log and events; each does its work by itself.

import type { Clock, Millis } from '../base/clock.ts';
import type { Destinations } from '../forwarder/destination.ts';
import { Outbound } from '../forwarder/outbound.ts';
import { PingForwarder } from '../forwarder/ping-forwarder.ts';
import { findPing } from '../forwarder/ping-program.ts';
import { hostAddresses, hostNetworks } from '../host/host-networks.ts';
import type { EchoSender } from '../stack/ports.ts';
import type { Config } from './config.ts';
import { formatOutbound } from './egress-grammar.ts';
import type { Log } from './log.ts';
import { type ClashChange, clashText, NetworkClash } from './network-clash.ts';

export interface HostEgressOptions {
  readonly config: Pick<Config, 'network' | 'outbound' | 'ping'>;
  readonly destinations: Destinations;
  /** How answers to pings reach guests, once there is a stack. */
  readonly echo: () => EchoSender;
  readonly clock: Clock;
  readonly log: Log;
  /** Clashes have come or gone. */
  readonly onClash: (change: ClashChange) => void;
}

export class HostEgress {
  /** For those who dial. */
  readonly way: {
    readonly outbound: Outbound;
    readonly onFlow: (now: Millis) => void;
    readonly onNoRoute: () => void;
  };
  readonly ping: PingForwarder;
  readonly clash: NetworkClash;
  readonly #options: HostEgressOptions;

  constructor(options: HostEgressOptions) {
    const { config, destinations, echo, clock, log } = options;
    this.#options = options;
    const outbound = new Outbound(config.outbound);
    this.way = {
      outbound,
      onFlow: (now) => this.clash.onTraffic(now),
      onNoRoute: () => this.clash.onHint(),
    };
    this.ping = new PingForwarder({
      destinations,
      sender: {
        sendEchoReply: (...args) => echo().sendEchoReply(...args),
        sendEchoExceeded: (...args) => echo().sendEchoExceeded(...args),
        sendEchoUnreachable: (...args) => echo().sendEchoUnreachable(...args),
      },
      clock,
      mode: config.ping,
      find: () => findPing(process.env, process.platform),
      sourceFor: (remote) => outbound.addressFor(remote)?.toString(),
      log: (level, event, fields) => log[level]({ event, ...fields }, event),
    });
    this.clash = new NetworkClash({
      network: config.network,
      read: hostNetworks,
      now: () => clock.now(),
      onChange: (change) => this.#onClash(change),
    });
  }

  start(): void {
    const { config, log } = this.#options;
    const have = new Set(hostAddresses().map(({ address }) => address));
    for (const rule of config.outbound) {
      if (have.has(rule.address.toString())) continue;
      const text = `the host has no address ${rule.address} now; until it has, ${rule.network} is unreachable for VMs`;
      log.warn({ event: 'outbound.missing', rule: formatOutbound(rule) }, text);
    }
    this.clash.check();
  }

  close(): void {
    this.ping.close();
  }

  #onClash(change: ClashChange): void {
    const { config, log, onClash } = this.#options;
    for (const clash of change.appeared)
      log.warn({ event: 'network.clash', ...clash }, clashText(config.network, clash));
    for (const clash of change.gone) log.info({ event: 'network.clash.over', ...clash }, 'the clash is over');
    onClash(change);
  }
}
