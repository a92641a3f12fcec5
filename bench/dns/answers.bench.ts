// What an answer costs: from the cache by the responder alone, from frame to frame through the stack, of a new name, and from the
// cache to another process over a unix socket with 32 questions in flight, as a VM asks.
//
//   npm run bench -- dns

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Asker } from '../../src/dns/responder.ts';
import { HostClock, HostTimers } from '../../src/host/host-clock.ts';
import { LinkListener } from '../../src/link/listener.ts';
import type { Egress, LinkPort } from '../../src/stack/ports.ts';
import { type BenchCase, runSuite } from '../suite.ts';
import { DnsRig, HEADERS, question, questionFrame, wrongAnswer } from './rig.ts';

const NAMES = 32;
const IN_FLIGHT = 32;
const BATCH_BYTES = 64 * 1024;
const questions = Array.from({ length: NAMES }, (_, i) => question(`Host-${i}.Bench.example`, i));

/** A link that keeps the last batch, to be looked at. */
class KeepingEgress implements Egress {
  readonly base: number;
  readonly at: number[] = [];
  readonly lengths: number[] = [];
  writes = 0;
  frames = 0;
  #fill = 0;

  constructor(base: number) {
    this.base = base;
  }

  reserve(len: number): number {
    return this.#fill + len > BATCH_BYTES ? -1 : this.base + this.#fill;
  }

  commit(off: number, len: number): void {
    this.at[this.frames % NAMES] = off;
    this.lengths[this.frames % NAMES] = len;
    this.frames++;
    this.#fill += len;
  }

  flush(): void {
    this.writes++;
    this.#fill = 0;
  }

  close(): void {}
}

/** Has every name asked for once, so that the cache knows it. */
function warm(rig: DnsRig, ask: () => void): void {
  ask();
  const answered = rig.upstream.answerAll();
  if (answered !== NAMES) throw new Error(`${answered} of ${NAMES} names went upstream`);
}

function responderCase(): BenchCase {
  const rig = new DnsRig({ now: () => 1 });
  let bytes = 0;
  const asker: Asker = {
    client: 1,
    tcp: false,
    linkLimitBytes: 1472,
    hold: () => asker,
    deliver: (_buf, _off, len) => {
      bytes += len;
    },
  };
  const run = (): number => {
    for (const q of questions) rig.service.responder.onQuery(q, 0, q.length, asker, 1);
    return bytes;
  };
  warm(rig, run);
  const each = questions.reduce((sum, q) => sum + q.length + 16, 0);
  return {
    name: 'responder alone',
    perRun: NAMES,
    check: () => {
      const before = bytes;
      const { cacheHits } = rig.service.stats;
      run();
      return bytes - before === each && rig.service.stats.cacheHits - cacheHits === NAMES ? undefined : 'not cached';
    },
    run,
  };
}

function frameCase(perTurn: number): BenchCase {
  const rig = new DnsRig({ now: () => 1 });
  const { slab, mem } = rig.memory;
  const egress = new KeepingEgress(slab.alloc(BATCH_BYTES));
  const port: LinkPort = rig.stack.attach(egress, { name: 'bench', mtu: 1500, mtuTold: false }, 1);
  const frames = questions.map((q) => {
    const frame = questionFrame(q);
    const at = slab.alloc(4096);
    mem.set(frame, at);
    return { at, len: frame.length };
  });
  const run = (): number => {
    let n = 0;
    for (const { at, len } of frames) {
      port.input(mem, at, len, 1);
      if (++n % perTurn === 0) port.endTurn(1);
    }
    return egress.frames;
  };
  warm(rig, run);
  rig.stack.onEndTurn(1);
  return {
    name: `frame to frame, ${perTurn} in a read`,
    perRun: NAMES,
    check: () => {
      const { frames: before, writes } = egress;
      run();
      if (egress.frames - before !== NAMES) return `${egress.frames - before} answers`;
      if (egress.writes - writes !== NAMES / perTurn) return `${egress.writes - writes} writes`;
      for (let i = 0; i < NAMES; i++) {
        const wrong = wrongAnswer(mem, egress.at[i]!, egress.lengths[i]!);
        if (wrong !== undefined && perTurn === NAMES) return wrong;
      }
      return undefined;
    },
    run,
    checkAfter: () => (rig.service.stats.lookups === NAMES ? undefined : 'something went upstream again'),
  };
}

/** New names, each through the resolver to an upstream without a kernel and back. */
function newNamesCase(): BenchCase {
  let now = 1;
  const rig = new DnsRig({ now: () => now });
  const { slab, mem } = rig.memory;
  const egress = new KeepingEgress(slab.alloc(BATCH_BYTES));
  const port: LinkPort = rig.stack.attach(egress, { name: 'bench', mtu: 1500, mtuTold: false }, now);
  const frame = questionFrame(question('n00000000.bench.example', 7));
  const at = slab.alloc(4096);
  mem.set(frame, at);
  // Names change, so the checksum is left out, which IPv4 allows.
  mem.fill(0, at + 40, at + 42);
  let number = 0;
  const run = (): number => {
    now += 0.5;
    for (let i = 0; i < NAMES; i++) {
      for (let digit = 0, n = number++; digit < 8; digit++, n = Math.floor(n / 10))
        mem[at + 63 - digit] = 48 + (n % 10);
      port.input(mem, at, frame.length, now);
    }
    rig.upstream.answerAll();
    port.endTurn(now);
    if (rig.service.nextDeadline() <= now) rig.service.poll(now);
    return egress.frames;
  };
  return {
    name: 'new names, upstream without a kernel',
    perRun: NAMES,
    check: () => {
      const before = egress.frames;
      run();
      if (egress.frames - before !== NAMES) return `${egress.frames - before} answers`;
      return wrongAnswer(mem, egress.at[0]!, egress.lengths[0]!);
    },
    run,
    checkAfter: () => {
      const { lookups, answers, failures } = rig.service.stats;
      return lookups === number && answers === number && failures === 0 ? undefined : `${lookups} of ${number} asked`;
    },
  };
}

