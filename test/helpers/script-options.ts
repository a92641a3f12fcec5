// What a packet script may choose, and the addresses and sequence numbers that all of them use.

import { parseV4 } from '../../src/ip/address.ts';
import type { RefuseReason } from '../../src/tcp/flow.ts';
import type { TcpLimits } from '../../src/tcp/limits.ts';

export const GUEST_IP: number = parseV4('192.168.65.3')! >>> 0;
export const GATEWAY_IP: number = parseV4('192.168.65.1')! >>> 0;
export const REMOTE_IP: number = parseV4('198.51.100.7')! >>> 0;

/** Initial sequence numbers [guest's, ours]: plain, both just below 2^31, both just below 2^32. */
export const ISN_PAIRS: readonly (readonly [number, number])[] = [
  [1, 1],
  [0x7fff_ffce, 0x7fff_ffe0],
  [0xffff_ff9c, 0xffff_ff9c],
];

export interface ScriptOptions {
  /** Default 1500. */
  mtu?: number;
  limits?: Partial<TcpLimits>;
  /** What the host does with a SYN: `hold` (default) waits for `host.accept` or `host.refuse`. */
  dial?: 'hold' | 'accept' | RefuseReason;
  /** True: our ISNs come from the stack's own generator. */
  realIsn?: boolean;
  /** Packet memory, bytes, a power of two. Default 16 MiB. */
  memory?: number;
  /** False where the host writes bytes of its own choosing. */
  verifyPayload?: boolean;
  /** One ISN pair is enough (long or bulky scripts). */
  once?: boolean;
  seed?: number;
}
