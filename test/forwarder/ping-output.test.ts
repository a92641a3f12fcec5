// The words of the ping programs, as they were seen: iputils 20221126 and busybox 1.35 on Linux, GNU inetutils and macOS from their sources.

import fc from 'fast-check';
import t from 'tap';
import { type PingAnswer, parsePingLine } from '../../src/forwarder/ping-output.ts';
import { type PingKind, pingArguments } from '../../src/forwarder/ping-program.ts';

/** As text, so that a table reads. */
function told(line: string): string {
  const answer: PingAnswer | undefined = parsePingLine(line);
  if (answer === undefined) return '-';
  switch (answer.kind) {
    case 'reply':
      return `reply ${answer.from} ttl ${answer.ttl}`;
    case 'exceeded':
      return `exceeded/${answer.code} ${answer.from}`;
    case 'unreachable':
      return `unreachable/${answer.code} ${answer.from ?? 'host'}${answer.mtu === 0 ? '' : ` mtu ${answer.mtu}`}`;
    case 'unusable':
      return 'unusable';
  }
}

const ROWS: readonly (readonly [string, string])[] = [
  ['64 bytes from 10.81.3.2: icmp_seq=1 ttl=62 time=0.271 ms', 'reply 10.81.3.2 ttl 62'],
  ['12 bytes from 10.81.3.2: icmp_seq=1 ttl=62', 'reply 10.81.3.2 ttl 62'],
  ['64 bytes from 10.81.3.2: icmp_seq=1 ttl=62 time=0.3 ms (DUP!)', 'reply 10.81.3.2 ttl 62'],
  ['64 bytes from 10.81.3.2 (10.81.3.2): icmp_seq=1 ttl=62 time=0.3 ms', 'reply 10.81.3.2 ttl 62'],
  ['64 bytes from 10.81.3.2: seq=0 ttl=255 time=0.044 ms', 'reply 10.81.3.2 ttl 255'],
  ['64 bytes from 127.0.0.1: icmp_seq=0 ttl=64 time=0.040 ms', 'reply 127.0.0.1 ttl 64'],
  ['From 10.81.1.1 icmp_seq=1 Time to live exceeded', 'exceeded/0 10.81.1.1'],
  ['From 10.81.1.1: icmp_seq=1 Time to live exceeded', 'exceeded/0 10.81.1.1'],
  ['92 bytes from 10.81.1.1: Time to live exceeded', 'exceeded/0 10.81.1.1'],
  ['From 10.81.1.1 icmp_seq=1 Frag reassembly time exceeded', 'exceeded/1 10.81.1.1'],
  ['From 10.81.2.2 icmp_seq=1 Packet filtered', 'unreachable/13 10.81.2.2'],
  ['36 bytes from 10.81.2.2: Communication prohibited by filter', 'unreachable/13 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Destination Host Unreachable', 'unreachable/1 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Destination Net Unreachable', 'unreachable/0 10.81.2.2'],
  ['92 bytes from 10.81.2.2: Destination Net Unreachable', 'unreachable/0 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Destination Port Unreachable', 'unreachable/3 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Destination Protocol Unreachable', 'unreachable/2 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Destination Host Prohibited', 'unreachable/10 10.81.2.2'],
  ['From 10.81.2.2 icmp_seq=1 Frag needed and DF set (mtu = 1300)', 'unreachable/4 10.81.2.2 mtu 1300'],
  ['From 10.81.2.2 icmp_seq=1 Frag needed and DF set (mtu = 0)', 'unreachable/4 10.81.2.2'],
  ['36 bytes from 10.81.2.2: frag needed and DF set (MTU 1400)', 'unreachable/4 10.81.2.2 mtu 1400'],
  ['ping: local error: message too long, mtu=1300', 'unreachable/4 host mtu 1300'],
  ['ping: sendto: Message too long', 'unreachable/4 host'],
  ['ping: connect: Network is unreachable', 'unreachable/0 host'],
  ['connect: Network is unreachable', 'unreachable/0 host'],
  ['ping: sendto: Network is unreachable', 'unreachable/0 host'],
  ['ping: sending packet: Network is unreachable', 'unreachable/0 host'],
  ['ping: bind: Cannot assign requested address', 'unreachable/0 host'],
  ['ping: connect: Invalid argument', 'unreachable/0 host'],
  ['ping: connect: No route to host', 'unreachable/1 host'],
  ['ping: sendto: No route to host', 'unreachable/1 host'],
  ['ping: sendto: Host is down', 'unreachable/1 host'],
  ['ping: Do you want to ping broadcast? Then -b. If not, check your local firewall rules', 'unreachable/13 host'],
  ['ping: sendmsg: Operation not permitted', 'unreachable/13 host'],
  ['ping: sendto: Permission denied', 'unreachable/13 host'],
  ['ping: sending packet: Operation not permitted', 'unreachable/13 host'],
  ['ping: socket: Operation not permitted', 'unusable'],
  ['ping: permission denied (are you root?)', 'unusable'],
  ['ping: Lacking privilege for icmp socket.', 'unusable'],
  ['ping: => missing cap_net_raw+p capability or setuid?', 'unusable'],
];

