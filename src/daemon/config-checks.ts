// What options must agree on among each other. Each check names the option that is to be changed, and what would be right.

import { accessSync, constants } from 'node:fs';
import { resolve } from 'node:path';
import { hostAddresses } from '../host/host-networks.ts';
import { SOCKET_PATH_MAX_BYTES } from '../host/socket-file.ts';
import { type Cidr4, formatV4, type IpAddress } from '../ip/address.ts';
import type { Config } from './config.ts';
import type { OptionName } from './config-schema.ts';
import { checkDnsFiles } from './dns-option.ts';
import { unreadable, type ValueSource } from './given-value.ts';
import { formatPublishItem } from './publish-item.ts';
import type { PublishSpec } from './publish-spec.ts';
import { type FixedLease, formatEndpoint } from './value-grammar.ts';

/** Where a value came from, and how its mistake is told. */
export interface ConfigReader {
  source(name: OptionName): ValueSource;
  /** @throws OperatorError always. */
  fail(name: OptionName, problem: string, expected: string, cause?: unknown): never;
}

/** @throws OperatorError for the first contradiction. */
export function checkConfig(config: Config, read: ConfigReader): void {
  checkAddresses(config, read);
  checkOutbound(config, read);
  checkLinks(config, read);
  checkLeases(config, read);
  checkPublish(config, read);
  checkDescriptors(config, read);
  checkIsolation(config, read);
  checkProxy(config, read);
  checkFiles(config, read);
  checkDnsFiles(config.dnsFiles, {
    wrong: (problem, expected) => read.fail('dns', problem, expected),
    unreadable: (path, error) => {
      throw unreadable('dns', read.source('dns'), path, error);
    },
  });
}

/** Whether an address is one that a machine in the network can have. */
function isHostAddress(network: Cidr4, address: IpAddress): boolean {
  return (
    address.isV4 && network.contains(address.v4) && address.v4 !== network.network && address.v4 !== network.broadcast
  );
}

function hostRange(network: Cidr4): string {
  return `an address of the network ${network}, ${formatV4(network.network + 1)} to ${formatV4(network.broadcast - 1)}`;
}

function checkAddresses({ network, gateway, hostAlias }: Config, read: ConfigReader): void {
  if (!isHostAddress(network, gateway)) {
    const inside = gateway.isV4 && network.contains(gateway.v4);
    const wrong = inside ? "is the network's own or broadcast address" : 'is not inside the network';
    read.fail('gateway', `"${gateway}" ${wrong}`, hostRange(network));
  }
  if (hostAlias === undefined) return;
  const expected = `${hostRange(network)}, other than the gateway; or none`;
  if (!isHostAddress(network, hostAlias)) read.fail('host-alias', `"${hostAlias}" is not inside the network`, expected);
  if (hostAlias.equals(gateway)) read.fail('host-alias', `"${hostAlias}" is the gateway's address`, expected);
}

/** One address for each network. Only one that is to serve every destination must be there already: a VPN may come up later. */
function checkOutbound({ outbound }: Config, read: ConfigReader): void {
  const seen = new Map<string, IpAddress>();
  for (const { network, address } of outbound) {
    const to = network.prefix === 0 ? 'every destination' : `${network}`;
    const other = seen.get(`${network}`);
    if (other !== undefined)
      read.fail('outbound-address', `${to} has two addresses, ${other} and ${address}`, 'one address for each');
    seen.set(`${network}`, address);
    if (network.prefix !== 0) continue;
    const have = hostAddresses().map((one) => one.address);
    if (have.includes(address.toString())) continue;
    const others = have.filter((text) => !text.startsWith('127.'));
    const expected = others.length === 0 ? 'an address of this host' : `one of ${others.join(', ')}`;
    read.fail('outbound-address', `"${address}" is not an address of this host`, expected);
  }
}

function checkLinks({ vm, readyFd, control, apis }: Config, read: ConfigReader): void {
  const seen = new Map<string, string>();
  for (const { url, transport: t } of vm) {
    const key = t.kind === 'listen' ? resolve(t.path) : t.kind === 'fd' ? `fd:${t.fd}` : 'stdio';
    if (seen.has(key)) read.fail('vm', `"${url}" and "${seen.get(key)}" are the same socket`, 'each socket once');
    seen.set(key, url);
  }
  if (readyFd !== undefined && seen.has(`fd:${readyFd}`)) {
    read.fail('ready-fd', `"${readyFd}" is the descriptor of a VM link`, 'a descriptor of its own');
  }
  const paths = [
    ...(control === undefined ? [] : [{ name: 'control' as const, path: control }]),
    ...apis.map(({ path }) => ({ name: 'api' as const, path })),
  ];
  for (const { name, path } of paths) {
    const bytes = Buffer.byteLength(path);
    if (bytes > SOCKET_PATH_MAX_BYTES)
      read.fail(name, `the path has ${bytes} bytes`, `a unix socket's path, at most ${SOCKET_PATH_MAX_BYTES} bytes`);
    const other = seen.get(resolve(path));
    if (other !== undefined) {
      const what = name === 'control' || other.includes(':') ? 'the socket of a VM link' : `the path of ${other} too`;
      read.fail(name, `"${path}" is ${what}`, 'a path of its own');
    }
    seen.set(resolve(path), name);
  }
}

