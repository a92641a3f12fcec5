// Judges a forward before anything is opened: members, ranges, which kinds go together, whether a guest's or a guest-facing address
// can be one. What only the system can say (is the port free, is the address ours) comes with opening.

import { BlockList } from 'node:net';
import { type IpAddress, isMartianV4, parseAddress } from '../ip/address.ts';
import { Destination, type Destinations } from './destination.ts';
import {
  type CheckedForward,
  CLIENT_MODES,
  type ClientMode,
  ForwardError,
  type ForwardLease,
  type ForwardListen,
  type ForwardSpec,
  type ForwardTarget,
  type VsockStyle,
} from './forward-spec.ts';

/** Most ports of one range: each is a listening socket. */
export const FORWARD_PORTS_MAX = 4096;
const TEXT_MAX = 256;
const LABELS_MAX = 64;
/** Longest path of a unix socket in bytes: `sun_path` less its final NUL. */
const PATH_MAX = process.platform === 'linux' ? 107 : 103;

/** An address, or a network, that may be listened on. */
export interface BindRule {
  readonly address: IpAddress;
  /** 0 to 32, or to 128. */
  readonly prefix: number;
}

export interface ForwardRules {
  readonly destinations: Destinations;
  /** Empty: every address. */
  readonly allowBind: readonly BindRule[];
}

function wrong(field: string, message: string): ForwardError {
  return new ForwardError('ERR_FORWARD_SPEC', `${field} ${message}`, { field });
}

/** Checks specs of one network. */
export class ForwardChecker {
  readonly #destinations: Destinations;
  readonly #allowed: BlockList | undefined;

  constructor(rules: ForwardRules) {
    this.#destinations = rules.destinations;
    if (rules.allowBind.length === 0) return;
    this.#allowed = new BlockList();
    for (const { address, prefix } of rules.allowBind) {
      this.#allowed.addSubnet(address.toString(), prefix, address.isV4 ? 'ipv4' : 'ipv6');
    }
  }

  /**
   * The spec with everything filled in. @param now milliseconds since 1970.
   * @throws ForwardError ERR_FORWARD_SPEC with `field`, or ERR_BIND_NOT_ALLOWED.
   */
  check(spec: ForwardSpec, now: number): CheckedForward {
    const listen = this.#listen(spec.listen);
    const target = this.#target(spec.target);
    const client = this.#client(spec.client, listen, target);
    checkPair(listen, target);
    const lease = checkLease(spec.lease ?? 'permanent', now);
    const key = spec.key ?? defaultKey(listen);
    checkText('key', key, 512);
    // RFC 3986 5.2.4: clients take such a last part out of the path before they ask.
    if (key === '.' || key === '..') throw wrong('key', `is "${key}", which no URL can end with; give another name`);
    if (spec.owner !== undefined) checkText('owner', spec.owner, TEXT_MAX);
    const labels = spec.labels === undefined ? undefined : checkLabels(spec.labels);
    return {
      key,
      listen,
      target,
      client,
      lease,
      ...(spec.owner === undefined ? {} : { owner: spec.owner }),
      ...(labels === undefined ? {} : { labels }),
    };
  }

