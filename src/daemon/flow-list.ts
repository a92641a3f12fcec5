// The `flows` resource: the tables of TCP and UDP flows as the control API shows them. It keeps nothing but the numbers that it has
// given to flows; the flows pay for nothing while nobody looks.

import type { Millis } from '../base/clock.ts';
import type { FlowFilter, FlowInfo, FlowPage } from '../control/resources.ts';
import type { UdpClient } from '../forwarder/udp-clients.ts';
import type { UdpForwarder } from '../forwarder/udp-forwarder.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';
import type { Stack } from '../stack/stack.ts';
import type { Connection } from '../tcp/connection.ts';
import { CloseReason } from '../tcp/flow.ts';
import { STATE_NAMES } from '../tcp/state.ts';
import { formatEndpoint } from './value-grammar.ts';

/** Published UDP ports, as far as their clients are flows. */
export interface PublishedDatagrams {
  list(): IterableIterator<UdpClient>;
  end(client: UdpClient): void;
}

type UdpFlow = ReturnType<UdpForwarder['flows']> extends IterableIterator<infer T> ? T : never;

/** An end of a flow to look for. */
interface End {
  readonly address: IpAddress;
  /** 0: any. */
  readonly port: number;
}

export class FlowList {
  readonly #stack: Stack;
  readonly #udp: UdpForwarder;
  readonly #published: PublishedDatagrams;
  readonly #ids = new WeakMap<object, number>();
  #nextId = 1;

  constructor(stack: Stack, udp: UdpForwarder, published: PublishedDatagrams) {
    this.#stack = stack;
    this.#udp = udp;
    this.#published = published;
  }

  page(filter: FlowFilter, now: Millis): FlowPage {
    const guest = endOf(filter.guest);
    const remote = endOf(filter.remote);
    // A filter that is no address fits no flow.
    if (guest === null || remote === null) return { total: 0, flows: [] };
    const flows: FlowInfo[] = [];
    const { offset, limit } = filter;
    let total = 0;
    const take = (make: () => FlowInfo): void => {
      if (total >= offset && flows.length < limit) flows.push(make());
      total++;
    };
    if (filter.protocol !== 'udp') {
      for (const c of this.#stack.tcp.table.all()) {
        if (filter.vm !== undefined && c.vm.id !== filter.vm) continue;
        if (filter.state !== undefined && STATE_NAMES[c.state] !== filter.state) continue;
        if (!isEnd(guest, c.guest, c.guestPort) || !isEnd(remote, c.remote, c.remotePort)) continue;
        take(() => this.#tcpInfo(c, now));
      }
    }
    if (filter.protocol !== 'tcp' && (filter.state === undefined || filter.state === UDP_STATE)) {
      // One flow of a guest has any number of remotes, so none is found by one.
      for (const f of remote === undefined ? this.#udp.flows() : []) {
        if (filter.vm !== undefined && f.vm.id !== filter.vm) continue;
        if (isEnd(guest, f.guest, f.guestPort)) take(() => this.#udpInfo(f, now));
      }
      for (const c of this.#published.list()) {
        if (filter.vm !== undefined && this.#vmOf(c.guest) !== filter.vm) continue;
        if (!isEnd(guest, c.guest, c.guestPort) || !isEnd(remote, c.source, c.sourcePort)) continue;
        take(() => this.#clientInfo(c, now));
      }
    }
    return { total, flows };
  }

  /** Ends a flow. @returns false if there is none with this id. */
  kill(id: string, now: Millis): boolean {
    const number = Number(/^(?:tcp|udp)-(\d{1,15})$/.exec(id)?.[1] ?? Number.NaN);
    if (id.startsWith('tcp-')) {
      const c = this.#stack.tcp.table.all().find((one) => this.#ids.get(one) === number);
      if (c === undefined) return false;
      const { owner } = c;
      c.abort(CloseReason.Killed, now);
      owner?.onClosed(CloseReason.Killed, now);
      return true;
    }
    for (const c of this.#published.list()) {
      if (this.#ids.get(c) !== number) continue;
      this.#published.end(c);
      return true;
    }
    for (const f of this.#udp.flows()) {
      if (this.#ids.get(f) !== number) continue;
      this.#udp.end(f);
      return true;
    }
    return false;
  }

  #id(flow: object): number {
    let id = this.#ids.get(flow);
    if (id === undefined) {
      id = this.#nextId++;
      this.#ids.set(flow, id);
    }
    return id;
  }

  #tcpInfo(c: Connection, now: Millis): FlowInfo {
    return {
      id: `tcp-${this.#id(c)}`,
      protocol: 'tcp',
      vm: c.vm.id === 0 ? null : c.vm.id,
      guest: formatEndpoint(c.guest, c.guestPort),
      remote: formatEndpoint(c.remote, c.remotePort),
      direction: c.active ? 'inbound' : 'outbound',
      state: STATE_NAMES[c.state] ?? String(c.state),
      ageSeconds: seconds(now - c.createdAt),
      idleSeconds: seconds(now - Math.max(c.createdAt, c.lastRecvAt, c.lastSendAt)),
      bytesToHost: c.bytesToHost,
      bytesToGuest: c.bytesToGuest,
      retransmits: c.retransmits,
    };
  }

  #clientInfo(c: UdpClient, now: Millis): FlowInfo {
    return {
      id: `udp-${this.#id(c)}`,
      protocol: 'udp',
      vm: this.#vmOf(c.guest) ?? null,
      guest: formatEndpoint(c.guest, c.guestPort),
      remote: formatEndpoint(c.source, c.sourcePort),
      direction: 'inbound',
      state: UDP_STATE,
      ageSeconds: null,
      idleSeconds: seconds(now - c.lastUsed),
      bytesToHost: c.bytesToHost,
      bytesToGuest: c.bytesToGuest,
      retransmits: 0,
    };
  }

  /** The VM that has an address now. */
  #vmOf(guest: IpAddress): number | undefined {
    if (!guest.isV4) return undefined;
    for (const n of this.#stack.neighbours.entries()) if (n.usable && n.ip === guest.v4) return n.portId;
    return undefined;
  }

  #udpInfo(f: UdpFlow, now: Millis): FlowInfo {
    return {
      id: `udp-${this.#id(f)}`,
      protocol: 'udp',
      vm: f.vm.id,
      guest: formatEndpoint(f.guest, f.guestPort),
      remote: null,
      direction: 'outbound',
      state: UDP_STATE,
      ageSeconds: null,
      idleSeconds: seconds(now - f.lastUsed),
      bytesToHost: f.bytesToHost,
      bytesToGuest: f.bytesToGuest,
      retransmits: 0,
    };
  }
}

/** What a UDP flow is, for as long as there is one; in capitals as those of TCP. */
const UDP_STATE = 'OPEN';

function seconds(ms: number): number {
  return Math.max(0, Math.round(ms / 100) / 10);
}

/** `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. @returns null for what is none of these. */
function endOf(text: string | undefined): End | undefined | null {
  if (text === undefined) return undefined;
  const whole = parseAddress(text);
  if (whole !== undefined) return { address: whole, port: 0 };
  const m = /^(?:\[(.*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const address = m === null ? undefined : parseAddress(m[1] ?? m[2]!);
  return address === undefined ? null : { address, port: Number(m![3]) };
}

function isEnd(end: End | undefined, address: IpAddress, port: number): boolean {
  return end === undefined || ((end.port === 0 || end.port === port) && end.address.equals(address));
}
