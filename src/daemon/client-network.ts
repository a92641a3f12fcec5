// `isthmus vms`, `flows`, `leases`, `dns`: what the network of a running daemon holds.

import { setTimeout as sleep } from 'node:timers/promises';
import type { ControlClient } from '../control/client.ts';
import type { DnsExplanation, DnsInfo, FlowInfo, FlowPage, LeaseInfo, VmInfo } from '../control/resources.ts';
import { ExitCode } from '../host/exit-code.ts';
import { type ClientArgs, usageError } from './client-args.ts';
import { explanationText } from './client-explain.ts';
import { doEach, SomeRefused } from './client-failure.ts';
import { ageText, bytesText, type ClientOutput, type Column, table } from './client-output.ts';

const WATCH_MS = 1000;

function print<T>(
  whole: unknown,
  rows: readonly T[],
  columns: readonly Column<T>[],
  { options }: ClientArgs,
  { stdout }: ClientOutput,
): number {
  stdout.write(
    options.json === undefined ? table(rows, columns, stdout.isTTY === true) : `${JSON.stringify(whole, null, 2)}\n`,
  );
  return ExitCode.Ok;
}

const VM_COLUMNS: readonly Column<VmInfo>[] = [
  { head: 'ID', right: true, of: (vm) => String(vm.id) },
  { head: 'LINK', of: (vm) => vm.link },
  { head: 'MAC', of: (vm) => vm.macs[0] ?? '-' },
  { head: 'ADDRESS', of: (vm) => vm.addresses.join(',') || '-' },
  { head: 'HOST NAME', of: (vm) => vm.hostName ?? '-' },
  { head: 'UP', right: true, of: (vm) => ageText(vm.connectedSeconds) },
  { head: 'FROM VM', right: true, of: (vm) => bytesText(vm.counters.bytesFromGuest) },
  { head: 'TO VM', right: true, of: (vm) => bytesText(vm.counters.bytesToGuest) },
  { head: 'FLOWS', right: true, of: (vm) => String(vm.counters.tcpFlows) },
  { head: 'ISOLATED', of: (vm) => (vm.isolated ? 'yes' : 'no') },
];

export async function vms(client: ControlClient, args: ClientArgs, out: ClientOutput): Promise<number> {
  const [verb, id] = args.args;
  if (verb === undefined) {
    const answer = (await client.ask('GET', '/v1/vms')) as { vms: VmInfo[] };
    return print(answer, answer.vms, VM_COLUMNS, args, out);
  }
  if (id === undefined || !/^\d+$/.test(id)) throw usageError(`vms ${verb}: expected the number of a VM`);
  switch (verb) {
    case 'disconnect':
      await client.ask('DELETE', `/v1/vms/${id}`);
      return ExitCode.Ok;
    case 'isolate':
    case 'join': {
      const vm = (await client.ask('PATCH', `/v1/vms/${id}`, { isolated: verb === 'isolate' })) as VmInfo;
      return args.options.json === undefined ? ExitCode.Ok : print(vm, [vm], VM_COLUMNS, args, out);
    }
    default:
      throw usageError(`vms: "${verb}" is unknown; expected disconnect, isolate or join`);
  }
}

const FLOW_COLUMNS: readonly Column<FlowInfo>[] = [
  { head: 'ID', of: (f) => f.id },
  { head: 'VM', right: true, of: (f) => (f.vm === null ? '-' : String(f.vm)) },
  { head: 'GUEST', of: (f) => f.guest },
  { head: '', of: (f) => (f.direction === 'outbound' ? '->' : '<-') },
  { head: 'REMOTE', of: (f) => f.remote ?? '*' },
  { head: 'STATE', of: (f) => f.state },
  { head: 'AGE', right: true, of: (f) => ageText(f.ageSeconds) },
  { head: 'IDLE', right: true, of: (f) => ageText(f.idleSeconds) },
  { head: 'TO HOST', right: true, of: (f) => bytesText(f.bytesToHost) },
  { head: 'TO VM', right: true, of: (f) => bytesText(f.bytesToGuest) },
];

export async function flows(client: ControlClient, args: ClientArgs, out: ClientOutput): Promise<number> {
  const [verb, ...ids] = args.args;
  if (verb !== undefined) {
    if (verb !== 'kill' || ids.length === 0) throw usageError('flows: expected nothing, or kill ID...');
    const ended: string[] = [];
    const refusals = await doEach(
      ids,
      (id) => id,
      async (id) => {
        await client.ask('DELETE', `/v1/flows/${encodeURIComponent(id)}`);
        ended.push(id);
      },
    );
    if (refusals.length > 0) throw new SomeRefused(refusals, { ended }, ids);
    return ExitCode.Ok;
  }
  const query = new URLSearchParams();
  for (const name of ['vm', 'protocol', 'guest', 'remote', 'state', 'limit'])
    for (const value of args.options[name] ?? []) query.set(name, value);
  const path = `/v1/flows?${query}`;
  const watch = args.options.watch !== undefined;
  for (;;) {
    const page = (await client.ask('GET', path)) as FlowPage;
    const terminal = out.stdout.isTTY === true && args.options.json === undefined;
    // Home and clear: the table is drawn in one place.
    if (watch && terminal) out.stdout.write('\x1b[H\x1b[2J');
    if (watch && args.options.json !== undefined) out.stdout.write(`${JSON.stringify(page)}\n`);
    else print(page, page.flows, FLOW_COLUMNS, args, out);
    if (terminal && page.total > page.flows.length) out.stdout.write(`${page.flows.length} of ${page.total} flows\n`);
    if (!watch) return ExitCode.Ok;
    if (!terminal && args.options.json === undefined) out.stdout.write('\n');
    await sleep(WATCH_MS);
  }
}