  #listen(listen: ForwardListen): ForwardListen {
    switch (listen?.kind) {
      case 'tcp':
      case 'udp': {
        const address = addressOf('listen.address', listen.address);
        this.#checkBind(address);
        if (address.isV4 ? isUnusable(address) : isGroup6(address))
          throw wrong('listen.address', `is ${address}, which no host can listen on; give an address of the host`);
        if (!address.isV4 && isLinkLocal6(address))
          throw wrong(
            'listen.address',
            `is ${address}, which is another on each interface; give an address of wider scope`,
          );
        checkPort('listen.port', listen.port, 0);
        const count = checkCount(listen.count, listen.port);
        const v6Only = listen.v6Only ?? true;
        if (typeof v6Only !== 'boolean') throw wrong('listen.v6Only', 'is neither true nor false');
        if (!v6Only && address.isV4)
          throw wrong('listen.v6Only', 'is about IPv6 addresses; the listening address is IPv4');
        return {
          kind: listen.kind,
          address: address.toString(),
          port: listen.port,
          ...(count === 1 ? {} : { count }),
          ...(v6Only ? {} : { v6Only }),
        };
      }
      case 'unix':
        return { kind: 'unix', path: checkPath('listen.path', listen.path) };
      case 'fd': {
        checkText('listen.name', listen.name, TEXT_MAX);
        if (listen.protocol !== 'tcp' && listen.protocol !== 'udp') throw wrong('listen.protocol', 'is not tcp or udp');
        return { kind: 'fd', name: listen.name, protocol: listen.protocol };
      }
      case 'guest': {
        const address = addressOf('listen.address', listen.address);
        const kind = this.#destinations.classify(address);
        const right = `an address of the network ${this.#destinations.network} that no VM has, the gateway or the host alias`;
        const own = address.isV4 && address.v4 === this.#destinations.network.network;
        if (own || (kind !== Destination.Gateway && kind !== Destination.HostLoopback && kind !== Destination.Unused))
          throw wrong('listen.address', `is ${address}; guests can be served on ${right}`);
        checkPort('listen.port', listen.port, 1);
        const count = checkCount(listen.count, listen.port);
        return { kind: 'guest', address: address.toString(), port: listen.port, ...(count === 1 ? {} : { count }) };
      }
      case 'vsock': {
        const style = checkStyle('listen.style', listen.style);
        checkVsockPort('listen.port', listen.port);
        const path = checkPath('listen.path', listen.path, style === 'connect' ? 11 : 18);
        return { kind: 'vsock', path, port: listen.port, ...(style === 'connect' ? {} : { style }) };
      }
      default:
        throw wrong('listen.kind', 'is not tcp, udp, unix, fd, guest or vsock');
    }
  }

  #target(target: ForwardTarget): ForwardTarget {
    switch (target?.kind) {
      case 'guest': {
        checkPort('target.port', target.port, 1);
        const guest = target.guest === undefined ? undefined : this.#guest(target.guest);
        return { kind: 'guest', ...(guest === undefined ? {} : { guest }), port: target.port };
      }
      case 'vsock': {
        const style = checkStyle('target.style', target.style);
        checkVsockPort('target.port', target.port);
        const path = checkPath('target.path', target.path, style === 'connect' ? 0 : 8);
        const cid = target.cid ?? 3;
        if (!Number.isInteger(cid) || cid < 3 || cid > 0xffff_fffe)
          throw wrong('target.cid', `is ${cid}; a guest's CID is from 3 to 4294967294`);
        if (target.cid !== undefined && style === 'connect')
          throw wrong('target.cid', 'is for the style hyperkit only: with connect the socket is one VM’s');
        return { kind: 'vsock', path, port: target.port, ...(style === 'connect' ? {} : { style, cid }) };
      }
      case 'tcp': {
        const address = addressOf('target.address', target.address);
        if (address.isV4 ? isUnusable(address) || address.v4 === 0 : isGroup6(address) || isUnspecified(address))
          throw wrong('target.address', `is ${address}, which nothing can be reached on`);
        checkPort('target.port', target.port, 1);
        return { kind: 'tcp', address: address.toString(), port: target.port };
      }
      case 'unix':
        return { kind: 'unix', path: checkPath('target.path', target.path) };
      default:
        throw wrong('target.kind', 'is not guest, vsock, tcp or unix');
    }
  }

  /** Canonical text of a guest's address, MAC or name. */
  #guest(text: string): string {
    checkText('target.guest', text, 253);
    const address = parseAddress(text);
    if (address !== undefined) {
      const { network, gateway, hostAlias } = this.#destinations;
      if (
        !address.isV4 ||
        !network.contains(address.v4) ||
        this.#destinations.classify(address) === Destination.Broadcast
      )
        throw wrong('target.guest', `is ${address}, which is not inside the network ${network}`);
      if (address.equals(gateway) || hostAlias?.equals(address) || address.v4 === network.network)
        throw wrong('target.guest', `is ${address}, an address of the network's own; give a VM's`);
      return address.toString();
    }
    const lower = text.toLowerCase();
    const mac = lower.replaceAll('-', ':');
    if (/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac)) {
      if (Number.parseInt(mac.slice(0, 2), 16) & 1) throw wrong('target.guest', `is ${mac}, a group's MAC address`);
      return mac;
    }
    // A name is known once the VM has said it by DHCP; numbers and the like are mistyped addresses.
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(lower) || /^([0-9]+|0x[0-9a-f]*)$/.test(lower))
      throw wrong('target.guest', `is "${text.slice(0, 80)}"; give a VM's IPv4 address, MAC address or DHCP host name`);
    return lower;
  }

  #client(client: ClientMode | undefined, listen: ForwardListen, target: ForwardTarget): ClientMode {
    if (client === undefined) return 'transparent';
    if (!CLIENT_MODES.includes(client)) throw wrong('client', `is not ${CLIENT_MODES.join(', ')}`);
    const proxy = client.startsWith('proxy-protocol');
    if (target.kind !== 'guest' && !(proxy && target.kind === 'vsock') && client !== 'transparent')
      throw wrong('client', `is ${client}, which a ${target.kind} target knows nothing of; leave it out`);
    const datagrams = listen.kind === 'udp' || (listen.kind === 'fd' && listen.protocol === 'udp');
    if (datagrams && client === 'proxy-protocol-v1')
      throw wrong('client', 'is proxy-protocol-v1, which has no form for UDP; use proxy-protocol-v2');
    return client;
  }

  #checkBind(address: IpAddress): void {
    if (this.#allowed?.check(address.toString(), address.isV4 ? 'ipv4' : 'ipv6') === false) {
      throw new ForwardError(
        'ERR_BIND_NOT_ALLOWED',
        `listen.address is ${address}, which --allow-bind does not name; listen on an address that it names, or start the daemon with it`,
        { field: 'listen.address' },
      );
    }
  }
}

