// The bearer token of the control API's TCP port: RFC 6750, compared in constant time.

import { createHash, timingSafeEqual } from 'node:crypto';

/** A secret that requests are held against. */
export class Token {
  readonly #digest: Buffer;

  constructor(secret: string) {
    this.#digest = digest(secret);
  }

  /** @param header the value of `Authorization`. */
  matches(header: string | undefined): boolean {
    const given = /^Bearer +(\S+) *$/i.exec(header ?? '')?.[1] ?? '';
    // Digests have one length, whatever the token's.
    return timingSafeEqual(digest(given), this.#digest) && given !== '';
  }
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
