// Addresses of the host side between their two forms: sockets speak text, everybody else words. What was translated lately is kept,
// so that a datagram costs a comparison and no parsing. A cache and nothing else: one entry takes another's place, and both are right.

import { type IpAddress, parseAddress } from '../ip/address.ts';

/** A power of two. */
const SLOTS = 512;

/** Shared by all UDP sockets of one process. */
export class AddressTexts {
  readonly #byText: (IpAddress | undefined)[] = new Array<IpAddress | undefined>(SLOTS).fill(undefined);
  readonly #texts: string[] = new Array<string>(SLOTS).fill('');
  readonly #byAddress: (IpAddress | undefined)[] = new Array<IpAddress | undefined>(SLOTS).fill(undefined);
  readonly #textsOf: string[] = new Array<string>(SLOTS).fill('');

  /** @param text as a socket gives it, with or without a zone. @returns without the zone: a guest's link is not the host's. */
  addressOf(text: string): IpAddress | undefined {
    let h = text.length;
    for (let i = 0; i < text.length; i++) h = Math.imul(h, 31) + text.charCodeAt(i);
    const at = (h ^ (h >>> 9)) & (SLOTS - 1);
    if (this.#texts[at] === text) return this.#byText[at];
    const zone = text.indexOf('%');
    const address = parseAddress(zone < 0 ? text : text.slice(0, zone));
    this.#texts[at] = text;
    this.#byText[at] = address;
    return address;
  }

  textOf(address: IpAddress): string {
    const h = Math.imul(address.w3 ^ Math.imul(address.w2 ^ address.w1 ^ address.w0, 0x85ebca6b), 0x9e3779b1);
    const at = h >>> 23;
    const known = this.#byAddress[at];
    if (known !== undefined && (known === address || known.equals(address))) return this.#textsOf[at]!;
    const text = address.toString();
    this.#byAddress[at] = address;
    this.#textsOf[at] = text;
    return text;
  }
}