/** Which sides go together. */
function checkPair(listen: ForwardListen, target: ForwardTarget): void {
  const fromGuest = listen.kind === 'guest' || listen.kind === 'vsock';
  const toGuest = target.kind === 'guest' || target.kind === 'vsock';
  if (fromGuest === toGuest) {
    throw wrong(
      'target.kind',
      fromGuest
        ? `is ${target.kind}; what guests connect to leads to the host, a unix socket or a TCP port`
        : `is ${target.kind}; what listens on the host leads to a guest, a port or vsock port of it`,
    );
  }
  const datagrams = listen.kind === 'udp' || (listen.kind === 'fd' && listen.protocol === 'udp');
  if (datagrams && target.kind === 'vsock')
    throw wrong('target.kind', 'is vsock, which carries streams; UDP cannot go there');
  const count = 'count' in listen ? (listen.count ?? 1) : 1;
  if (count === 1) return;
  if (target.kind === 'unix') throw wrong('target.kind', `is unix, which is one socket; the range has ${count} ports`);
  if (target.kind !== 'vsock' && target.port + count - 1 > 65535)
    throw wrong('target.port', `is ${target.port}, and a range of ${count} from there ends past 65535`);
}

function checkLease(lease: ForwardLease, now: number): ForwardLease {
  if (lease === 'permanent' || lease === 'connection') return lease;
  const until = typeof lease === 'object' && typeof lease?.until === 'string' ? Date.parse(lease.until) : Number.NaN;
  if (Number.isNaN(until))
    throw wrong('lease', 'is not permanent, connection or { "until": a time like 2030-01-31T12:00:00Z }');
  if (until <= now) throw wrong('lease.until', `is ${new Date(until).toISOString()}, which is over`);
  return { until: new Date(until).toISOString() };
}

/** What listens, as text; the key of a forward that was given none. A port that the system chooses is told apart by the table. */
export function defaultKey(listen: ForwardListen): string {
  switch (listen.kind) {
    case 'tcp':
    case 'udp':
    case 'guest': {
      const host = listen.address.includes(':') ? `[${listen.address}]` : listen.address;
      const last = listen.port + (listen.count ?? 1) - 1;
      return `${listen.kind}:${host}:${listen.port}${last > listen.port ? `-${last}` : ''}`;
    }
    case 'unix':
      return `unix:${listen.path}`;
    case 'fd':
      return `fd:${listen.name}`;
    case 'vsock':
      return `vsock:${listen.path}:${listen.port}`;
  }
}

