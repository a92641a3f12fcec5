// What the host's `ping` prints, as what became of one echo request: text to value, a line at a time. It knows the words of iputils,
// busybox, GNU inetutils and the BSDs (macOS), in the C locale and with numeric addresses; a line that it does not know says nothing.

import { IpAddress, parseV4 } from '../ip/address.ts';
import { UNREACHABLE } from './errno.ts';

/** What became of an echo request. */
export type PingAnswer =
  /** `ttl` as it arrived at the host. */
  | { readonly kind: 'reply'; readonly from: IpAddress; readonly ttl: number }
  /** ICMP time exceeded: code 0 on the way, 1 in reassembly. */
  | { readonly kind: 'exceeded'; readonly from: IpAddress; readonly code: number }
  /** ICMP destination unreachable. `from` undefined: the host itself says so. `mtu` 0: nobody said. */
  | {
      readonly kind: 'unreachable';
      readonly from: IpAddress | undefined;
      readonly code: number;
      readonly mtu: number;
    }
  /** The program may not send echo requests. */
  | { readonly kind: 'unusable'; readonly why: string };

const REPLY = /^\d+ bytes from ([\d.]+)(?: \([^)]*\))?: (?:icmp_)?seq=\d+ (?:.*\b)?ttl=(\d+)/;
/** `From A icmp_seq=1 TEXT` (iputils; older ones have a colon), `92 bytes from A: TEXT` (BSD, inetutils). */
const FROM = /^(?:From|\d+ bytes from) ([\d.]+)(?: \([^)]*\))?:? (?:icmp_seq=\d+ )?(.*)$/;

/** Words of an ICMP error from the network, and the code of "destination unreachable" that they stand for. */
const UNREACHABLE_WORDS: readonly (readonly [RegExp, number])[] = [
  [/^destination net unreachable for type of service/i, 11],
  [/^destination host unreachable for type of service/i, 12],
  [/^destination net unreachable/i, 0],
  [/^destination host unreachable/i, 1],
  [/^destination protocol unreachable/i, 2],
  [/^destination port unreachable/i, 3],
  [/^frag(?:mentation)? needed and df set/i, 4],
  [/^source route failed/i, 5],
  [/^destination net unknown/i, 6],
  [/^destination host unknown/i, 7],
  [/^source host isolated/i, 8],
  [/^destination net prohibited/i, 9],
  [/^destination host prohibited/i, 10],
  [/^(?:packet filtered|communication prohibited by filter)/i, 13],
  [/^(?:precedence violation|host precedence violation)/i, 14],
  [/^precedence cutoff/i, 15],
];

/** Words of the host's own kernel, as errno.ts answers the same errors of sockets. */
const LOCAL_WORDS: readonly (readonly [RegExp, number])[] = [
  [/network is (?:unreachable|down)|cannot assign requested address|can't assign requested address/i, 0],
  [/no route to host|host is (?:down|unreachable)/i, 1],
  // iputils asks this for EACCES, which is what a "prohibit" route gives.
  [/do you want to ping broadcast/i, 13],
  [/(?:connect|sendmsg|sendto|sending packet): .*(?:not permitted|permission denied)/i, 13],
  [/message too long/i, 4],
  [/(?:connect|sendmsg|sendto|sending packet): invalid argument/i, 0],
];

const FORBIDDEN =
  /socket: .*(?:not permitted|permission denied|protocol not supported)|are you root|lacking privilege|cap_net_raw|permission denied|not permitted/i;
const LOCAL_PREFIX = /^\S*(?:ping|busybox|connect|sendmsg|sendto)\S*: /;

/** What a line of standard output or standard error says; undefined if nothing. */
export function parsePingLine(line: string): PingAnswer | undefined {
  const reply = REPLY.exec(line);
  if (reply !== null) {
    const from = addressOf(reply[1]!);
    const ttl = Number(reply[2]);
    return from === undefined || ttl > 255 ? undefined : { kind: 'reply', from, ttl };
  }
  const told = FROM.exec(line);
  if (told !== null) return routerError(told[1]!, told[2]!);
  return LOCAL_PREFIX.test(line) ? localError(line) : undefined;
}

function routerError(router: string, text: string): PingAnswer | undefined {
  const from = addressOf(router);
  if (from === undefined) return undefined;
  if (/^time to live exceeded/i.test(text)) return { kind: 'exceeded', from, code: 0 };
  if (/^frag(?:ment)? reassembly time exceeded/i.test(text)) return { kind: 'exceeded', from, code: 1 };
  const code = codeOf(text, UNREACHABLE_WORDS);
  return code === undefined ? undefined : { kind: 'unreachable', from, code, mtu: mtuOf(text, code) };
}

function localError(line: string): PingAnswer | undefined {
  const code = codeOf(line, LOCAL_WORDS);
  if (code !== undefined) return { kind: 'unreachable', from: undefined, code, mtu: mtuOf(line, code) };
  return FORBIDDEN.test(line) ? { kind: 'unusable', why: line } : undefined;
}

function codeOf(text: string, words: readonly (readonly [RegExp, number])[]): number | undefined {
  return words.find(([pattern]) => pattern.test(text))?.[1];
}

/** `(mtu = 1300)`, `mtu=1300`, `(MTU 1300)`; 0 if there is none that an IPv4 link may have. */
function mtuOf(text: string, code: number): number {
  if (code !== UNREACHABLE.FragNeeded) return 0;
  const mtu = Number(/mtu\s*[=:]?\s*(\d{1,5})/i.exec(text)?.[1] ?? 0);
  return mtu >= 68 && mtu <= 65535 ? mtu : 0;
}

function addressOf(text: string): IpAddress | undefined {
  const v4 = parseV4(text);
  return v4 === undefined ? undefined : IpAddress.v4(v4);
}
