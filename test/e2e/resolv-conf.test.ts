// The host's resolv.conf changes under a running daemon in every way that clients of VPNs and networks change it, and its servers die
// and come back. Answers of the laboratory's servers may be kept for an hour, so whatever is right afterwards is no stale one.

import {
  mkdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { freshName, HOME, HOME_DNS, HOME_DNS_2, HOST_DNS, NO_DNS, WHO_NAME, ZONES } from '../helpers/lab-plan.ts';
import { Laboratory, nameservers } from '../helpers/laboratory.ts';
import { needsNamespace } from '../helpers/requirements.ts';

const skip = needsNamespace();
/** The promise: a change is followed within this. */
const FOLLOW_MS = 1000;
/** A lookup past a dead first server, the first and the following ones; and the word that nobody can answer. */
const FIRST_MS = 1500;
const FOLLOWING_MS = 20;
const FAILED_MS = 5000;
/** What must not wait for any timer, on a loaded machine. */
const AT_ONCE_MS = 1000;

const A = nameservers(HOME_DNS);
const B = nameservers(HOME_DNS_2);
const NOBODY = 'SERVFAIL';

/** Who answers for the name: an address, or the rcode. */
async function who(lab: Laboratory, name: string = WHO_NAME): Promise<string> {
  const { rcode, addresses } = await lab.ask(name);
  return rcode === 'NOERROR' ? addresses.join() : rcode;
}

/** Asks until `wanted` answers; from then on nobody else may. */
async function follows(t: Test, lab: Laboratory, wanted: string, what: string): Promise<void> {
  const started = performance.now();
  let found = '';
  while (found !== wanted && performance.now() - started < 3 * FOLLOW_MS) found = await who(lab);
  const ms = performance.now() - started;
  t.equal(found, wanted, `${what}: ${wanted}`);
  t.ok(ms < FOLLOW_MS, `${what}: within a second (${ms.toFixed(0)} ms)`);
  t.equal(await who(lab), wanted, `${what}: it stays so`);
  t.equal(await who(lab, freshName()), wanted, `${what}: for other names too`);
}

/** `ln -sfn`: the link is replaced, not removed and made. */
function link(target: string, path: string): void {
  symlinkSync(target, `${path}.new`);
  renameSync(`${path}.new`, path);
}

function replace(path: string, text: string): void {
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}

/** One text after the other, as if a program had been slow. */
function writeAll(path: string, ...texts: string[]): void {
  for (const text of texts) writeFileSync(path, text);
}

/** One step: what happens to the file, and who is asked after it. They follow upon each other. */
type Change = readonly [what: string, change: (file: string, run: string) => void, wanted: string];

const CHANGES: readonly Change[] = [
  ['rewritten in place', (file) => writeFileSync(file, B), HOME_DNS_2],
  ['rewritten in place, as long as before', (file) => writeFileSync(file, `#\n${A}`), HOME_DNS],
  ['replaced by rename', (file) => replace(file, B), HOME_DNS_2],
  [
    'replaced by a symlink',
    (file, run) => {
      mkdirSync(run);
      writeFileSync(join(run, 'stub.conf'), A);
      link('../run/net/stub.conf', file);
    },
    HOME_DNS,
  ],
  ['the target rewritten in place', (_file, run) => writeFileSync(join(run, 'stub.conf'), B), HOME_DNS_2],
  ['the target replaced by rename', (_file, run) => replace(join(run, 'stub.conf'), A), HOME_DNS],
  ['the target replaced by rename again', (_file, run) => replace(join(run, 'stub.conf'), B), HOME_DNS_2],
  ['the target removed', (_file, run) => unlinkSync(join(run, 'stub.conf')), NOBODY],
  ['the target there again', (_file, run) => writeFileSync(join(run, 'stub.conf'), A), HOME_DNS],
  ['the target rewritten once more', (_file, run) => writeFileSync(join(run, 'stub.conf'), B), HOME_DNS_2],
  ["the target's folder removed", (_file, run) => rmSync(run, { recursive: true }), NOBODY],
  [
    "the target's folder there again",
    (_file, run) => {
      mkdirSync(run);
      writeFileSync(join(run, 'stub.conf'), B);
    },
    HOME_DNS_2,
  ],
  [
    'the link put on another target',
    (file, run) => {
      writeFileSync(join(run, 'other.conf'), A);
      link('../run/net/other.conf', file);
    },
    HOME_DNS,
  ],
  [
    'a link to a link in a third folder',
    (file, run) => {
      mkdirSync(join(run, 'one'));
      mkdirSync(join(run, 'two'));
      writeFileSync(join(run, 'one', 'resolv.conf'), B);
      writeFileSync(join(run, 'two', 'resolv.conf'), A);
      symlinkSync('one/resolv.conf', join(run, 'chosen'));
      link('../run/net/chosen', file);
    },
    HOME_DNS_2,
  ],
  ['the second link put on another target', (_file, run) => link('two/resolv.conf', join(run, 'chosen')), HOME_DNS],
  [
    'a link through a folder that is a link',
    (file, run) => {
      symlinkSync('one', join(run, 'profile'));
      link('../run/net/profile/resolv.conf', file);
    },
    HOME_DNS_2,
  ],
  ['that folder link put on another folder', (_file, run) => link('two', join(run, 'profile')), HOME_DNS],
  ['a plain file again', (file) => replace(file, B), HOME_DNS_2],
  ['emptied', (file) => truncateSync(file), NOBODY],
  ['restored', (file) => writeFileSync(file, A), HOME_DNS],
  ['removed', (file) => unlinkSync(file), NOBODY],
  ['made anew', (file) => writeFileSync(file, B), HOME_DNS_2],
  ['moved away', (file) => renameSync(file, `${file}.kept`), NOBODY],
  ['moved back', (file) => renameSync(`${file}.kept`, file), HOME_DNS_2],
  [
    'a link to itself',
    (file) => {
      unlinkSync(file);
      symlinkSync('resolv.conf', file);
    },
    NOBODY,
  ],
  ['a file in its place', (file) => replace(file, A), HOME_DNS],
  [
    'a folder of that name',
    (file) => {
      unlinkSync(file);
      mkdirSync(file);
    },
    NOBODY,
  ],
  [
    'a file in its place',
    (file) => {
      rmdirSync(file);
      writeFileSync(file, B);
    },
    HOME_DNS_2,
  ],
  ['only rubbish in it', (file) => replace(file, 'nameserver nonsense\nnameserver 1.2.3\0\n\xff\n'), NOBODY],
  ['a server behind rubbish', (file) => replace(file, `nameserver nonsense\n${A}`), HOME_DNS],
  ['written line by line', (file) => writeAll(file, '', '# by hand\n', `# by hand\n${B}`), HOME_DNS_2],
  ['written twice at once', (file) => writeAll(file, A, B, A), HOME_DNS],
];

t.test('DNS-10: the next lookup is right after every kind of change of resolv.conf', { skip }, async (t) => {
  const lab = await Laboratory.start(t);
  const run = join(lab.run, 'net');
  t.equal(await who(lab), HOME_DNS);
  for (const [what, change, wanted] of CHANGES) {
    change(lab.resolvConf, run);
    await follows(t, lab, wanted, what);
  }
  t.ok(lab.running, 'one daemon has done all this');
});

t.test('DNS-10: a question that is open when the servers change is asked anew', { skip }, async (t) => {
  const lab = await Laboratory.start(t);
  await lab.home.call('dnsMode', HOME_DNS, 'silent');
  const open = Array.from({ length: 20 }, () => lab.ask(freshName()));
  while ((await lab.home.call('dnsQuestions', HOME_DNS)) < open.length);
  const changed = performance.now();
  lab.replaceResolvConf(B);
  const answers = await Promise.all(open);
  const ms = performance.now() - changed;
  t.ok(
    answers.every((a) => a.addresses[0] === HOME_DNS_2),
    'all are answered by the new server',
  );
  t.ok(ms < AT_ONCE_MS, `at once (${ms.toFixed(0)} ms)`);
});

t.test('without a server in resolv.conf names are found as libc finds them', { skip }, async (t) => {
  const lab = await Laboratory.start(t, { resolvConf: '# nothing\n' });
  const started = performance.now();
  t.equal(await who(lab), NOBODY, 'nobody listens on the loopback');
  t.ok(performance.now() - started < AT_ONCE_MS, 'which is told at once');
  await lab.host.call('serveDns', HOST_DNS, ZONES[HOST_DNS]!);
  t.equal(await who(lab, freshName()), '10.9.9.9', "the host's own server, as resolv.conf(5) has it");
  t.equal((await lab.ask('no-such-name.example')).rcode, 'NXDOMAIN');
  writeFileSync(lab.resolvConf, A);
  await follows(t, lab, HOME_DNS, 'a server is named');
});

/** The times of `count` lookups of fresh names, one after the other, in order of size; `wanted` must answer each. */
async function times(t: Test, lab: Laboratory, count: number, wanted: string): Promise<number[]> {
  const all: number[] = [];
  for (let i = 0; i < count; i++) {
    const { addresses, ms } = await lab.ask(freshName());
    if (addresses[0] !== wanted) t.equal(addresses[0], wanted, `lookup ${i}`);
    all.push(ms);
  }
  return all.sort((a, b) => a - b);
}

t.test('DNS-10: the first server is dead', { skip }, async (t) => {
  const lab = await Laboratory.start(t, { resolvConf: A + B });
  const past = async (t: Test, firstMs: number): Promise<void> => {
    const { addresses, ms } = await lab.ask(freshName());
    t.equal(addresses[0], HOME_DNS_2, 'the second answers');
    t.ok(ms < firstMs, `the first lookup: ${ms.toFixed(0)} ms`);
    const following = await times(t, lab, 40, HOME_DNS_2);
    const median = following[20]!;
    t.ok(median < FOLLOWING_MS, `the following ones: half of them within ${median.toFixed(1)} ms`);
    t.ok(following[38]! < AT_ONCE_MS / 2, `and none waits for the dead one: ${following[38]!.toFixed(0)} ms`);
  };
  /** It is asked again by and by, beside the second, and then preferred. */
  const back = async (t: Test): Promise<void> => {
    await lab.home.call('dnsMode', HOME_DNS, 'answering');
    const started = performance.now();
    while ((await who(lab, freshName())) !== HOME_DNS && performance.now() - started < 10_000);
    const ms = performance.now() - started;
    t.ok(ms < 5000, `it is noticed when it is back: ${ms.toFixed(0)} ms`);
    t.equal(await who(lab, freshName()), HOME_DNS);
  };
  t.equal(await who(lab), HOME_DNS, 'first the first is asked');

  await t.test('silent', async (t) => {
    await lab.home.call('dnsMode', HOME_DNS, 'silent');
    await past(t, FIRST_MS);
    await back(t);
  });
  await t.test('gone: nobody listens on its port', async (t) => {
    await lab.home.call('dnsMode', HOME_DNS, 'gone');
    await past(t, AT_ONCE_MS / 2);
    await back(t);
  });
  await t.test('its machine is not there', async (t) => {
    writeFileSync(lab.resolvConf, nameservers(NO_DNS, HOME_DNS_2));
    await past(t, FIRST_MS);
  });
});

t.test('DNS-10: all servers are dead, and come back', { skip }, async (t) => {
  const lab = await Laboratory.start(t, { resolvConf: A + B });
  const all = async (mode: 'answering' | 'silent' | 'gone'): Promise<void> => {
    for (const server of [HOME_DNS, HOME_DNS_2]) await lab.home.call('dnsMode', server, mode);
  };
  /** Each of many questions at once gets SERVFAIL in time. */
  const nobody = async (t: Test, limitMs: number): Promise<void> => {
    for (let round = 0; round < 2; round++) {
      // Few at once: a kernel says to fifty at most, and then to one a millisecond, that nobody listens.
      const answers = await Promise.all(Array.from({ length: 8 }, () => lab.ask(freshName())));
      t.same([...new Set(answers.map((a) => a.rcode))], [NOBODY], 'never silence, never a false NXDOMAIN');
      const slowest = Math.max(...answers.map((a) => a.ms));
      t.ok(slowest < limitMs, `told within ${slowest.toFixed(0)} ms`);
    }
  };
  const right = async (t: Test): Promise<void> => {
    const { rcode, ms } = await lab.ask(freshName());
    t.equal(rcode, 'NOERROR', 'the first lookup afterwards is right');
    t.ok(ms < AT_ONCE_MS, `at once (${ms.toFixed(0)} ms)`);
    t.equal((await lab.ask(freshName())).rcode, 'NOERROR');
  };
  t.equal(await who(lab), HOME_DNS);

  await t.test('silent', async (t) => {
    await all('silent');
    await nobody(t, FAILED_MS);
    const { found, ms } = await lab.libc(freshName());
    t.equal(found, '', "the guest's libc is told, too");
    t.ok(ms < 4 * FAILED_MS, `and does not wait for its own timeouts (${ms.toFixed(0)} ms)`);
    await all('answering');
    await right(t);
    t.equal(await who(lab), HOME_DNS, 'what was known all the time is known still');
  });
  await t.test('gone', async (t) => {
    await all('gone');
    await nobody(t, 2 * AT_ONCE_MS);
    await all('answering');
    await right(t);
  });
  await t.test('no network at all', async (t) => {
    lab.leave();
    await nobody(t, 2 * AT_ONCE_MS);
    lab.join(HOME);
    await right(t);
  });
});
