// QEMU's grammar of `hostfwd=` and `guestfwd=`, as `--publish` takes it, with the kinds of forwards that QEMU does not have written in the same way.
// Text only.
//
//   hostfwd=[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUEST]:GUESTPORT      hostfwd=unix:PATH-[GUEST]:GUESTPORT
//   hostfwd=fd:NAME-[GUEST]:GUESTPORT                            a socket of --listen-fd
//   hostfwd=...-vsock:PATH:PORT                                  any of these to a vsock port of the guest
//   guestfwd=[tcp]:ADDRESS:PORT-TARGET                           TARGET: unix:PATH or tcp:ADDRESS:PORT
//   guestfwd=vsock:PATH:PORT-TARGET
//
// vsock is Firecracker's and cloud-hypervisor's way; vsock-hyperkit:DIRECTORY:PORT is HyperKit's.

import type { ForwardListen, ForwardSpec, ForwardTarget } from '../forwarder/forward-spec.ts';
import { GrammarError, parseIp } from './value-grammar.ts';

const HOSTFWD = 'hostfwd=[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT, like hostfwd=tcp::2222-:22';
const GUESTFWD =
  'guestfwd=tcp:ADDRESS:PORT-unix:PATH or -tcp:ADDRESS:PORT, like guestfwd=tcp:192.168.65.1:2375-unix:/run/docker.sock';
const ADDRESS = String.raw`\[[^\]]*\]|[^:\[\]]*`;
const NUMBER = '[0-9a-fA-FxX]+';

/** @param text what follows `hostfwd=` or `guestfwd=`. @throws GrammarError that says which part is wrong. */
export function parseQemu(kind: 'hostfwd' | 'guestfwd', text: string): ForwardSpec {
  return kind === 'hostfwd' ? parseHostfwd(text) : parseGuestfwd(text);
}

/** The text of such a forward, which `parseQemu` reads back. */
export function formatQemu({ listen, target }: ForwardSpec): string {
  return `${listen.kind === 'guest' || listen.kind === 'vsock' ? 'guestfwd' : 'hostfwd'}=${formatListen(listen)}-${formatTarget(target)}`;
}

function parseHostfwd(text: string): ForwardSpec {
  const { left, target } = cutVsock(text) ?? cutGuest(text);
  return { listen: parseHostListen(left), target };
}

function cutVsock(text: string): { left: string; target: ForwardTarget } | undefined {
  const m = /^(.+?)-(vsock(?:-hyperkit)?):(\/.*):([^:]*)$/s.exec(text);
  if (m === null) return undefined;
  return { left: m[1]!, target: { kind: 'vsock', ...vsock(m[2]!, m[3]!, m[4]!, HOSTFWD) } };
}

function cutGuest(text: string): { left: string; target: ForwardTarget } {
  // A path may have "-" and ":" in it; what follows its last "-" is the guest's side.
  const m = new RegExp(`^(.+)-(${ADDRESS}):([^:]*)$`, 's').exec(text);
  if (m === null) throw new GrammarError(`has no "-GUESTADDR:GUESTPORT"`, HOSTFWD);
  const guest = m[2]!.replace(/^\[(.*)\]$/s, '$1');
  const port = parseNumber(m[3]!, 'guest port', 1);
  return { left: m[1]!, target: { kind: 'guest', ...(guest === '' ? {} : { guest }), port } };
}

function parseHostListen(text: string): ForwardListen {
  if (text.startsWith('unix:')) return { kind: 'unix', path: parsePath(text.slice(5)) };
  const fd = /^fd:([^:/]+)(\/udp|\/tcp)?$/.exec(text);
  if (fd !== null) return { kind: 'fd', name: fd[1]!, protocol: fd[2] === '/udp' ? 'udp' : 'tcp' };
  const m = new RegExp(`^(tcp|udp|):(${ADDRESS}):(.*)$`, 's').exec(text);
  if (m === null) throw new GrammarError(`has "${text}" as its host side`, HOSTFWD);
  const address = m[2] === '' ? '0.0.0.0' : parseIp(m[2]!).toString();
  return { kind: m[1] === 'udp' ? 'udp' : 'tcp', address, port: parseNumber(m[3]!, 'host port', 0) };
}

