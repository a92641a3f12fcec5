// The text form of where VMs connect: `qemu:` or `vpnkit:`, then a socket path, `fd:N` or `stdio`.

import type { FrameFormat } from './framing.ts';

/** Where a link's sockets come from. */
export type LinkPlace =
  | { readonly kind: 'path'; readonly path: string }
  /** An inherited descriptor, connected or listening. */
  | { readonly kind: 'fd'; readonly fd: number }
  /** Frames are read from descriptor 0 and written to descriptor 1. */
  | { readonly kind: 'stdio' };

/** One `--vm` value. */
export interface LinkUrl {
  /** As it was given, for logs and status. */
  readonly text: string;
  readonly format: FrameFormat;
  readonly place: LinkPlace;
}

/** MTU of a link for which none is configured: QEMU's carries anything, VPNKit's clients have buffers of 2,048 bytes. */
export const DEFAULT_MTU: Readonly<Record<FrameFormat, number>> = { qemu: 65_520, vpnkit: 1500 };

const WANTED = 'want qemu: or vpnkit:, then a socket path, fd:N or stdio, e.g. qemu:/run/vm.sock';

/** @returns what the text says, or a sentence that says what is wrong with it and what would be right. */
export function parseLinkUrl(text: string): LinkUrl | string {
  const m = /^(qemu|vpnkit):(.*)$/s.exec(text);
  const scheme = m?.[1];
  const rest = m?.[2];
  if ((scheme !== 'qemu' && scheme !== 'vpnkit') || rest === undefined)
    return `"${text}" names no kind of link; ${WANTED}`;
  const url = (place: LinkPlace): LinkUrl => ({ text, format: scheme, place });
  if (rest === 'stdio') return url({ kind: 'stdio' });
  if (rest.startsWith('fd:')) {
    const number = rest.slice(3);
    const fd = Number(number);
    if (/^\d{1,7}$/.test(number) && fd > 2) return url({ kind: 'fd', fd });
    return `"${text}" names no inherited descriptor; want fd:N with N from 3 up (stdio for 0 and 1)`;
  }
  if (rest === '') return `"${text}" has no socket path; ${WANTED}`;
  if (rest.startsWith('//')) {
    return `"${text}": a path has no authority in front; write ${scheme}:${rest.replace(/^\/+/, '/')}`;
  }
  if (rest.includes('\0')) return 'a socket path holds no NUL';
  return url({ kind: 'path', path: rest });
}