t.test('ICMP-02 each line says what it says, and no more', (t) => {
  for (const [line, expected] of ROWS) t.equal(told(line), expected, line);
  const silent = [
    'PING 10.81.3.2 (10.81.3.2) 56(84) bytes of data.',
    'PING 10.81.3.2 (10.81.3.2): 56 data bytes',
    '--- 10.81.3.2 ping statistics ---',
    '1 packets transmitted, 0 received, 100% packet loss, time 0ms',
    'rtt min/avg/max/mdev = 0.271/0.271/0.271/0.000 ms',
    '1 packets transmitted, 0 received, +1 errors, 100% packet loss',
    'From 10.81.2.2 icmp_seq=1 Redirect Host(New nexthop: 10.81.1.9)',
    'From 300.1.2.3 icmp_seq=1 Time to live exceeded',
    '64 bytes from 10.81.3.2: icmp_seq=1 ttl=999 time=0.3 ms',
    '64 bytes from fe80::1: icmp_seq=1 ttl=64 time=0.3 ms',
    'no answer yet for icmp_seq=1',
    'ping: wrong data byte #16 should be 0x10 but was 0x0',
    '',
  ];
  for (const line of silent) t.equal(told(line), '-', line);
  t.end();
});

t.test('no text makes it throw, or answer with an address that is none', (t) => {
  const words = fc.constantFrom(...ROWS.map(([line]) => line));
  const mixed = fc.tuple(words, fc.string(), fc.nat(80)).map(([a, b, at]) => a.slice(0, at) + b + a.slice(at));
  fc.assert(
    fc.property(fc.oneof(fc.string(), mixed), (line) => {
      const answer = parsePingLine(line);
      if (answer?.kind === 'reply') return answer.from.isV4 && answer.ttl >= 0 && answer.ttl <= 255;
      return answer?.kind !== 'unreachable' || (answer.code <= 15 && (answer.mtu === 0 || answer.mtu >= 68));
    }),
  );
  t.end();
});

t.test('arguments: TTL, size, source and "do not fragment" in each program\'s own words', (t) => {
  const order = { destination: '10.0.0.9', ttl: 7, dataLength: 100, dontFragment: true, source: '10.0.0.2' };
  const args = (kind: PingKind, more = {}): string =>
    pingArguments({ path: '/bin/ping', prefix: [], kind }, { ...order, ...more }).join(' ');
  t.equal(args('iputils'), '-n -c 1 -W 4 -t 7 -s 100 -M do -I 10.0.0.2 10.0.0.9');
  t.equal(args('iputils', { dontFragment: false, source: undefined }), '-n -c 1 -W 4 -t 7 -s 100 -M dont 10.0.0.9');
  t.equal(args('busybox'), '-c 1 -W 4 -t 7 -s 100 -I 10.0.0.2 10.0.0.9');
  t.equal(args('inetutils'), '-n -c 1 -W 4 --ttl=7 -s 100 10.0.0.9');
  t.equal(args('bsd'), '-n -c 1 -W 4000 -m 7 -s 100 -D -S 10.0.0.2 10.0.0.9');
  const busybox = { path: '/bin/busybox', prefix: ['ping'], kind: 'busybox' as const };
  t.equal(pingArguments(busybox, order)[0], 'ping', 'busybox by its own name');
  t.end();
});
