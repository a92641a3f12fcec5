// The ping forwarder with a made-up stack and a made-up `ping`: a shell script that answers by destination, and notes how it was called.

import { chmodSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { PingForwarder, type PingForwarderOptions } from '../../src/forwarder/ping-forwarder.ts';
import { findPing } from '../../src/forwarder/ping-program.ts';
import type { IpAddress } from '../../src/ip/address.ts';
import type { LinkPort } from '../../src/stack/ports.ts';
import { destinations, GUEST, ip, vm } from './udp-rig.ts';

/** What the script says to each destination; none: it keeps silent for a minute. */
const ANSWERS: Readonly<Record<string, string>> = {
  '127.0.0.1': '64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.02 ms',
  '203.0.113.1': '64 bytes from 203.0.113.1: icmp_seq=1 ttl=62 time=0.3 ms',
  '203.0.113.2': 'From 198.51.100.7 icmp_seq=1 Time to live exceeded',
  '203.0.113.3': 'From 198.51.100.7 icmp_seq=1 Packet filtered',
  '203.0.113.4': 'ping: connect: Network is unreachable',
  '203.0.113.5': 'From 198.51.100.7 icmp_seq=1 Frag needed and DF set (mtu = 1300)',
  '203.0.113.6': 'From 192.168.65.40 icmp_seq=1 Time to live exceeded',
  '203.0.113.7': 'ping: local error: message too long',
  '203.0.113.8': 'this is no answer',
};

/** A test's folder is made anew by each call for it. */
const roots = new WeakMap<Test, string>();

/** Makes a `ping` that calls itself iputils. @returns the folder that it is in. */
export function fakePing(
  test: Test,
  answers: Readonly<Record<string, string>> = ANSWERS,
  version = 'iputils 1',
): string {
  const root = roots.get(test) ?? test.testdir();
  roots.set(test, root);
  const folder = mkdtempSync(join(root, 'ping-'));
  const cases = Object.entries(answers).map(([to, says]) => `${to}) echo '${says}' ;;`);
  const script = [
    '#!/bin/sh',
    `[ "$1" = -V ] && { echo 'ping from ${version}'; exit 0; }`,
    `echo "$*" >>'${join(folder, 'calls')}'`,
    'for to; do :; done',
    'case $to in',
    ...cases,
    '*) exec sleep 60 ;;',
    'esac',
  ];
  writeFileSync(join(folder, 'ping'), `${script.join('\n')}\n`);
  writeFileSync(join(folder, 'calls'), '');
  chmodSync(join(folder, 'ping'), 0o755);
  return folder;
}

export interface Answer {
  readonly what: string;
  readonly vm: number;
  readonly packet: Uint8Array;
}

export interface Echo {
  readonly id?: number;
  readonly seq?: number;
  readonly ttl?: number;
  readonly vm?: LinkPort;
  readonly dontFragment?: boolean;
  readonly dataLength?: number;
}

export class PingWorld {
  time = 1000;
  readonly got: Answer[] = [];
  readonly logged: string[] = [];
  readonly forwarder: PingForwarder;
  readonly folder: string;
  #waiters: (() => void)[] = [];

  constructor(test: Test, options: Partial<PingForwarderOptions> = {}, folder = fakePing(test)) {
    this.folder = folder;
    this.forwarder = new PingForwarder({
      destinations,
      sender: {
        sendEchoReply: ({ id }, packet, from, ttl) => {
          this.#push({ what: `reply ${from} ttl ${ttl}`, vm: id, packet });
          return true;
        },
        sendEchoExceeded: ({ id }, packet, from, code) =>
          this.#push({ what: `exceeded/${code} ${from}`, vm: id, packet }),
        sendEchoUnreachable: ({ id }, packet, from: IpAddress | undefined, code, mtu) =>
          this.#push({ what: `unreachable/${code} ${from ?? 'gateway'}${mtu ? ` mtu ${mtu}` : ''}`, vm: id, packet }),
      },
      clock: { now: () => this.time },
      mode: 'auto',
      find: () => findPing({ PATH: folder }, 'linux'),
      log: (_level, event, fields) => this.logged.push(`${event} ${JSON.stringify(fields)}`),
      ...options,
    });
    test.teardown(async () => {
      this.forwarder.close();
      await this.idle();
    });
  }

  /** A guest's request. The memory that it lies in is somebody else's afterwards. */
  echo(
    to: string,
    { id = 7, seq = 1, ttl = 64, vm: from = vm(1), dontFragment = false, dataLength = 56 }: Echo = {},
  ): boolean {
    // A Buffer, as the packet memory is.
    const buf = Buffer.alloc(10 + 28 + dataLength + 10);
    buf[10 + 27] = seq;
    const request = { vm: from, guest: GUEST, remote: ip(to), id, seq, ttl, dontFragment, dataLength };
    const taken = this.forwarder.onEcho(request, buf, 10, 28 + dataLength, this.time);
    buf.fill(0xdb);
    return taken;
  }

  async next(): Promise<Answer> {
    while (this.got.length === 0) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    return this.got.shift()!;
  }

  /** Until no process is left. */
  async idle(): Promise<void> {
    while (this.forwarder.running > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Until so many processes have been started and have noted it, the probe of the program included. */
  async called(times: number): Promise<readonly string[]> {
    for (;;) {
      const calls = this.calls();
      if (calls.length >= times) return calls;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  calls(): readonly string[] {
    return readFileSync(join(this.folder, 'calls'), 'latin1').split('\n').slice(0, -1);
  }

  #push(answer: Answer): void {
    this.got.push(answer);
    for (const waiter of this.#waiters.splice(0)) waiter();
  }
}

/** Children of this process now, by /proc. */
export function childCount(): number {
  let n = 0;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1');
      if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === process.pid) n++;
    } catch {
      // It has ended meanwhile.
    }
  }
  return n;
}
