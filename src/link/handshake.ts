// The VPNKit handshake, version 22, server side: Init (49 bytes) both ways, Command (41) in, Response (258) out, little endian.
// Bytes only: it reads whole messages where they lie, hands out what to send and says how it ended; the socket and the time
// limit belong to vm-link, who gets which address to `Identities`.

/** Bytes of each message. */
export const INIT_BYTES = 49;
export const COMMAND_BYTES = 41;
export const RESPONSE_BYTES = 258;

const VERSION = 22;
const MAGIC = 'VMN3T';
/** First word of peers before versions were told: nothing follows it. */
const OLD_MAGIC = 'VMNET';
/** Stands where VPNKit's Init has digits for its git commit. */
const COMMIT = '0123456789'.repeat(4);

const COMMAND_ETHERNET = 1;
const COMMAND_PREFERRED_IPV4 = 8;
const RESPONSE_VIF = 1;
const RESPONSE_DISCONNECT = 2;

const UUID_BYTES = 36;
/** VPNKit's own margin between MTU and largest packet; clients size their buffers by it. */
const PACKET_MARGIN_BYTES = 50;

/** The answer to who a client is. `uuid` is the identity as it is known from now on; `mac` has 6 bytes. */
export type Identity =
  | { readonly ok: true; readonly uuid: string; readonly mac: Uint8Array }
  /** `invalid`: not an identity at all, closed without an answer. Otherwise refused, and the reason is sent to the client. */
  | { readonly ok: false; readonly invalid?: boolean; readonly reason?: string };

/** Who knows the VMs by UUID: the same UUID gets the same MAC and address, also while it is connected. */
export interface Identities {
  /**
   * @param uuidText the 36 characters that the client sent; all NUL for a client that has no identity of its own.
   * @param preferred the IPv4 address asked for, int32 in network order.
   */
  identify(uuidText: string, preferred?: number): Identity;
  /** A connection has ended that `identify` said yes to. */
  disconnected(uuid: string): void;
}

export type HandshakeState = 'init' | 'command' | 'done' | 'failed';

/** One handshake. Feed it with `input` until `state` is `done` or `failed`. */
export class VpnkitHandshake {
  readonly #identities: Identities;
  readonly #mtu: number;
  readonly #send: (bytes: Uint8Array) => void;

  state: HandshakeState = 'init';
  /** Why it failed, for the log. */
  failure = '';
  /** As `identify` gave it; empty before that, or if it refused. */
  uuid = '';
  /** Given to the client. */
  mac: Uint8Array | undefined = undefined;

  /**
   * @param mtu told to the client.
   * @param send sends bytes of ours, in order.
   */
  constructor(identities: Identities, mtu: number, send: (bytes: Uint8Array) => void) {
    this.#identities = identities;
    this.#mtu = mtu;
    this.#send = send;
  }

  /** Takes whole messages from [off, off + len). @returns bytes used; the rest must be offered again, with more behind it. */
  input(buf: Uint8Array, off: number, len: number): number {
    let used = 0;
    if (this.state === 'init') {
      if (len >= MAGIC.length && latin1(buf, off, MAGIC.length) === OLD_MAGIC) {
        this.#send(initMessage());
        this.#fail('the client speaks a version from before version numbers, 22 is wanted');
        return len;
      }
      if (len < INIT_BYTES) return 0;
      // Like VPNKit: neither magic nor commit is looked at, the version decides; ours is sent in either case.
      this.#send(initMessage());
      const version = u32(buf, off + MAGIC.length);
      used = INIT_BYTES;
      if (version !== VERSION) {
        this.#fail(`the client speaks version ${version}, ${VERSION} is wanted`);
        return used;
      }
      this.state = 'command';
    }
    if (this.state === 'command' && len - used >= COMMAND_BYTES) {
      this.#command(buf, off + used);
      used += COMMAND_BYTES;
    }
    return used;
  }

  #command(buf: Uint8Array, off: number): void {
    const code = buf[off];
    if (code !== COMMAND_ETHERNET && code !== COMMAND_PREFERRED_IPV4) {
      this.#fail(`unknown command ${code}`);
      return;
    }
    const text = latin1(buf, off + 1, UUID_BYTES);
    const identity =
      code === COMMAND_PREFERRED_IPV4
        ? this.#identities.identify(text, u32(buf, off + 1 + UUID_BYTES) | 0)
        : this.#identities.identify(text);
    if (identity.ok) {
      this.uuid = identity.uuid;
      this.mac = identity.mac;
      this.#send(vifResponse(this.#mtu, identity.mac));
      this.state = 'done';
      return;
    }
    const reason = identity.reason ?? 'the identity is not a UUID';
    if (identity.invalid !== true) this.#send(disconnectResponse(reason));
    this.#fail(reason);
  }

  #fail(why: string): void {
    this.state = 'failed';
    this.failure = why;
  }
}

function initMessage(): Uint8Array {
  const out = new Uint8Array(INIT_BYTES);
  putLatin1(out, 0, MAGIC, MAGIC.length);
  out[MAGIC.length] = VERSION;
  putLatin1(out, 9, COMMIT, COMMIT.length);
  return out;
}

function vifResponse(mtu: number, mac: Uint8Array): Uint8Array {
  const out = new Uint8Array(RESPONSE_BYTES);
  const largest = Math.min(mtu + PACKET_MARGIN_BYTES, 0xffff);
  out[0] = RESPONSE_VIF;
  out[1] = mtu;
  out[2] = mtu >>> 8;
  out[3] = largest;
  out[4] = largest >>> 8;
  out.set(mac.subarray(0, 6), 5);
  return out;
}

function disconnectResponse(reason: string): Uint8Array {
  const out = new Uint8Array(RESPONSE_BYTES);
  out[0] = RESPONSE_DISCONNECT;
  out[1] = Math.min(reason.length, 255);
  putLatin1(out, 2, reason, 255);
  return out;
}

function u32(buf: Uint8Array, off: number): number {
  return (
    ((buf[off] ?? 0) | ((buf[off + 1] ?? 0) << 8) | ((buf[off + 2] ?? 0) << 16) | ((buf[off + 3] ?? 0) << 24)) >>> 0
  );
}

function latin1(buf: Uint8Array, off: number, len: number): string {
  return String.fromCharCode(...buf.subarray(off, off + len));
}

function putLatin1(out: Uint8Array, off: number, text: string, max: number): void {
  for (let i = 0; i < Math.min(text.length, max); i++) out[off + i] = text.charCodeAt(i);
}
