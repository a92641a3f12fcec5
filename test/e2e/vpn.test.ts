// A VPN that comes and goes, and an uplink that becomes another, under a running daemon with a real Linux guest. What must hold: the
// guest reaches what the host reaches at this moment, is refused the rest at once, and loses no flow that its network has not lost.

import t, { type Test } from 'tap';
import {
  CAFE,
  CAFE_DNS,
  CORP_DNS,
  CORP_NAME,
  freshName,
  HOME,
  HOME_DNS,
  INTERNET,
  INTRANET,
  PROXY,
  PROXY_NAME,
  PUBLIC_NAME,
  SPLIT_NAME,
  VPN_HOST,
  VPN_OTHER_HOST,
} from '../helpers/lab-plan.ts';
import { Laboratory, nameservers } from '../helpers/laboratory.ts';
import { needsNamespace } from '../helpers/requirements.ts';

const skip = needsNamespace();
/** What "at once" is on a loaded machine; a hang is ten times as long and more. */
const AT_ONCE_MS = 1000;

/** Asks for a name and compares rcode and addresses, as `NOERROR 1.2.3.4`. */
async function expectName(t: Test, lab: Laboratory, name: string, wanted: string, what = name): Promise<void> {
  const { rcode, addresses, ms } = await lab.ask(name);
  t.equal(`${rcode} ${addresses.join(' ')}`.trim(), wanted, `${what}: ${wanted}`);
  t.ok(ms < AT_ONCE_MS, `${what}: at once (${ms.toFixed(0)} ms)`);
}

/** The page of a host, or the error that the guest must see, at once. */
async function expectWeb(t: Test, lab: Laboratory, host: string, wanted: string | RegExp): Promise<void> {
  const { result, ms } = await lab.guest.call('web', host);
  if (typeof wanted === 'string') t.equal(result, wanted, `TCP to ${host}`);
  else t.match(result, wanted, `TCP to ${host}`);
  t.ok(ms < AT_ONCE_MS, `TCP to ${host}: at once (${ms.toFixed(0)} ms)`);
}

/** A datagram from a fresh socket is echoed, at once. @param from the address that the server must see. */
async function expectEcho(t: Test, lab: Laboratory, host: string, name: string, from: string): Promise<void> {
  const socket = await lab.guest.call('udpOpen', host);
  const { result, ms } = await lab.guest.call('udpSay', socket, '', 'hello', 3000);
  t.equal(result, `${name} ${from}: hello`, `UDP to ${host}`);
  t.ok(ms < AT_ONCE_MS, `UDP to ${host}: at once (${ms.toFixed(0)} ms)`);
}

/**
 * A datagram from a fresh socket is answered with ICMP. Counted by the guest's kernel, which tells an ordinary socket only of refusals that
 * it holds for final (RFC 1122 4.1.3.3 has unreachable networks and hosts as passing).
 */
async function expectUnreachable(t: Test, lab: Laboratory, host: string): Promise<void> {
  const before = await lab.unreachables();
  const socket = await lab.guest.call('udpOpen', host);
  const { result } = await lab.guest.call('udpSay', socket, '', 'hello', AT_ONCE_MS / 2);
  t.match(result, /^(silence|E[A-Z]+)$/, `UDP to ${host} is not answered`);
  t.equal((await lab.unreachables()) - before, 1, `UDP to ${host}: one ICMP error`);
}

/** Says something on a socket every 50 ms until the echo comes. @returns the echo, and how long that took. */
async function untilEcho(lab: Laboratory, socket: number, host: string, limitMs: number): Promise<[string, number]> {
  const started = performance.now();
  let last = '';
  for (let i = 0; performance.now() - started < limitMs; i++) {
    last = (await lab.guest.call('udpSay', socket, host, `try ${i}`, 50)).result;
    if (last.endsWith(`: try ${i}`)) break;
  }
  return [last, performance.now() - started];
}

/** Waits for more of a stream to come back. */
async function untilMore(t: Test, lab: Laboratory, stream: number, what: string): Promise<void> {
  const before = await lab.guest.call('streamReceived', stream);
  const started = performance.now();
  let now = before;
  while (now - before < 64 * 1024 && performance.now() - started < 5000) {
    now = await lab.guest.call('streamReceived', stream);
  }
  t.ok(now - before >= 64 * 1024, `the stream over the home network goes on: ${what}`);
}

