// Which name a guest's address came from: read from the DNS answers that it was given, for flows that do not say themselves where they want
// to go. Bounded; the answers of one VM say nothing about another's.

import { getU16 } from '../base/bytes.ts';
import { HEADER_BYTES, TYPE_A, TYPE_AAAA } from '../dns/message.ts';
import { nameToText, skipName } from '../dns/name.ts';
import { ResponseView } from '../dns/response.ts';
import { IpAddress } from '../ip/address.ts';

const NAMES_MAX = 8192;

export class NameMemory {
  readonly #names = new Map<string, string>();
  readonly #view = new ResponseView();

  get size(): number {
    return this.#names.size;
  }

  /** Takes in an answer that a guest was given. @param vmId the VM that asked. */
  learn(vmId: number, buf: Uint8Array, off: number, len: number): void {
    const view = this.#view;
    if (!view.wrap(buf, off, len) || view.answers === 0 || (view.type !== TYPE_A && view.type !== TYPE_AAAA)) return;
    const name = nameToText(buf, off + HEADER_BYTES, view.nameLen).toLowerCase();
    for (const address of addressesOf(view)) {
      const key = `${vmId} ${address}`;
      // What was learnt last is at the end, and goes last.
      this.#names.delete(key);
      this.#names.set(key, name);
    }
    for (const key of this.#names.keys()) {
      if (this.#names.size <= NAMES_MAX) break;
      this.#names.delete(key);
    }
  }

  /** The name that this VM asked for when it was told this address, in lower case. */
  nameOf(vmId: number, address: IpAddress): string | undefined {
    return this.#names.get(`${vmId} ${address}`);
  }

  clear(): void {
    this.#names.clear();
  }
}

/** The addresses in the answer section of a response that was wrapped, whoever they belong to: CNAMEs lead there. */
export function addressesOf(view: ResponseView): IpAddress[] {
  const { buf, off } = view;
  const end = off + view.answerEnd;
  const found: IpAddress[] = [];
  let at = off + view.questionEnd;
  for (let left = view.answers; left > 0; left--) {
    const fixed = skipName(buf, off, at, end);
    if (fixed < 0) break;
    const type = getU16(buf, fixed);
    const data = fixed + 10;
    const word = (i: number): number => (getU16(buf, data + 4 * i) << 16) | getU16(buf, data + 4 * i + 2);
    const length = getU16(buf, fixed + 8);
    if (type === TYPE_A && length === 4) found.push(IpAddress.v4(word(0)));
    if (type === TYPE_AAAA && length === 16) found.push(new IpAddress(word(0), word(1), word(2), word(3)));
    at = data + length;
  }
  return found;
}
