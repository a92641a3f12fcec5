// What all UDP sockets of a daemon share: the way to the system's, the memory that they read to and send from, texts of addresses.

import { AddressTexts } from '../forwarder/address-texts.ts';
import { SendArena } from '../forwarder/send-arena.ts';
import type { UdpSocketContext } from '../forwarder/udp-socket.ts';
import type { PacketMemory } from '../host/packet-memory.ts';
import { udpHandles } from '../host/udp-handles.ts';
import { READ_BYTES } from '../host/udp-native.ts';

export function makeUdpSockets({ mem, slab }: PacketMemory): UdpSocketContext {
  const off = slab.alloc(READ_BYTES);
  const handles = udpHandles(off < 0 ? undefined : { buf: mem, off });
  return { handles, arena: new SendArena({ slab }), texts: new AddressTexts() };
}
