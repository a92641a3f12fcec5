// What the life cycle asks of the network, and all that it knows of it: start, stop, look, reload. Types only.

import type { ApiSource } from '../control/resources.ts';
import type { Forwards } from '../forwarder/forwards.ts';
import type { Config } from './config.ts';
import type { DaemonControl } from './control-source.ts';
import type { Log } from './log.ts';
import type { StatsSource } from './stats-source.ts';

/** A VM link that is up. */
export interface ReadyVm {
  /** The `--vm` value. */
  readonly url: string;
  /** Where VMs connect, or null for a connected descriptor or stdio. */
  readonly path: string | null;
  /** Largest IP packet of this link in bytes. */
  readonly mtu: number;
}

/** A published port that listens. */
export interface ReadyPort {
  readonly protocol: 'tcp' | 'udp';
  /** `ADDRESS:PORT` on the host with the port that was really bound, IPv6 in brackets. */
  readonly host: string;
  /** `ADDRESS:PORT` of the guest; the address is empty (`:80`) for "the only VM". */
  readonly guest: string;
}

/** What listens once the network is up; part of the readiness line. */
export interface ReadyInfo {
  /** Of the VMs, `192.168.65.0/24`: with `--network auto` the one that was chosen. */
  readonly network: string;
  readonly gateway: string;
  readonly vm: readonly ReadyVm[];
  readonly publish: readonly ReadyPort[];
}

/** State for `/healthz`: `ok`, or `degraded` or `draining` with one line that says what does not work, or what is waited for. */
export interface Health {
  readonly status: 'ok' | 'degraded' | 'draining' | 'stopping';
  readonly reason?: string;
  /** What is amiss on the host and does not stop the daemon, one line each; absent when nothing is. */
  readonly warnings?: readonly string[];
}

/** What may be asked and said of isolation while the daemon runs. */
export interface IsolationControl {
  /** @param vm number of a VM's connection, or a MAC. @returns false if there is no such connection. */
  setIsolated(vm: number | string, isolated: boolean): boolean;
  /** @returns undefined if there is no such connection. */
  isIsolated(vmId: number): boolean | undefined;
}

/** The running network: links, stack, services and forwarders, wired. */
export interface NetworkService {
  /**
   * Resolves when every socket listens.
   * @throws OperatorError for what the operator can put right; then everything it had opened is closed again.
   */
  start(): Promise<ReadyInfo>;
  /** Resets every flow, closes every socket, writes what must be kept. Done within `deadlineMs`; also right after a failed start. */
  stop(deadlineMs: number): Promise<void>;
  stats(): StatsSource;
  /** What the control API reads and does; loaded when it is asked for. */
  control?(daemon: DaemonControl): Promise<ApiSource>;
  /** Takes no new flows, clients or VMs. Resolves when no TCP flow is left, or after `timeoutMs`. */
  drain?(timeoutMs: number): Promise<void>;
  /** Which VMs reach no other VM. */
  readonly isolation: IsolationControl;
  /** The table of forwards, complete once `start` has resolved. */
  readonly forwards: Forwards;
  health(): Health;
  /** Reads the resolver configuration and hosts files again (SIGHUP). */
  reload(): Promise<void>;
  /**
   * Resolves when no VM can ever connect again: every link was a connected descriptor or stdio, and has ended. The daemon then
   * stops with exit code 0. Absent or pending for as long as anything listens.
   */
  readonly finished?: Promise<void>;
}

/** The one export that the life cycle wants of `network.ts`. */
export type CreateNetwork = (config: Config, log: Log) => NetworkService;

/** Loads the network, and makes the VMs' sockets listen before that. @throws OperatorError */
export type LoadNetwork = (config: Config) => Promise<CreateNetwork>;
