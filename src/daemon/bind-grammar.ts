// The grammars of `--allow-bind`, `--listen-fd` and `--isolate`. Text only.

import type { BindRule } from '../forwarder/forward-check.ts';
import { GrammarError, parseDescriptor, parseIp } from './value-grammar.ts';
import { parseVmUrl } from './vm-url.ts';

/** An inherited descriptor with the name that forwards call it by. */
export interface NamedDescriptor {
  readonly name: string;
  readonly fd: number;
}

/** Which VMs reach no other VM. */
export type IsolateRule = { readonly kind: 'all' } | { readonly kind: 'mac' | 'link'; readonly text: string };

/** `ADDRESS` or `ADDRESS/PREFIX`, IPv6 with or without brackets. */
export function parseBindRule(text: string): BindRule {
  const m = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text);
  if (m === null) throw new GrammarError('is not ADDRESS or ADDRESS/PREFIX', 'like 127.0.0.1 or 10.0.0.0/8');
  const address = parseIp(m[1]!);
  const most = address.isV4 ? 32 : 128;
  const prefix = Number(m[2] ?? most);
  if (prefix > most) throw new GrammarError(`has the prefix length ${prefix}`, `one from 0 to ${most}`);
  return { address, prefix };
}

export function formatBindRule({ address, prefix }: BindRule): string {
  return prefix === (address.isV4 ? 32 : 128) ? `${address}` : `${address}/${prefix}`;
}

/** `NAME=FD`. */
export function parseNamedDescriptor(text: string): NamedDescriptor {
  const m = /^([^=]*)=(.*)$/s.exec(text);
  if (m === null) throw new GrammarError('is not NAME=FD', 'like web=3');
  const name = m[1]!;
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(name))
    throw new GrammarError(`has "${name}" as its name`, '1 to 64 letters, digits, ".", "_" and "-"');
  return { name, fd: parseDescriptor(m[2]!) };
}

/** `MAC`, a `--vm` URL, or `all`. */
export function parseIsolateRule(text: string): IsolateRule {
  if (text === 'all') return { kind: 'all' };
  const mac = text.toLowerCase().replaceAll('-', ':');
  if (/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac)) return { kind: 'mac', text: mac };
  try {
    return { kind: 'link', text: parseVmUrl(text).url };
  } catch (error) {
    if (!(error instanceof GrammarError)) throw error;
    throw new GrammarError('is no VM', 'a MAC address like 52:54:00:12:34:56, the URL of a --vm, or all');
  }
}

export function formatIsolateRule(rule: IsolateRule): string {
  return rule.kind === 'all' ? 'all' : rule.text;
}
