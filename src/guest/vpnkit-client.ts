// The VPNKit handshake, version 22, from the client's side: Init (49 bytes) and Command (41) out, Init and Response (258) in.
// Bytes only; the server's side is link/handshake.

import { COMMAND_BYTES, INIT_BYTES, RESPONSE_BYTES } from '../link/handshake.ts';

const VERSION = 22;
const COMMAND_ETHERNET = 1;
const COMMAND_PREFERRED_IPV4 = 8;
const RESPONSE_VIF = 1;
const COMMIT = '0'.repeat(40);

/** What the server gave. */
export interface VpnkitVif {
  readonly mtu: number;
  /** Largest packet that the server may send. */
  readonly maxPacketBytes: number;
  readonly mac: Uint8Array;
}

/** One handshake: send `hello()` at once, feed `input` until it has an answer. */
export class VpnkitClient {
  readonly #uuid: string;
  readonly #preferred: number;
  #initSeen = false;

  /** @param uuid 36 characters, or '' for one that the server invents. @param preferred address to ask for, int32; 0 for none. */
  constructor(uuid: string, preferred: number) {
    this.#uuid = uuid;
    this.#preferred = preferred;
  }

  /** Init and Command: nothing in the Command depends on the server's Init. */
  hello(): Uint8Array {
    const out = new Uint8Array(INIT_BYTES + COMMAND_BYTES);
    const text = (at: number, s: string): void => {
      for (let i = 0; i < s.length; i++) out[at + i] = s.charCodeAt(i);
    };
    text(0, 'VMN3T');
    out[5] = VERSION;
    text(9, COMMIT);
    out[INIT_BYTES] = this.#preferred === 0 ? COMMAND_ETHERNET : COMMAND_PREFERRED_IPV4;
    text(INIT_BYTES + 1, this.#uuid);
    // Little endian, unlike every other address on this link.
    for (let i = 0; i < 4; i++) out[INIT_BYTES + 37 + i] = this.#preferred >>> (8 * i);
    return out;
  }

  /**
   * Takes whole messages from [off, off + len).
   * @returns bytes used, and the outcome once there is one: the interface, or the server's reason for refusing.
   */
  input(buf: Uint8Array, off: number, len: number): { used: number; vif?: VpnkitVif; refused?: string } {
    let used = 0;
    if (!this.#initSeen) {
      if (len < INIT_BYTES) return { used };
      const version = u16(buf, off + 5);
      used = INIT_BYTES;
      this.#initSeen = true;
      if (version !== VERSION) return { used, refused: `the server speaks version ${version}, ${VERSION} is wanted` };
    }
    if (len - used < RESPONSE_BYTES) return { used };
    const at = off + used;
    used += RESPONSE_BYTES;
    if (buf[at] === RESPONSE_VIF) {
      const mac = Uint8Array.from(buf.subarray(at + 5, at + 11));
      return { used, vif: { mtu: u16(buf, at + 1), maxPacketBytes: u16(buf, at + 3), mac } };
    }
    const end = at + 2 + (buf[at + 1] ?? 0);
    return { used, refused: String.fromCharCode(...buf.subarray(at + 2, end)) };
  }
}

function u16(buf: Uint8Array, off: number): number {
  return (buf[off] ?? 0) | ((buf[off + 1] ?? 0) << 8);
}