const up = (lab: Laboratory, address?: string): void => {
  lab.vpnUp(address);
  lab.replaceResolvConf(nameservers(CORP_DNS));
};

const down = (lab: Laboratory, without: 'routed' | 'unreachable' | 'prohibit' | 'blackhole' = 'routed'): void => {
  lab.vpnDown(without);
  lab.replaceResolvConf(nameservers(HOME_DNS));
};

async function expectUp(t: Test, lab: Laboratory): Promise<void> {
  await expectName(t, lab, CORP_NAME, `NOERROR ${INTRANET}`);
  await expectName(t, lab, SPLIT_NAME, `NOERROR ${INTRANET}`, 'the overlapping name is the inner one');
  await expectName(t, lab, PUBLIC_NAME, `NOERROR ${INTERNET}`);
  t.equal((await lab.libc(CORP_NAME)).found, INTRANET, "the guest's libc finds it");
  await expectWeb(t, lab, INTRANET, 'intranet');
  await expectEcho(t, lab, INTRANET, 'intranet', lab.vpnAddress);
  await expectWeb(t, lab, INTERNET, 'internet');
}

async function expectDown(t: Test, lab: Laboratory, tcp: RegExp): Promise<void> {
  await expectName(t, lab, CORP_NAME, 'NXDOMAIN', 'the inner name, as the home server says it');
  await expectName(t, lab, SPLIT_NAME, `NOERROR ${INTERNET}`, 'the overlapping name is the outer one');
  await expectName(t, lab, PUBLIC_NAME, `NOERROR ${INTERNET}`);
  t.equal((await lab.libc(SPLIT_NAME)).found, INTERNET, "the guest's libc finds the outer one");
  await expectWeb(t, lab, INTRANET, tcp);
  await expectWeb(t, lab, INTERNET, 'internet');
}

