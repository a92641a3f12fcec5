// The grammar of `--vm URL`: which framing, over which transport. Text only; nothing is opened here.

import { SOCKET_PATH_MAX_BYTES } from '../host/socket-file.ts';
import { nearest } from './nearest.ts';
import { GrammarError } from './value-grammar.ts';

/** `qemu`: 4-byte big-endian lengths. `vpnkit`: handshake, then 2-byte little-endian lengths. */
export type VmFraming = 'qemu' | 'vpnkit';

/** Where the bytes come from. A descriptor may be connected or listening: that is found out when it is opened. */
export type VmTransport =
  | { readonly kind: 'listen'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }
  | { readonly kind: 'stdio' };

/** One parsed `--vm` value. */
export interface VmUrl {
  /** As the operator wrote it. */
  readonly url: string;
  readonly framing: VmFraming;
  readonly transport: VmTransport;
}

const FRAMINGS: readonly VmFraming[] = ['qemu', 'vpnkit'];
const RIGHT = 'qemu:PATH or vpnkit:PATH (or :fd:N, or :stdio), like qemu:/run/vm.sock';

/** @throws GrammarError */
export function parseVmUrl(text: string): VmUrl {
  const colon = text.indexOf(':');
  const scheme = colon < 0 ? '' : text.slice(0, colon);
  if (colon < 0 || scheme.includes('/')) throw new GrammarError('does not name a framing', RIGHT);
  const framing = FRAMINGS.find((name) => name === scheme);
  if (framing === undefined) {
    const near = nearest(scheme, FRAMINGS);
    const hint = near === undefined ? '' : ` (did you mean ${near}?)`;
    throw new GrammarError(`has the unknown framing "${scheme}"${hint}`, RIGHT);
  }
  return { url: text, framing, transport: parseTransport(framing, text.slice(colon + 1)) };
}

function parseTransport(framing: VmFraming, rest: string): VmTransport {
  if (rest === '') throw new GrammarError('has no path', RIGHT);
  if (rest === 'stdio' || rest === 'stdio:') return { kind: 'stdio' };
  if (rest.startsWith('stdio:')) throw new GrammarError(`has "${rest.slice(6)}" after stdio:`, `${framing}:stdio`);
  if (rest === 'fd' || rest.startsWith('fd:')) return { kind: 'fd', fd: parseFd(framing, rest.slice(3)) };
  if (rest.includes('\0')) throw new GrammarError('has a zero byte in its path', RIGHT);
  if (rest.startsWith('//') && !rest.startsWith('///')) {
    throw new GrammarError('has "//" before its path, which would name a host', `${framing}:${rest.slice(1)}`);
  }
  const path = rest.startsWith('///') ? rest.slice(2) : rest;
  if (path.endsWith('/')) throw new GrammarError('names a directory', RIGHT);
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_MAX_BYTES) {
    throw new GrammarError(
      `has a path of ${bytes} bytes`,
      `a unix socket's path, at most ${SOCKET_PATH_MAX_BYTES} bytes`,
    );
  }
  return { kind: 'listen', path };
}

function parseFd(framing: VmFraming, text: string): number {
  const right = `${framing}:fd:N with N of 3 or more, like ${framing}:fd:3`;
  if (!/^\d{1,7}$/.test(text)) throw new GrammarError('does not name a descriptor by its number', right);
  const fd = Number(text);
  if (fd < 3)
    throw new GrammarError(`names descriptor ${fd}, one of the three standard ones`, `${right}; or ${framing}:stdio`);
  return fd;
}
