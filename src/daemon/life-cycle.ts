// The daemon's life: start in the right order, tell that it is ready, wait for signals, end within a second with nothing left
// behind. It knows of the network only what network-api says.
//
// The order of the start: descriptor and pid file are checked, then the VM's socket and the control socket listen, then readiness
// is told; pino, hono and prom-client are loaded after that, as the VM's socket is to be ready within 100 ms.

import type { CompatServers } from '../control/compat-servers.ts';
import type { ApiSource, HealthAnswer } from '../control/resources.ts';
import type { ControlServer } from '../control/server.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { releaseSocketFiles } from '../host/socket-file.ts';
import type { Config, LoadedConfig } from './config.ts';
import { type Log, LogRoot } from './log.ts';
import type { LoadNetwork, NetworkService, ReadyInfo } from './network-api.ts';
import { PidFile } from './pid-file.ts';
import { checkReadyFd, type ReadyLine, SystemdNotifier, tellReadyFd } from './readiness.ts';
import type { StatsSource } from './stats-source.ts';
import { formatEndpoint } from './value-grammar.ts';

/** What the life cycle is given by the command. */
export interface DaemonDeps {
  /** Called once the cheap checks have passed. */
  readonly loadNetwork: LoadNetwork;
  /** Called once everything that is loaded after readiness is there. */
  readonly onStarted?: () => void;
  readonly version: string;
}

/** The daemon ends within a second: the network is asked to be done in this time, */
const NETWORK_STOP_MS = 700;
/** and after this it ends without waiting any longer. */
const HARD_STOP_MS = 900;
/** How long the last lines of the log may take to a slow reader. */
const DRAIN_MS = 50;

/** Runs the daemon until it is told to end. @returns the exit code. @throws OperatorError when it cannot start. */
export function runDaemon(loaded: LoadedConfig, deps: DaemonDeps): Promise<number> {
  return new Daemon(loaded, deps).run();
}

class Daemon {
  readonly #config: Config;
  readonly #entries: LoadedConfig['entries'];
  readonly #warnings: readonly string[];
  readonly #deps: DaemonDeps;
  readonly #root: LogRoot;
  readonly #log: Log;
  readonly #pidFile: PidFile | undefined;
  /** Made only where --control or --metrics asks for it. */
  #control: ControlServer | undefined;
  readonly #notifier: SystemdNotifier;
  #network: NetworkService | undefined;
  #started: Promise<ReadyLine> | undefined;
  #stopping = false;
  #reloading = false;
  #reloads = 0;
  #metrics: Promise<{ contentType: string; metrics(): Promise<string> }> | undefined;
  #api: Promise<ApiSource | undefined> | undefined;
  #networkUp: Promise<ReadyInfo> | undefined;
  #apis: CompatServers | undefined;
  #finish: (code: number) => void = () => {};

  constructor(loaded: LoadedConfig, deps: DaemonDeps) {
    this.#config = loaded.config;
    this.#entries = loaded.entries;
    this.#warnings = loaded.warnings;
    this.#deps = deps;
    this.#root = new LogRoot(this.#config.logLevel, process.stderr);
    this.#log = this.#root.log;
    this.#pidFile = this.#config.pidFile === undefined ? undefined : new PidFile(this.#config.pidFile);
    this.#notifier = new SystemdNotifier(this.#log, process.env);
  }

