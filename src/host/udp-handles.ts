// Which of the two ways to UDP sockets this process takes.

import { dgramUdp } from './udp-dgram.ts';
import type { UdpHandles } from './udp-handle.ts';
import { nativeUdp, type ReadMemory } from './udp-native.ts';

/** The best way that this Node offers. @param memory where connected sockets may read to; the factory's alone. */
export function udpHandles(memory?: ReadMemory): UdpHandles {
  return nativeUdp(memory) ?? dgramUdp();
}
