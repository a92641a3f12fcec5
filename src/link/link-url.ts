// What a link is told of where its VMs come from. The text of `--vm` is parsed by the daemon. Types only.

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
