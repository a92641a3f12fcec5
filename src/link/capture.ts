// The tap for `--pcap`: wraps what the stack offers to links and what links offer to the stack, so that every frame of every VM
// passes it in both directions, one by one, and nothing at all is in the way when no capture runs. The file is capture-file's.

import type { Millis } from '../base/clock.ts';
import type { Egress, LinkHost, LinkInfo, LinkPort } from '../stack/ports.ts';
import type { CaptureFile, CaptureInterface } from './capture-file.ts';
import { Direction } from './pcapng.ts';

/** A `LinkHost` that takes down all frames on their way to and from another. */
export class CaptureHost implements LinkHost {
  readonly #inner: LinkHost;
  readonly #file: CaptureFile;
  readonly #mem: Uint8Array;

  /** @param mem the packet memory, in which frames to the guest are made. */
  constructor(inner: LinkHost, file: CaptureFile, mem: Uint8Array) {
    this.#inner = inner;
    this.#file = file;
    this.#mem = mem;
  }

  attach(egress: Egress, info: LinkInfo, now: Millis): LinkPort {
    const tap = this.#file.addInterface(info.name);
    const port = this.#inner.attach(new CaptureEgress(egress, this.#file, tap, this.#mem), info, now);
    return new CapturePort(port, this.#file, tap);
  }
}

class CaptureEgress implements Egress {
  readonly #inner: Egress;
  readonly #file: CaptureFile;
  readonly #tap: CaptureInterface;
  readonly #mem: Uint8Array;
  runOffset = 0;
  runStride = 0;

  constructor(inner: Egress, file: CaptureFile, tap: CaptureInterface, mem: Uint8Array) {
    this.#inner = inner;
    this.#file = file;
    this.#tap = tap;
    this.#mem = mem;
  }

  reserve(len: number, bulk?: boolean): number {
    return this.#inner.reserve(len, bulk);
  }

  commit(off: number, len: number): void {
    this.#file.add(this.#tap, Direction.Outbound, this.#mem, off, len);
    this.#inner.commit(off, len);
  }

  reserveRun(len: number, count: number): number {
    const inner = this.#inner;
    const n = inner.reserveRun?.(len, count) ?? 0;
    this.runOffset = inner.runOffset ?? 0;
    this.runStride = inner.runStride ?? 0;
    return n;
  }

  commitRun(off: number, len: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#file.add(this.#tap, Direction.Outbound, this.#mem, off + i * this.runStride, len);
    }
    this.#inner.commitRun?.(off, len, count);
  }

  flush(): void {
    this.#inner.flush();
  }

  close(reason: string): void {
    this.#inner.close(reason);
  }
}

class CapturePort implements LinkPort {
  readonly id: number;
  readonly #inner: LinkPort;
  readonly #file: CaptureFile;
  readonly #tap: CaptureInterface;

  constructor(inner: LinkPort, file: CaptureFile, tap: CaptureInterface) {
    this.id = inner.id;
    this.#inner = inner;
    this.#file = file;
    this.#tap = tap;
  }

  input(buf: Uint8Array, off: number, len: number, now: Millis): void {
    this.#file.add(this.#tap, Direction.Inbound, buf, off, len);
    this.#inner.input(buf, off, len, now);
  }

  endTurn(now: Millis): void {
    this.#inner.endTurn(now);
  }

  writable(now: Millis): void {
    this.#inner.writable(now);
  }

  close(now: Millis): void {
    this.#inner.close(now);
    this.#file.endInterface(this.#tap);
  }
}