/** The VM: keeps `IN_FLIGHT` questions out, and holds every answer to what it should be. */
function guest(path: string): void {
  const mem = Buffer.alloc(256 * 1024);
  let held = 0;
  let answers = 0;
  const frames = questions.map((q) => {
    const frame = questionFrame(q);
    const prefixed = Buffer.alloc(4 + frame.length);
    prefixed.writeUInt32BE(frame.length);
    prefixed.set(frame, 4);
    return prefixed;
  });
  // Any number of questions, from any of them on, is one piece of this.
  const ring = Buffer.concat([...frames, ...frames]);
  const starts = [...frames, ...frames].map((_, i, all) => all.slice(0, i).reduce((sum, f) => sum + f.length, 0));
  let next = 0;
  const ask = (n: number): void => {
    socket.write(ring.subarray(starts[next]!, starts[next + n] ?? ring.length));
    next = (next + n) % frames.length;
  };
  const take = (bytes: number): boolean => {
    held += bytes;
    let at = 0;
    let came = 0;
    while (held - at >= 4 && held - at >= 4 + mem.readUInt32BE(at)) {
      const len = mem.readUInt32BE(at);
      const wrong = wrongAnswer(mem, at + 4, len);
      if (wrong !== undefined) throw new Error(wrong);
      at += 4 + len;
      came++;
    }
    mem.copyWithin(0, at, held);
    held -= at;
    answers += came;
    for (let left = came; left > 0; left -= IN_FLIGHT) ask(Math.min(left, IN_FLIGHT));
    return true;
  };
  const buffer = (): Uint8Array => mem.subarray(held);
  const socket = net.connect({ path, onread: { buffer, callback: take } });
  socket.on('close', () => process.exit(0));
  socket.on('error', () => process.exit(0));
  process.on('message', () => process.send!(answers));
  ask(IN_FLIGHT);
}

async function overLink(seconds: number): Promise<void> {
  const clock = new HostClock();
  const rig = new DnsRig(clock);
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const path = join(dir, 'vm');
  const identities = { identify: () => ({ ok: false as const, invalid: true, reason: '' }), disconnected() {} };
  const log = { info() {}, warn() {} };
  const listener = new LinkListener(
    { url: { text: 'bench', format: 'qemu', place: { kind: 'path', path } }, mtu: 1500 },
    { memory: rig.memory, host: rig.stack, clock, timers: new HostTimers(), identities, log },
  );
  rig.onTurnWanted = () => setImmediate(() => rig.stack.onEndTurn(clock.now()));
  await listener.listen();
  const vm = fork(fileURLToPath(import.meta.url), ['guest', path], { execArgv: [] });
  const answersOf = async (): Promise<number> => {
    vm.send('count');
    const [count] = (await once(vm, 'message')) as [number];
    return count;
  };
  // The first of each name waits for the name server.
  while (rig.service.stats.lookups < NAMES) await new Promise((done) => setTimeout(done, 1));
  rig.upstream.answerAll();
  await new Promise((done) => setTimeout(done, 500));
  const before = await answersOf();
  const { rxReads, txWrites } = listener.totals();
  const cpu = process.cpuUsage();
  const start = performance.now();
  await new Promise((done) => setTimeout(done, seconds * 1000));
  const after = await answersOf();
  const took = (performance.now() - start) / 1000;
  const used = process.cpuUsage(cpu);
  const totals = listener.totals();
  vm.kill();
  await listener.close();
  rig.service.close();
  rmSync(dir, { recursive: true });
  const count = after - before;
  if (rig.service.stats.lookups !== NAMES || rig.service.stats.cacheHits < count) throw new Error('not from the cache');
  if (count < 1000) throw new Error(`${count} answers`);
  const perRead = count / (totals.rxReads - rxReads);
  const perWrite = count / (totals.txWrites - txWrites);
  const ns = ((used.user + used.system) * 1000) / count;
  console.log(
    `  ${`over a unix socket, ${IN_FLIGHT} in flight`.padEnd(52)} ${ns.toFixed(1).padStart(10)} ns  ${Math.round(count / took)}/s, ${perRead.toFixed(1)} a read, ${perWrite.toFixed(1)} a write`,
  );
}

if (process.argv[2] === 'guest') guest(process.argv[3]!);
else {
  if (HEADERS + questions[0]!.length < 60) throw new Error('a question that is too short for a frame');
  runSuite('DNS answers', [responderCase(), frameCase(NAMES), frameCase(1), newNamesCase()]);
  await overLink(2);
}