function addressOf(field: string, text: unknown): IpAddress {
  const address = typeof text === 'string' ? parseAddress(text.replace(/^\[(.*)\]$/, '$1')) : undefined;
  if (address === undefined)
    throw wrong(field, `is ${JSON.stringify(text)?.slice(0, 80)}; give an IPv4 or IPv6 address, not a name`);
  return address;
}

/** Multicast, broadcast and reserved; 0.0.0.0 and loopback are not. */
function isUnusable(address: IpAddress): boolean {
  return isMartianV4(address.v4) && address.v4 !== 0 && address.v4 >>> 24 !== 127;
}

function isGroup6(address: IpAddress): boolean {
  return address.w0 >>> 24 === 0xff;
}

/** fe80::/10, RFC 4291 2.5.6. */
function isLinkLocal6(address: IpAddress): boolean {
  return (address.w0 & 0xffc00000) >>> 0 === 0xfe800000;
}

function isUnspecified(address: IpAddress): boolean {
  return (address.w0 | address.w1 | address.w2 | address.w3) === 0;
}

function checkPort(field: string, port: number, least: 0 | 1): void {
  if (!Number.isInteger(port) || port < least || port > 65535)
    throw wrong(field, `is ${JSON.stringify(port)}; a port is a whole number from ${least} to 65535`);
}

function checkVsockPort(field: string, port: number): void {
  if (!Number.isInteger(port) || port < 0 || port > 0xffff_fffe)
    throw wrong(field, `is ${JSON.stringify(port)}; a vsock port is a whole number from 0 to 4294967294`);
}

function checkCount(count: number | undefined, port: number): number {
  if (count === undefined) return 1;
  if (!Number.isInteger(count) || count < 1 || count > FORWARD_PORTS_MAX)
    throw wrong('listen.count', `is ${JSON.stringify(count)}; a range has 1 to ${FORWARD_PORTS_MAX} ports`);
  if (port === 0 && count > 1) throw wrong('listen.count', 'goes with a first port; with port 0 there is one');
  if (port + count - 1 > 65535) throw wrong('listen.count', `is ${count}; from port ${port} that ends past 65535`);
  return count;
}

function checkStyle(field: string, style: VsockStyle | undefined): VsockStyle {
  if (style === undefined || style === 'connect' || style === 'hyperkit') return style ?? 'connect';
  throw wrong(field, 'is not connect or hyperkit');
}

/** @param more bytes that are still to follow the path. */
function checkPath(field: string, path: string, more = 0): string {
  if (typeof path !== 'string' || !path.startsWith('/') || path.includes('\0'))
    throw wrong(field, `is ${JSON.stringify(path)?.slice(0, 80)}; give an absolute path`);
  const bytes = Buffer.byteLength(path) + more;
  if (bytes > PATH_MAX)
    throw wrong(field, `makes a socket path of ${bytes} bytes; the system takes at most ${PATH_MAX}`);
  return path;
}

function checkText(field: string, text: string, max: number): void {
  if (typeof text !== 'string' || text === '') throw wrong(field, 'is not a text of at least one character');
  if (text.length > max) throw wrong(field, `has ${text.length} characters; at most ${max}`);
  if (/\p{Cc}/u.test(text)) throw wrong(field, 'has control characters in it');
}

function checkLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  if (typeof labels !== 'object' || labels === null || Array.isArray(labels)) throw wrong('labels', 'is not an object');
  const names = Object.keys(labels).sort();
  if (names.length > LABELS_MAX) throw wrong('labels', `has ${names.length} members; at most ${LABELS_MAX}`);
  for (const name of names) {
    checkText(`labels.${name.slice(0, 80)}`, name, TEXT_MAX);
    if (labels[name] !== '') checkText(`labels.${name.slice(0, 80)}`, labels[name]!, TEXT_MAX);
  }
  return Object.fromEntries(names.map((name) => [name, labels[name]!]));
}