t.test('a VPN comes, goes, and comes back with another address', { skip }, async (t) => {
  const lab = await Laboratory.start(t);
  const refusedTcp = /^E(NETUNREACH|HOSTUNREACH|CONNREFUSED)$/;
  await t.test('before', (t) => expectDown(t, lab, refusedTcp));

  // What has nothing to do with the VPN, and must not notice any of it.
  const stream = await lab.guest.call('streamOpen', INTERNET);
  const overHome = await lab.guest.call('udpOpen', '');
  const sayHome = async (t: Test, what: string): Promise<void> => {
    const { result } = await lab.guest.call('udpSay', overHome, INTERNET, what, 2000);
    t.equal(result, `internet ${HOME.host}: ${what}`, `the UDP socket over the home network: ${what}`);
    await untilMore(t, lab, stream, what);
  };
  await sayHome(t, 'before');

  await t.test('up', async (t) => {
    up(lab);
    await expectUp(t, lab);
    await sayHome(t, 'with the VPN up');
  });
  // One socket to the inside for the rest of the test.
  const inside = await lab.guest.call('udpOpen', '');
  t.match(await untilEcho(lab, inside, INTRANET, 2000), [`intranet ${VPN_HOST}: try 0`], 'a UDP socket to the inside');

  await t.test('down', async (t) => {
    down(lab);
    await expectDown(t, lab, refusedTcp);
    const { result } = await lab.guest.call('udpSay', inside, INTRANET, 'anybody?', 300);
    t.equal(result, 'silence', 'the socket to the inside is on its own (an unconnected socket hears no ICMP)');
    await sayHome(t, 'with the VPN down');
  });

  await t.test('up with another address', async (t) => {
    up(lab, VPN_OTHER_HOST);
    const [echo, ms] = await untilEcho(lab, inside, INTRANET, 8000);
    t.match(echo, `intranet ${VPN_OTHER_HOST}: `, 'the same socket of the guest is heard again, from the new address');
    t.ok(ms < 2 * AT_ONCE_MS, `soon (${ms.toFixed(0)} ms)`);
    await expectUp(t, lab);
    await sayHome(t, 'with the VPN up again');
  });

  await t.test('there and back in an instant, with another address and nothing said meanwhile', async (t) => {
    down(lab);
    up(lab, VPN_HOST);
    const [echo, ms] = await untilEcho(lab, inside, INTRANET, 8000);
    t.match(echo, `intranet ${VPN_HOST}: `, 'the same socket of the guest is heard again');
    t.ok(ms < 2 * AT_ONCE_MS, `soon (${ms.toFixed(0)} ms)`);
    await expectUp(t, lab);
  });

  await t.test('ten times quickly', async (t) => {
    for (let i = 0; i < 10; i++) {
      down(lab);
      await expectName(t, lab, SPLIT_NAME, `NOERROR ${INTERNET}`, 'outside');
      up(lab, i % 2 === 0 ? VPN_OTHER_HOST : VPN_HOST);
      await expectName(t, lab, SPLIT_NAME, `NOERROR ${INTRANET}`, 'inside');
      await expectWeb(t, lab, INTRANET, 'intranet');
    }
    await sayHome(t, 'after all of it');
  });

  for (const [kind, tcp] of [
    ['unreachable', /^EHOSTUNREACH$/],
    ['prohibit', /^(EACCES|EHOSTUNREACH)$/],
    ['blackhole', /^E(CONNREFUSED|NETUNREACH|HOSTUNREACH)$/],
  ] as const) {
    await t.test(`down, and a route of kind ${kind} in its place`, async (t) => {
      down(lab, kind);
      await expectDown(t, lab, tcp);
      if (kind !== 'blackhole') await expectUnreachable(t, lab, INTRANET);
      await sayHome(t, kind);
      up(lab);
      await expectUp(t, lab);
    });
  }

  const { sentBytes, sentHash, receivedBytes, receivedHash, error } = await lab.guest.call('streamEnd', stream);
  t.equal(error, '', 'the stream ended well');
  t.ok(sentBytes > 1_000_000, `${sentBytes} bytes were sent`);
  t.equal(`${receivedBytes} ${receivedHash}`, `${sentBytes} ${sentHash}`, 'all of it came back as it was');
  t.ok(lab.running, 'one daemon has done all this');
});

t.test('a proxy that only the VPN reaches', { skip }, async (t) => {
  const credentials = 'alice:secret';
  const lab = await Laboratory.start(t, { proxyCredentials: credentials });
  t.match((await lab.guest.call('webByProxy', PROXY, CORP_NAME, credentials)).result, /^E/, 'without the VPN: refused');
  up(lab);
  await expectName(t, lab, PROXY_NAME, `NOERROR ${PROXY}`);
  t.equal((await lab.guest.call('webByProxy', PROXY, CORP_NAME, credentials)).result, 'intranet', 'it finds the name');
  t.equal((await lab.guest.call('webByProxy', PROXY, CORP_NAME, 'alice:wrong')).result, '407', 'a wrong password');
  t.equal((await lab.guest.call('webByProxy', PROXY, 'nobody.example', credentials)).result, '502', 'a wrong name');
  t.same(await lab.corp.call('proxyLog'), [
    `CONNECT ${CORP_NAME}:80`,
    `CONNECT ${CORP_NAME}:80`,
    'CONNECT nobody.example:80',
  ]);
  down(lab);
  const { result, ms } = await lab.guest.call('webByProxy', PROXY, CORP_NAME, credentials);
  t.match(result, /^E/, 'refused again');
  t.ok(ms < AT_ONCE_MS, `at once (${ms.toFixed(0)} ms)`);
});

