// One run: a real Stack with made-up hosts behind it and VMs before it, joined by faulty links on virtual time, with every rule
// checked at every turn. Conformance reference 5.

import { Slab } from '../../src/base/slab.ts';
import { Cidr4, IpAddress, parseV4 } from '../../src/ip/address.ts';
import type { LinkPort } from '../../src/stack/ports.ts';
import { Stack } from '../../src/stack/stack.ts';
import type { VmPort } from '../../src/stack/vm-port.ts';
import type { TcpFlow } from '../../src/tcp/flow.ts';
import { DEFAULT_TCP_LIMITS, type TcpLimits } from '../../src/tcp/limits.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { fail, Pair, type SimEnd, SimFailure } from './ends.ts';
import { FaultyLink } from './faulty-link.ts';
import { FlowEnd } from './flow-end.ts';
import { FrameRules } from './frame-rules.ts';
import type { SimGuest } from './guest.ts';
import type { Action, FlowPlan, Program } from './program.ts';
import { SimpleConnection } from './simple-connection.ts';
import { SimplePeer } from './simple-peer.ts';
import { StackGuest } from './stack-guest.ts';
import { checkConnection } from './stack-rules.ts';
import { Stream } from './stream.ts';
import { Alarm, Timeline } from './timeline.ts';

const NETWORK = Cidr4.parse('10.0.0.0/24')!;
const GATEWAY = parseV4('10.0.0.1')!;
const REMOTE = parseV4('198.51.100.7')!;
const GATEWAY_MAC = Uint8Array.of(0x02, 0, 0, 0, 0, 0x01);
/** Flow `id` is found by this port of the remote, or of the guest. */
const FIRST_PORT = 2000;
const FRAME_BLOCK = 128 * 1024;
/** After the faults: time in which every flow must be done. Twice the largest RTO, and then some for go-back-N at 8 s. */
const FINISH_MS = 240_000;
/** Then: time after which hosts give up on vanished guests, and TIME-WAIT and all else is over. */
const GIVE_UP_MS = 600_000;
const QUIET_MS = 3_000_000;
const MAX_EVENTS = 500_000;

/** One VM with its port and links. */
interface Station {
  guest: SimGuest;
  port: LinkPort & VmPort;
  toGuest: FaultyLink;
  toHost: FaultyLink;
  rules: FrameRules;
  blocked: boolean;
}

/** A flow of the program, as it went. */
interface Run {
  plan: FlowPlan;
  pair: Pair;
  /** Every end that a SYN (or an old copy of one) made on the host's side. */
  hosts: FlowEnd[];
  guests: SimEnd[];
}

export class World {
  readonly program: Program;
  readonly timeline: Timeline = new Timeline();
  readonly stack: Stack;
  readonly slab: Slab;
  readonly limits: TcpLimits;
  readonly stations: Station[] = [];
  readonly runs: Run[] = [];
  /** More events than this are a loop. */
  maxEvents = MAX_EVENTS;
  readonly #random: SeededRandom;
  readonly #baseBytes: number;
  readonly #frameBlock: number;
  readonly #alarm: Alarm;
  /** When flows are told to come to an end. */
  readonly #endAt: number;
  readonly #traceLines: number;
  #turnWanted = false;