function checkLeases({ leases, network, gateway, hostAlias }: Config, read: ConfigReader): void {
  const macs = new Map<string, FixedLease>();
  const addresses = new Map<string, FixedLease>();
  for (const lease of leases) {
    const text = `${lease.mac}=${lease.address}`;
    if (!isHostAddress(network, lease.address))
      read.fail('lease', `"${text}" is not inside the network`, hostRange(network));
    if (lease.address.equals(gateway)) read.fail('lease', `"${text}" is the gateway's address`, 'another address');
    if (hostAlias?.equals(lease.address)) read.fail('lease', `"${text}" is the host alias`, 'another address');
    if (macs.has(lease.mac)) read.fail('lease', `${lease.mac} has two addresses`, 'each MAC address once');
    if (addresses.has(`${lease.address}`))
      read.fail('lease', `${lease.address} is given to two VMs`, 'each address once');
    macs.set(lease.mac, lease);
    addresses.set(`${lease.address}`, lease);
  }
}

function checkPublish({ publish, network, gateway, hostAlias }: Config, read: ConfigReader): void {
  const seen = new Map<string, PublishSpec>();
  for (const spec of publish) {
    const { guestAddress: guest } = spec;
    const text = formatPublishItem(spec);
    if (guest !== undefined) {
      if (!isHostAddress(network, guest))
        read.fail('publish', `"${text}" has a guest outside the network`, hostRange(network));
      if (guest.equals(gateway) || hostAlias?.equals(guest)) {
        read.fail('publish', `"${text}" has our own address as its guest`, 'the address of a VM');
      }
    }
    if (spec.hostPort === 0) continue;
    const at = `${spec.protocol} ${formatEndpoint(spec.hostAddress, spec.hostPort)}`;
    if (seen.has(at)) read.fail('publish', `${at} is published twice`, 'each host port once');
    seen.set(at, spec);
  }
}

/** `--listen-fd`: a name each, a descriptor each, and every name that `--publish` uses is there. */
function checkDescriptors({ listenFds, forwards, vm, readyFd }: Config, read: ConfigReader): void {
  const names = new Map<string, number>();
  const holders = new Map<number, string>();
  for (const { transport } of vm) if (transport.kind === 'fd') holders.set(transport.fd, 'a VM link');
  if (readyFd !== undefined) holders.set(readyFd, 'ready-fd');
  for (const { name, fd } of listenFds) {
    const text = `${name}=${fd}`;
    if (names.has(name)) read.fail('listen-fd', `the name "${name}" is given twice`, 'each name once');
    const holder = holders.get(fd);
    if (holder !== undefined)
      read.fail('listen-fd', `"${text}" is the descriptor of ${holder}`, 'a descriptor of its own');
    names.set(name, fd);
    holders.set(fd, `listen-fd ${name}`);
  }
  for (const { listen } of forwards) {
    if (listen.kind === 'fd' && !names.has(listen.name)) {
      read.fail('publish', `there is no socket "${listen.name}"`, `--listen-fd ${listen.name}=FD beside it`);
    }
  }
}

function checkIsolation({ isolate, vm }: Config, read: ConfigReader): void {
  for (const rule of isolate) {
    if (rule.kind !== 'link' || vm.some(({ url }) => url === rule.text)) continue;
    read.fail(
      'isolate',
      `"${rule.text}" is no VM link`,
      'the URL of a --vm as it is written there, a MAC address, or all',
    );
  }
}

function checkProxy({ proxy, guestApi }: Config, read: ConfigReader): void {
  if (guestApi !== undefined && proxy.listen === 80)
    read.fail('proxy-listen', '"80" is the port of --guest-api', 'another port of the gateway, like 3128');
}

function checkFiles(config: Config, read: ConfigReader): void {
  const written = new Map<string, OptionName>();
  const outputs = { control: config.control, 'pid-file': config.pidFile, pcap: config.pcap };
  for (const [name, path] of Object.entries(outputs) as [OptionName, string | undefined][]) {
    if (path === undefined) continue;
    const other = written.get(resolve(path));
    if (other !== undefined) read.fail(name, `"${path}" is the path of ${other} too`, 'a path of its own');
    written.set(resolve(path), name);
  }
  // A default that is missing on this host is normal; a file that the operator names must be there.
  const inputs = { hosts: config.hosts, 'resolv-conf': config.resolvConf, 'proxy-config': config.proxy.file };
  for (const [name, path] of Object.entries(inputs) as [OptionName, string | undefined][]) {
    const source = read.source(name);
    if (path === undefined || source.kind === 'default') continue;
    try {
      accessSync(path, constants.R_OK);
    } catch (error) {
      throw unreadable(name, source, path, error);
    }
  }
}
