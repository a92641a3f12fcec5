// Resolves a name as a guest's own question would be: built-in names, zones, hosts file and the host's servers, by the gateway's DNS. For
// the explicit proxy, where the guest hands over a name and isthmus dials.

import { setU16 } from '../base/bytes.ts';
import type { Clock, Millis } from '../base/clock.ts';
import {
  CLASS_IN,
  FLAG_RD,
  HEADER_BYTES,
  MESSAGE_MAX_BYTES,
  RCODE_NOERROR,
  RCODE_NXDOMAIN,
  TYPE_A,
  TYPE_AAAA,
} from '../dns/message.ts';
import { nameFromText } from '../dns/name.ts';
import type { Asker } from '../dns/responder.ts';
import { ResponseView } from '../dns/response.ts';
import type { IpAddress } from '../ip/address.ts';
import { addressesOf } from './name-memory.ts';

/** The gateway's DNS; forwarder/dns-service fits. */
export interface NameServer {
  ask(query: Uint8Array, asker: Asker, now: Millis): void;
}

/** The resolver answers, if with SERVFAIL, well before this. */
const LOOKUP_MS = 15_000;

export interface NameAnswer {
  readonly addresses: readonly IpAddress[];
  /** Nobody could say: not the same as a name that does not exist. */
  readonly failed: boolean;
}

/** Addresses of a name, IPv4 first. @param vmId whose share of the open questions it counts against. */
export async function lookUp(server: NameServer, clock: Clock, name: string, vmId: number): Promise<NameAnswer> {
  const wire = nameFromText(name);
  if (wire === undefined) return { addresses: [], failed: false };
  const answers = await Promise.all(
    [TYPE_A, TYPE_AAAA].map((type) => question(server, clock, queryOf(wire, type), vmId)),
  );
  const addresses = answers.flatMap((answer) => answer.addresses);
  return { addresses, failed: addresses.length === 0 && answers.some((answer) => answer.failed) };
}

function queryOf(name: Uint8Array, type: number): Uint8Array {
  const query = new Uint8Array(HEADER_BYTES + name.length + 4);
  setU16(query, 2, FLAG_RD);
  setU16(query, 4, 1);
  query.set(name, HEADER_BYTES);
  setU16(query, HEADER_BYTES + name.length, type);
  setU16(query, HEADER_BYTES + name.length + 2, CLASS_IN);
  return query;
}

function question(server: NameServer, clock: Clock, query: Uint8Array, client: number): Promise<NameAnswer> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ addresses: [], failed: true }), LOOKUP_MS);
    const asker: Asker = {
      client,
      // No packet carries it: whole answers, whatever their size.
      tcp: true,
      linkLimitBytes: MESSAGE_MAX_BYTES,
      hold: () => asker,
      deliver: (buf, off, len) => {
        clearTimeout(timer);
        const view = new ResponseView();
        const whole = view.wrap(buf, off, len);
        const known = whole && (view.rcode === RCODE_NOERROR || view.rcode === RCODE_NXDOMAIN);
        resolve({ addresses: whole ? addressesOf(view) : [], failed: !known });
      },
    };
    server.ask(query, asker, clock.now());
  });
}