  constructor(program: Program, traceLines: number) {
    this.program = program;
    this.#traceLines = traceLines;
    this.#random = new SeededRandom(program.seed ^ 0x5eed);
    this.#endAt = this.timeline.now + program.endMs + 1000;
    this.limits = { ...DEFAULT_TCP_LIMITS, ...program.limits };
    this.slab = new Slab(new Uint8Array(program.memoryBytes));
    this.#frameBlock = this.slab.alloc(FRAME_BLOCK);
    this.#alarm = new Alarm(this.timeline, () => {
      this.stack.poll(this.timeline.now);
      this.#afterTurn();
    });
    this.stack = new Stack(
      { network: NETWORK, gateway: GATEWAY, hostAlias: undefined, mac: GATEWAY_MAC, tcp: this.limits },
      this.slab,
      new SeededRandom(program.seed ^ 0x57ac),
      { onSyn: (flow) => this.#onSyn(flow) },
      { onDatagram: () => false, onVmGone: () => {} },
      {
        onTurnWanted: () => this.#wantTurn(),
        onTurnEnd: () => this.#alarm.set(this.stack.nextDeadline()),
        onVmConnected: () => {},
        onVmGone: () => {},
        onBug: (error) => {
          throw error;
        },
      },
    );
    this.#baseBytes = this.slab.usedBytes;
    for (let i = 0; i < program.guests.length; i++) this.stations.push(this.#station(i));
    for (const plan of program.flows) this.#plan(plan);
    // The stack's own choice is unguessable; here it is the program's, to be near the wrap.
    this.stack.tcp.isn = (c) => {
      const run = this.#runOf(c);
      return run === undefined ? this.#random.i32() : (run.plan.hostIsn + 64_000 * run.hosts.length) | 0;
    };
  }

  // --- Stations.

  #station(i: number): Station {
    const plan = this.program.guests[i]!;
    const { mtu, seed } = this.program;
    const random = new SeededRandom(seed * 31 + i);
    const mac = Uint8Array.of(0x02, 0, 0, 0, 1, i);
    const ip = parseV4(`10.0.0.${10 + i}`)!;
    const rules = new FrameRules(mtu, 2 * this.#traceLines);
    const toHost = new FaultyLink(this.program.toHost, this.timeline, random, (frames) =>
      this.#deliver(station, frames),
    );
    const toGuest = new FaultyLink(this.program.toGuest, this.timeline, random, (frames) => guest.receive(frames));
    const send = (frame: Uint8Array): void => toHost.send(frame);
    const name = `vm${i}`;
    const guest: SimGuest =
      plan.kind === 'simple'
        ? new SimplePeer(name, this.timeline, ip, mac, GATEWAY_MAC, mtu, plan.tcp, send)
        : new StackGuest(
            name,
            this.timeline,
            ip,
            mac,
            GATEWAY,
            mtu,
            this.limits,
            random,
            { slowMs: 0, lend: true },
            send,
          );
    const port = this.stack.attach(
      this.#egress(rules, toGuest, () => station),
      { name, mtu, mtuTold: true },
      this.timeline.now,
    );
    const station: Station = { guest, port: port as LinkPort & VmPort, toGuest, toHost, rules, blocked: false };
    this.timeline.in(0, () => guest.start());
    return station;
  }

  /** The link's room: one frame at a time, at an odd offset; refuses while the link is stalled. */
  #egress(rules: FrameRules, link: FaultyLink, station: () => Station): ConstructorParameters<typeof VmPort>[1] {
    const { mem } = this.slab;
    const at = this.#frameBlock + 1;
    const pending: Uint8Array[] = [];
    let reserved = -1;
    const refuse = (until: number): number => {
      const s = station();
      if (!s.blocked) {
        s.blocked = true;
        this.timeline.at(until, () => {
          s.blocked = false;
          s.port.writable(this.timeline.now);
          this.#afterTurn();
        });
      }
      return -1;
    };
    return {
      reserve: (len) => {
        const until = link.stalledUntil();
        if (until > 0) return refuse(until);
        // A write that did not complete at once: what was committed leaves, more must wait a moment.
        if (pending.length >= 64) return refuse(this.timeline.now + 0.05);
        reserved = len;
        mem.fill(0xa5, at + len, at + len + 8);
        return at;
      },
      commit: (off, len) => {
        if (off !== at || len > reserved) fail('frame committed that was not reserved');
        for (let i = reserved; i < reserved + 8; i++)
          if (mem[at + i] !== 0xa5) fail('written behind what was reserved');
        reserved = -1;
        const frame = mem.slice(off, off + len);
        rules.emitted(frame, this.timeline.now);
        pending.push(frame);
      },
      flush: () => {
        for (const frame of pending.splice(0)) link.send(frame);
      },
      close: () => {},
    };
  }

  #deliver(station: Station, frames: Uint8Array[]): void {
    const now = this.timeline.now;
    for (const frame of frames) {
      station.rules.delivered(frame, now);
      const buf = frame.slice();
      station.port.input(buf, 0, buf.length, now);
      // The frame is gone once the call returns: whoever still reads it reads rubbish.
      buf.fill(0xdb);
    }
    station.port.endTurn(now);
    this.#afterTurn();
  }

  #wantTurn(): void {
    if (this.#turnWanted) return;
    this.#turnWanted = true;
    this.timeline.in(0, () => {
      this.#turnWanted = false;
      this.stack.onEndTurn(this.timeline.now);
      this.#afterTurn();
    });
  }

  // --- Flows.

  #plan(plan: FlowPlan): void {
    const pair = new Pair(plan.id, new Stream(this.program.seed * 64 + plan.id), new Stream(-1 - plan.id));
    const run: Run = { plan, pair, hosts: [], guests: [] };
    this.runs.push(run);
    const { guest } = this.stations[plan.guest]!;
    if (plan.opener === 'host') {
      const port = FIRST_PORT + plan.id;
      pair.guestPort = port;
      guest.listen(pair, port, plan.guestIsn, (end) => {
        run.guests.push(end);
        this.#script(end, plan.guestActions);
      });
      this.timeline.in(plan.at, () => this.#connect(run, 0));
      return;
    }
    this.timeline.in(plan.at, () => {
      pair.guestPort = guest.open(pair, 20_000 + plan.id, REMOTE, FIRST_PORT + plan.id, plan.guestIsn);
      run.guests.push(pair.guest!);
      this.#script(pair.guest!, plan.guestActions);
    });
  }

  /** A published port: the flow goes to the guest. Its address may be unknown for a while. */
  #connect(run: Run, tries: number): void {
    const { plan } = run;
    const guest = IpAddress.v4(this.stations[plan.guest]!.guest.ip | 0);
    const flow = this.stack.connect(IpAddress.v4(GATEWAY), guest, FIRST_PORT + plan.id, this.timeline.now);
    if (flow === undefined) {
      if (tries < 20) this.timeline.in(500, () => this.#connect(run, tries + 1));
      return;
    }
    const end = this.#hostEnd(run, flow, true);
    this.#script(end, plan.host);
  }

  #onSyn(flow: TcpFlow): void {
    const run = this.#runOf(flow);
    if (run === undefined) fail(`SYN of ${flow.guest}:${flow.guestPort} that nobody sent`);
    const { dial, host } = run.plan;
    const end = this.#hostEnd(run, flow, false);
    const answer = (): void => {
      if (end.finished) return;
      if (dial.kind === 'refuse') end.refuse(dial.reason);
      else end.accept();
    };
    if (dial.kind === 'hang') return;
    if (dial.afterMs === 0) answer();
    else this.timeline.in(dial.afterMs, answer);
    if (dial.kind === 'accept') this.timeline.in(dial.afterMs, () => this.#script(end, host));
  }

  #hostEnd(run: Run, flow: TcpFlow, answered: boolean): FlowEnd {
    const { plan, pair } = run;
    const options = { slowMs: plan.hostSlowMs, lend: plan.hostLends };
    const label = `flow ${plan.id} host`;
    const end = new FlowEnd(label, pair, pair.toGuest, flow, this.timeline, this.#random, options, answered);
    // An old copy of a SYN may make another; the one that the guest speaks with is the one that was or becomes established.
    const before = pair.host;
    if (before?.established !== true) pair.host = end;
    run.hosts.push(end);
    return end;
  }

  #runOf(flow: { guestPort: number; remotePort: number; guest: IpAddress }): Run | undefined {
    const port = flow.remotePort - FIRST_PORT;
    if (port >= 0 && port < 1000) return this.runs.find((r) => r.plan.opener === 'guest' && r.plan.id === port);
    return this.runs.find((r) => r.plan.opener === 'host' && FIRST_PORT + r.plan.id === flow.guestPort);
  }

  #script(end: SimEnd, actions: readonly Action[]): void {
    for (const { at, op, n } of actions) {
      this.timeline.in(at, () => {
        if (op === 'renege') {
          if (end instanceof SimpleConnection) end.renege();
        } else if (op === 'write' || op === 'read' || op === 'resize') end[op](n);
        else end[op]();
      });
    }
    // The program is over: what is left is read, and nothing more comes.
    const last = actions.at(-1)?.at ?? 0;
    this.timeline.at(Math.max(this.#endAt, this.timeline.now + last + 1), () => {
      end.resume();
      end.resize(300_000);
      end.shutdown();
    });
  }

  // --- Rules.

  #afterTurn(): void {
    for (const s of this.stations) s.rules.endTurn();
    const now = this.timeline.now;
    for (const c of this.stack.tcp.table.all()) {
      const port = this.stations.find((s) => s.guest.ip === c.guest.w3 >>> 0);
      checkConnection(c, this.limits, now, port?.blocked === true);
    }
    if (this.stack.stats.bugs > 0) fail('the stack counts a bug of its own');
  }

  // --- The run.

  /** Runs the program to its end. @throws SimFailure when a rule is broken. */
  run(): void {
    const { timeline } = this;
    const end = this.#endAt;
    this.runUntil(end + FINISH_MS);
    for (const run of this.runs) this.#expectDone(run);
    for (const { hosts, guests } of this.runs) for (const e of [...hosts, ...guests]) e.forsake();
    this.runUntil(end + FINISH_MS + GIVE_UP_MS);
    for (const { hosts } of this.runs) for (const h of hosts) if (!h.finished) h.abort();
    this.runUntil(end + QUIET_MS);
    if (timeline.next < Number.POSITIVE_INFINITY) {
      // Deadlines of the neighbour table and the like may be left; frames may not.
      const before = this.frames;
      this.runUntil(timeline.now + 200_000);
      if (this.frames !== before) fail('frames are still sent after everything ended');
    }
    this.#expectEmpty();
  }

  get frames(): number {
    return this.stations.reduce((n, s) => n + s.rules.frames, 0);
  }

  /** Runs what is due until `at`. */
  runUntil(at: number): void {
    const { timeline } = this;
    while (timeline.next <= at) {
      timeline.step();
      if (timeline.ran > this.maxEvents) fail('too many events: something never becomes quiet');
    }
    timeline.now = Math.max(timeline.now, at);
  }

  /** Every flow has ended as the program says, on both sides. */
  #expectDone(run: Run): void {
    const { plan, pair, hosts, guests } = run;
    const guest = pair.guest;
    const host = hosts.find((h) => h.established) ?? hosts.at(-1);
    if (hosts.filter((h) => h.established).length > 1) fail(`flow ${plan.id}: established twice`);
    if (guests.some((g) => g.outcome === 'vanished') || plan.dial.kind === 'hang') return;
    for (const [e, other] of [
      [guest, host],
      [host, guest],
    ]) {
      if (e === undefined || (e.outcome !== 'open' && e.outcome !== 'opening')) continue;
      // Half-closed, and the other side's reset was lost: nothing will tell it (keepalive is off).
      if (e.shut && other !== undefined && other.outcome !== 'open' && other.outcome !== 'clean') return;
      fail(`${e.label}: ${e.outcome}, ${e.received} bytes read, EOF ${e.sawEof}: does not come to an end`);
    }
    if (guest === undefined || host === undefined) return;
    const aborted = [...guests, ...hosts].some((e) => e.outcome === 'aborted' || e.outcome === 'refused');
    // Whoever ended first, with everything said and acknowledged, may have forgotten the flow when the other resends its FIN.
    const late = guest.outcome === 'reset' && host.outcome === 'clean' && guest.shut;
    const early = host.outcome === 'reset' && guest.outcome === 'clean' && host.shut;
    if (guest.outcome === 'refused' && !guest.established) return;
    if (!aborted && !late && !early && (guest.outcome !== 'clean' || host.outcome !== 'clean')) {
      fail(
        `flow ${plan.id}: guest ${guest.outcome} ${guest.reason}, host ${host.outcome} ${host.reason}; nobody aborted`,
      );
    }
    this.#expectPair(run, guest, host);
  }

  #expectPair(run: Run, guest: SimEnd, host: SimEnd): void {
    const { id } = run.plan;
    for (const [reader, writer] of [
      [guest, host],
      [host, guest],
    ] as const) {
      if (reader.outcome === 'clean' && (!reader.sawEof || reader.received !== writer.written || !writer.shut)) {
        fail(`flow ${id}: ${reader.label} ended cleanly with ${reader.received} of ${writer.written} bytes`);
      }
    }
    // An abort is seen as one, unless both directions were complete before it.
    if (guest.outcome === 'aborted' && host.outcome === 'clean' && !guest.shut) {
      fail(`flow ${id}: the guest's abort reached the host as a clean end`);
    }
    if (host.outcome === 'aborted' && guest.outcome === 'clean' && !host.shut) {
      fail(`flow ${id}: the host's abort reached the guest as a clean end`);
    }
  }

  /** Everything has been given back. */
  #expectEmpty(): void {
    const { tcp } = this.stack;
    if (tcp.table.size > 0) {
      const c = tcp.table.all()[0]!;
      fail(`${tcp.table.size} flows left, the first in state ${c.state}`);
    }
    if (tcp.deadlines.size > 0) fail(`${tcp.deadlines.size} deadlines left`);
    if (tcp.opening !== 0) fail(`${tcp.opening} opens left`);
    if (this.slab.usedBytes !== this.#baseBytes)
      fail(`${this.slab.usedBytes - this.#baseBytes} bytes of memory left in use`);
    if (tcp.windows.promised !== 0) fail(`${tcp.windows.promised} bytes of window left promised`);
    for (const { port, guest } of this.stations) {
      if (port.blocked.size > 0) fail(`${port.blocked.size} connections left waiting for the link`);
      if (port.flows !== 0) fail(`${guest.name} left with ${port.flows} flows`);
      if (guest.live > 0) fail(`${guest.name}: ${guest.live} connections left`);
      if (guest instanceof StackGuest && guest.slab.usedBytes !== guest.baseBytes) {
        fail(`${guest.name}: ${guest.slab.usedBytes - guest.baseBytes} bytes of memory left in use`);
      }
    }
  }

  /** The last frames of every link, for a report. */
  get trace(): string[] {
    return this.stations.flatMap((s) => s.rules.trace.slice(-this.#traceLines));
  }
}

/** Runs a program. @returns what went wrong, with the last frames; undefined if nothing. */
export function runProgram(program: Program, lines = 60): string | undefined {
  let world: World | undefined;
  try {
    world = new World(program, lines);
    world.run();
    return undefined;
  } catch (error) {
    const what = error instanceof SimFailure ? error.message : `${(error as Error).stack}`;
    return [what, ...(world?.trace ?? [])].join('\n    ');
  }
}