function parseGuestfwd(text: string): ForwardSpec {
  const v = /^(vsock(?:-hyperkit)?):(\/.*?):(\d+)-(.*)$/s.exec(text);
  if (v !== null) {
    return { listen: { kind: 'vsock', ...vsock(v[1]!, v[2]!, v[3]!, GUESTFWD) }, target: parseHostTarget(v[4]!) };
  }
  const m = new RegExp(`^(?:tcp|):(${ADDRESS}):(${NUMBER})-(.*)$`, 's').exec(text);
  if (m === null) throw new GrammarError(`has "${text}" as its guest-facing side`, GUESTFWD);
  const listen = { kind: 'guest', address: parseIp(m[1]!).toString(), port: parseNumber(m[2]!, 'port', 1) } as const;
  return { listen, target: parseHostTarget(m[3]!) };
}

function parseHostTarget(text: string): ForwardTarget {
  if (text.startsWith('unix:')) return { kind: 'unix', path: parsePath(text.slice(5)) };
  const m = new RegExp(`^tcp:(${ADDRESS}):(.*)$`, 's').exec(text);
  if (m !== null)
    return { kind: 'tcp', address: parseIp(m[1]!).toString(), port: parseNumber(m[2]!, 'target port', 1) };
  const runs = text.startsWith('cmd:');
  throw new GrammarError(
    runs ? 'runs a command for each connection' : `has "${text}" as its target`,
    `${runs ? 'a socket that the command listens on: ' : ''}unix:PATH or tcp:ADDRESS:PORT`,
  );
}

function vsock(
  kind: string,
  path: string,
  port: string,
  right: string,
): { path: string; port: number; style?: 'hyperkit' } {
  if (!/^\d+$/.test(port)) throw new GrammarError(`has "${port}" as its vsock port`, right);
  return { path: parsePath(path), port: Number(port), ...(kind === 'vsock' ? {} : { style: 'hyperkit' }) };
}

function parsePath(text: string): string {
  if (!text.startsWith('/')) throw new GrammarError(`has "${text}" as its path`, 'an absolute path');
  if (text.includes(','))
    throw new GrammarError(`has "${text}" as its path`, 'a path without further options behind it');
  return text;
}

/** As C reads numbers, which QEMU does: 22, 0x16, 026. */
function parseNumber(text: string, what: string, least: 0 | 1): number {
  const n = /^0[0-7]+$/.test(text) ? Number.parseInt(text, 8) : /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : -1;
  if (n < least || n > 65535) throw new GrammarError(`has "${text}" as its ${what}`, `a port from ${least} to 65535`);
  return n;
}

function formatListen(listen: ForwardListen): string {
  switch (listen.kind) {
    case 'tcp':
    case 'udp':
      return `${listen.kind}:${bracketed(listen.address)}:${listen.port}`;
    case 'unix':
      return `unix:${listen.path}`;
    case 'fd':
      return `fd:${listen.name}${listen.protocol === 'udp' ? '/udp' : ''}`;
    case 'guest':
      return `tcp:${listen.address}:${listen.port}`;
    case 'vsock':
      return `vsock${listen.style === 'hyperkit' ? '-hyperkit' : ''}:${listen.path}:${listen.port}`;
  }
}

function formatTarget(target: ForwardTarget): string {
  switch (target.kind) {
    case 'guest':
      return `${bracketed(target.guest ?? '')}:${target.port}`;
    case 'vsock':
      return `vsock${target.style === 'hyperkit' ? '-hyperkit' : ''}:${target.path}:${target.port}`;
    case 'tcp':
      return `tcp:${bracketed(target.address)}:${target.port}`;
    case 'unix':
      return `unix:${target.path}`;
  }
}

function bracketed(text: string): string {
  return text.includes(':') ? `[${text}]` : text;
}