t.test('the Wi-Fi changes', { skip }, async (t) => {
  const lab = await Laboratory.start(t);
  const socket = await lab.guest.call('udpOpen', '');
  await expectName(t, lab, PUBLIC_NAME, `NOERROR ${INTERNET}`);
  t.match(await untilEcho(lab, socket, INTERNET, 2000), [`internet ${HOME.host}: try 0`]);
  await expectWeb(t, lab, INTERNET, 'internet');

  await t.test('away from every network', async (t) => {
    lab.leave();
    await expectWeb(t, lab, INTERNET, /^E(NETUNREACH|HOSTUNREACH)$/);
    await expectUnreachable(t, lab, INTERNET);
    await expectName(t, lab, 'new.public.example', 'SERVFAIL', 'a new name while nobody can be asked');
    t.equal((await lab.libc('newer.public.example')).found, '', "the guest's libc is told so, too");
  });

  await t.test('in another network, with another server', async (t) => {
    lab.join(CAFE);
    lab.replaceResolvConf(nameservers(CAFE_DNS));
    await expectName(t, lab, 'who.answers.example', `NOERROR ${CAFE_DNS}`);
    await expectWeb(t, lab, INTERNET, 'internet');
    const [echo, ms] = await untilEcho(lab, socket, INTERNET, 8000);
    t.match(echo, `internet ${CAFE.host}: `, 'the same socket of the guest is heard from there');
    t.ok(ms < 2 * AT_ONCE_MS, `soon (${ms.toFixed(0)} ms)`);
  });

  await t.test('back home with another address, at once', async (t) => {
    lab.join(HOME, HOME.otherHost);
    lab.replaceResolvConf(nameservers(HOME_DNS));
    const [echo, ms] = await untilEcho(lab, socket, INTERNET, 8000);
    t.match(echo, `internet ${HOME.otherHost}: `, 'the same socket of the guest is heard from there');
    t.ok(ms < 2 * AT_ONCE_MS, `soon (${ms.toFixed(0)} ms)`);
    await expectName(t, lab, 'who.answers.example', `NOERROR ${HOME_DNS}`);
  });

  await t.test('the same network, the same server, another address', async (t) => {
    await expectName(t, lab, 'none.public.example', 'NXDOMAIN');
    lab.join(HOME, HOME.host);
    await expectName(t, lab, 'none-other.public.example', 'NXDOMAIN', 'an open socket to the server does not stall');
    const [echo, ms] = await untilEcho(lab, socket, INTERNET, 8000);
    t.match(echo, `internet ${HOME.host}: `, 'nor does the guest');
    t.ok(ms < 2 * AT_ONCE_MS, `soon (${ms.toFixed(0)} ms)`);
  });
  t.ok(lab.running);
});

t.test('a server of the VPN stays in resolv.conf while the VPN comes and goes', { skip }, async (t) => {
  const lab = await Laboratory.start(t, { resolvConf: nameservers(CORP_DNS) });
  lab.vpnUp();
  const many = async (t: Test, what: string): Promise<void> => {
    const answers = await Promise.all(Array.from({ length: 50 }, () => lab.ask(freshName())));
    t.same([...new Set(answers.map((a) => `${a.rcode} ${a.addresses}`))], [`NOERROR ${CORP_DNS}`], what);
    const slowest = Math.max(...answers.map((a) => a.ms));
    t.ok(slowest < AT_ONCE_MS, `${what}: within ${slowest.toFixed(0)} ms`);
  };
  await many(t, 'up');
  for (const address of [VPN_OTHER_HOST, VPN_HOST, VPN_OTHER_HOST]) {
    lab.vpnDown();
    lab.vpnUp(address);
    await many(t, `50 names at once, right after the host has become ${address}`);
  }
  lab.vpnDown('unreachable');
  await expectName(t, lab, freshName(), 'SERVFAIL', 'down');
  lab.vpnUp();
  await many(t, 'up again');
});

t.test('DNS by TCP only, and the address of the host changes', { skip }, async (t) => {
  const lab = await Laboratory.start(t, { resolvConf: `${nameservers(HOME_DNS)}options use-vc\n` });
  await expectName(t, lab, freshName(), `NOERROR ${HOME_DNS}`);
  lab.join(HOME, HOME.otherHost);
  const { rcode, ms } = await lab.ask(freshName());
  t.equal(rcode, 'NOERROR');
  t.ok(ms < 2500, `no kernel tells of it: one lookup waits (${ms.toFixed(0)} ms)`);
  await expectName(t, lab, freshName(), `NOERROR ${HOME_DNS}`);
  await expectName(t, lab, freshName(), `NOERROR ${HOME_DNS}`);
});