  async run(): Promise<number> {
    const ended = new Promise<number>((resolve) => {
      this.#finish = resolve;
    });
    process.on('uncaughtException', this.#crash);
    process.on('exit', this.#release);
    process.on('SIGTERM', this.#onEndSignal);
    process.on('SIGINT', this.#onEndSignal);
    process.on('SIGHUP', this.#onReloadSignal);
    try {
      this.#started = this.#start();
      const ready = await this.#started;
      if (!this.#stopping) this.#tellReady(ready);
    } catch (error) {
      await this.#abandonStart();
      throw error;
    }
    // It lives until it is told to end, even if nothing in it waits for anything.
    const alive = setInterval(() => {}, 0x7fffffff);
    const code = await ended;
    clearInterval(alive);
    await this.#drainLog();
    return code;
  }

  async #start(): Promise<ReadyLine> {
    const { readyFd } = this.#config;
    for (const warning of this.#warnings) this.#log.warn({ event: 'config.warning' }, warning);
    if (readyFd !== undefined) checkReadyFd(readyFd);
    this.#pidFile?.check();
    const createNetwork = await this.#deps.loadNetwork(this.#config);
    const network = createNetwork(this.#config, this.#log);
    this.#network = network;
    // Both settle before a failure is told: what has begun to listen by then is known, and is closed again.
    this.#networkUp = network.start();
    const [ready, control] = await Promise.allSettled([this.#networkUp, this.#startControl()]);
    if (ready.status === 'rejected') throw ready.reason;
    if (control.status === 'rejected') throw control.reason;
    if (this.#config.apis.length > 0) await this.#startApis();
    this.#pidFile?.write();
    return {
      event: 'ready',
      pid: process.pid,
      version: this.#deps.version,
      ...ready.value,
      control: this.#config.control ?? null,
      ...control.value,
      apis: this.#config.apis.map(({ protocol, path }) => ({ protocol, path })),
    };
  }

  /** @returns `ADDRESS:PORT` of the TCP ports, or null. */
  async #startControl(): Promise<{ controlTcp: string | null; metrics: string | null }> {
    const { control, controlTcp, metrics } = this.#config;
    const bound: { controlTcp: string | null; metrics: string | null } = { controlTcp: null, metrics: null };
    if (control === undefined && controlTcp === undefined && metrics === undefined) return bound;
    const { ControlServer } = await import('../control/server.ts');
    const source = {
      health: () => this.#health(),
      metrics: () => this.#metricsText(),
      api: () => this.#loadApi(),
    };
    this.#control = new ControlServer(source, this.#log.child({ part: 'control' }));
    if (control !== undefined) await this.#control.listenOnSocket(control);
    if (controlTcp !== undefined) {
      const { Token } = await import('../control/token.ts');
      const { address, port } = controlTcp.at;
      const chosen = await this.#control.listenOnLoopback(address.toString(), port, new Token(controlTcp.token));
      bound.controlTcp = formatEndpoint(address, chosen);
    }
    if (metrics !== undefined) {
      const port = await this.#control.listenOnLoopback(metrics.address.toString(), metrics.port);
      bound.metrics = formatEndpoint(metrics.address, port);
    }
    return bound;
  }

  /** The sockets of --api. */
  async #startApis(): Promise<void> {
    const { CompatServers } = await import('../control/compat-servers.ts');
    const api = await this.#loadApi();
    if (api === undefined) return;
    this.#apis = new CompatServers(api, this.#log.child({ part: 'api' }));
    for (const { protocol, path } of this.#config.apis) await this.#apis.listen(protocol, path);
  }

  /** The network as the control API sees it. */
  #loadApi(): Promise<ApiSource | undefined> {
    this.#api ??= this.#makeApi();
    return this.#api;
  }

  async #makeApi(): Promise<ApiSource | undefined> {
    // Whoever asks early waits until what was stored is back.
    await this.#networkUp?.catch(ignore);
    const { configValues } = await import('./config-print.ts');
    return this.#network?.control?.({
      version: this.#deps.version,
      config: () => configValues(this.#entries),
      stats: () => this.#ownStats(),
      drain: (timeoutMs) => {
        const drained = this.#network?.drain?.(timeoutMs) ?? Promise.resolve();
        drained.then(() => this.#stop('drained'), this.#crash);
      },
      shutdown: () => this.#stop('the control API'),
    });
  }

  #tellReady(ready: ReadyLine): void {
    const { vm, readyFd } = this.#config;
    const line = `${JSON.stringify(ready)}\n`;
    // With a VM on stdio, standard output carries its frames.
    const stream = vm.some((link) => link.transport.kind === 'stdio') ? process.stderr : process.stdout;
    stream.on('error', ignore);
    stream.write(line);
    if (readyFd !== undefined) tellReadyFd(readyFd, line, this.#log);
    this.#notifier
      .ready(`${ready.vm.length} VM links, ${ready.publish.length} published ports`)
      .catch((err: unknown) => this.#crash(err));
    // Not performance.now: that loads a module of its own, and this counts from the start of the process.
    const afterMs = Math.round(process.uptime() * 1000);
    // pino adds the pid itself.
    const { pid: _pid, ...fields } = ready;
    this.#log.info({ ...fields, event: 'daemon.ready', afterMs }, 'ready');
    this.#network?.finished?.then(
      () => this.#stop('the last link has ended'),
      (err: unknown) => this.#crash(err),
    );
    this.#loadTheRest().catch(this.#crash);
  }

  /** What nothing before readiness needs; now, so that later nothing depends on files that an upgrade may replace. */
  async #loadTheRest(): Promise<void> {
    await this.#root.load();
    if (this.#control !== undefined) {
      await Promise.all([this.#control.preload(), this.#loadMetrics()]).catch((err: unknown) => {
        this.#log.error({ event: 'control.load.failed', err }, 'the control API could not be loaded');
      });
    }
    this.#deps.onStarted?.();
  }

  readonly #onEndSignal = (signal: NodeJS.Signals): void => {
    if (this.#stopping) {
      // Asked twice: at once, whatever is still open.
      this.#root.flushEarly();
      process.exit(ExitCode.Unexpected);
    }
    this.#stop(signal);
  };

  readonly #onReloadSignal = (): void => {
    const network = this.#network;
    if (network === undefined || this.#stopping || this.#reloading) return;
    this.#reloading = true;
    network
      .reload()
      .then(
        () => {
          this.#reloads++;
          this.#log.info({ event: 'daemon.reloaded' }, 'resolver configuration and hosts files read again');
        },
        (err: unknown) =>
          this.#log.error({ event: 'daemon.reload.failed', err }, 'reload failed; the former state stays'),
      )
      .finally(() => {
        this.#reloading = false;
      });
  };

  #stop(reason: string): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#log.info({ event: 'daemon.stopping', reason }, 'stopping');
    const hard = setTimeout(() => {
      this.#log.warn({ event: 'daemon.stop.late' }, 'not everything was closed in time');
      this.#finish(ExitCode.Ok);
    }, HARD_STOP_MS);
    this.#shutDown()
      .then(
        () => {
          this.#log.info({ event: 'daemon.stopped' }, 'stopped');
          this.#finish(ExitCode.Ok);
        },
        (err: unknown) => {
          this.#log.error({ event: 'daemon.stop.failed', err }, 'stopping failed');
          this.#finish(ExitCode.Unexpected);
        },
      )
      .finally(() => clearTimeout(hard))
      .catch(this.#crash);
  }

  async #shutDown(): Promise<void> {
    // A start in progress is waited for: what it has opened must be closed. Its failure is told by run().
    await this.#started?.catch(ignore);
    try {
      await Promise.all([this.#notifier.stopping(), this.#network?.stop(NETWORK_STOP_MS)]);
    } finally {
      this.#control?.stop();
      this.#apis?.stop();
      this.#release();
    }
  }

  async #abandonStart(): Promise<void> {
    this.#control?.stop();
    this.#apis?.stop();
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, NETWORK_STOP_MS);
    });
    // The start's own error is what matters; a second one from closing would only hide it.
    await Promise.race([this.#network?.stop(NETWORK_STOP_MS).catch(ignore), limit]);
    clearTimeout(timer);
    this.#release();
    // One line tells a failed start; with --log-level debug everything that led to it.
    if (this.#root.isLevelEnabled('debug')) this.#root.flushEarly();
  }

  /** A mistake of ours that nobody caught: one line, nothing left behind, exit 1. */
  readonly #crash = (error: unknown): never => {
    const err = error instanceof Error ? error : new Error(String(error));
    try {
      this.#log.fatal({ event: 'daemon.crashed', err }, `unexpected error: ${err.message}`);
      this.#root.flushEarly();
    } finally {
      this.#release();
      process.exit(ExitCode.Unexpected);
    }
  };

  readonly #release = (): void => {
    releaseSocketFiles();
    this.#pidFile?.release();
  };

  async #drainLog(): Promise<void> {
    this.#root.flushEarly();
    if (process.stderr.writableLength === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, DRAIN_MS);
      process.stderr.write('', () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #health(): HealthAnswer {
    const health = this.#stopping
      ? { status: 'stopping' as const }
      : (this.#network?.health() ?? { status: 'ok' as const });
    return { ...health, pid: process.pid, uptimeSeconds: Math.round(process.uptime()) };
  }

  async #metricsText(): Promise<{ contentType: string; text: string }> {
    const registry = await this.#loadMetrics();
    return { contentType: registry.contentType, text: await registry.metrics() };
  }

  #loadMetrics(): Promise<{ contentType: string; metrics(): Promise<string> }> {
    this.#metrics ??= import('./metrics.ts').then(({ createMetrics }) => {
      const sources = [this.#ownStats()];
      if (this.#network !== undefined) sources.push(this.#network.stats());
      return createMetrics(sources);
    });
    return this.#metrics;
  }

  #ownStats(): StatsSource {
    const labels = { version: this.#deps.version, node: process.versions.node };
    return {
      metrics: [
        {
          name: 'isthmus_build_info',
          help: 'Always 1; the labels name the versions.',
          type: 'gauge',
          labels: ['version', 'node'],
          read: () => [{ labels, value: 1 }],
        },
        {
          name: 'isthmus_log_dropped_lines_total',
          help: 'Log lines lost because standard error was not read.',
          type: 'counter',
          read: () => this.#root.dropped,
        },
        {
          name: 'isthmus_control_connections',
          help: 'Connections to the control API and the port of metrics now.',
          type: 'gauge',
          read: () => this.#control?.counts().connections ?? 0,
        },
        {
          name: 'isthmus_control_evicted_total',
          help: 'Idle control connections closed because others wanted their place.',
          type: 'counter',
          read: () => this.#control?.counts().evicted ?? 0,
        },
        {
          name: 'isthmus_control_refused_total',
          help: 'Control connections closed at once because all others were at work.',
          type: 'counter',
          read: () => this.#control?.counts().refused ?? 0,
        },
        {
          name: 'isthmus_daemon_reloads_total',
          help: 'Reloads asked for by SIGHUP and done.',
          type: 'counter',
          read: () => this.#reloads,
        },
      ],
    };
  }
}

function ignore(): void {}

/** The line that ends a command which could not do its work. */
export function errorLine(error: unknown): { readonly line: string; readonly exitCode: number } {
  if (error instanceof OperatorError) return { line: `isthmus: ${error.message}\n`, exitCode: error.exitCode };
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { line: `isthmus: unexpected error: ${text.replace(/\s*\n\s*/g, ' ')}\n`, exitCode: ExitCode.Unexpected };
}