const LEASE_COLUMNS: readonly Column<LeaseInfo>[] = [
  { head: 'ADDRESS', of: (l) => l.address },
  { head: 'MAC', of: (l) => l.mac },
  { head: 'HOST NAME', of: (l) => l.hostName ?? '-' },
  { head: 'STATE', of: (l) => l.state },
  { head: 'EXPIRES', right: true, of: (l) => ageText(l.expiresInSeconds) },
  { head: 'FIXED', of: (l) => (l.fixed ? 'yes' : 'no') },
  { head: 'VM', right: true, of: (l) => (l.vm === null ? '-' : String(l.vm)) },
];

export async function leases(client: ControlClient, args: ClientArgs, out: ClientOutput): Promise<number> {
  const [verb, address] = args.args;
  if (verb === undefined) {
    const answer = (await client.ask('GET', '/v1/leases')) as { leases: LeaseInfo[] };
    return print(answer, answer.leases, LEASE_COLUMNS, args, out);
  }
  if (verb !== 'remove' || address === undefined) throw usageError('leases: expected nothing, or remove ADDRESS');
  await client.ask('DELETE', `/v1/leases/${encodeURIComponent(address)}`);
  return ExitCode.Ok;
}

interface DnsRow {
  readonly kind: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly ttl: number | undefined;
}

const DNS_COLUMNS: readonly Column<DnsRow>[] = [
  { head: 'KIND', of: (r) => r.kind },
  { head: 'NAME', of: (r) => r.name },
  { head: 'ADDRESSES', of: (r) => r.addresses.join(',') },
  { head: 'TTL', right: true, of: (r) => (r.ttl === undefined ? '-' : `${r.ttl}s`) },
];

export async function dns(client: ControlClient, args: ClientArgs, out: ClientOutput): Promise<number> {
  const [verb = 'list', name, ...addresses] = args.args;
  const { options } = args;
  const zone = options.zone !== undefined;
  const at = `/v1/dns/${zone ? 'zones' : 'names'}/${encodeURIComponent(name ?? '')}`;
  switch (verb) {
    case 'list': {
      if (name !== undefined) throw usageError(`dns list: "${name}" is too much`);
      const info = (await client.ask('GET', '/v1/dns')) as DnsInfo;
      return print(info, dnsRows(info), DNS_COLUMNS, args, out);
    }
    case 'explain': {
      if (name === undefined || addresses.length > 0) throw usageError('dns explain: expected one NAME');
      const query = new URLSearchParams({ name, ...(options.type === undefined ? {} : { type: options.type[0]! }) });
      const answer = (await client.ask('GET', `/v1/dns/explain?${query}`)) as DnsExplanation;
      out.stdout.write(options.json === undefined ? explanationText(answer) : `${JSON.stringify(answer, null, 2)}\n`);
      return ExitCode.Ok;
    }
    case 'add': {
      if (name === undefined || addresses.length === 0) throw usageError('dns add: expected NAME ADDRESS...');
      const ttl = options.ttl === undefined ? {} : { ttl: ttlOf(options.ttl[0]!) };
      if (zone) {
        if (addresses.length > 1) throw usageError('dns add --zone: a zone has one address for all its names');
        const body = { defaultAddress: addresses[0] };
        if (options.replace === undefined) await client.ask('POST', '/v1/dns/zones', { name, ...body });
        else await client.ask('PUT', at, body);
        return ExitCode.Ok;
      }
      if (options.replace === undefined) await client.ask('POST', '/v1/dns/names', { name, addresses, ...ttl });
      else await client.ask('PUT', at, { addresses, ...ttl });
      return ExitCode.Ok;
    }
    case 'remove': {
      if (name === undefined || addresses.length > 1 || (zone && addresses.length > 0))
        throw usageError('dns remove: expected NAME, or NAME ADDRESS');
      const query = addresses.length === 0 ? '' : `?address=${encodeURIComponent(addresses[0]!)}`;
      await client.ask('DELETE', `${at}${query}`);
      return ExitCode.Ok;
    }
    default:
      throw usageError(`dns: "${verb}" is unknown; expected add, remove, explain or list`);
  }
}

function ttlOf(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw usageError(`--ttl: "${text}" is not a number of seconds`);
  return Number(text);
}

function dnsRows({ names, zones }: DnsInfo): DnsRow[] {
  const rows: DnsRow[] = names.map((n) => ({ kind: 'name', name: n.name, addresses: n.addresses, ttl: n.ttl }));
  for (const zone of zones) {
    for (const r of zone.records) {
      const left = r.pattern === undefined ? r.name : `/${r.pattern}/`;
      const name = left === '@' ? zone.name : `${left}.${zone.name}`;
      rows.push({ kind: 'record', name, addresses: r.addresses, ttl: r.ttl });
    }
    const rest = zone.defaultAddress === undefined ? [] : [zone.defaultAddress];
    rows.push({ kind: 'zone', name: `*.${zone.name}`, addresses: rest, ttl: undefined });
  }
  return rows;
}
