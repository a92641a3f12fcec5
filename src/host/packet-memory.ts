// The one packet memory: a WebAssembly.Memory of fixed size, so that a SIMD kernel can work on it in place, and its slab.
// It owns creation only; blocks are handed out by base/slab. Pages become resident when touched and are never given back.

import { type PacketKernel, PlainKernel } from '../base/packet-kernel.ts';
import { PACKET_KERNEL } from '../base/packet-kernel-wasm.ts';
import { SLAB_MIN_BLOCK, Slab } from '../base/slab.ts';
import { ExitCode } from './exit-code.ts';
import { OperatorError } from './operator-error.ts';

const WASM_PAGE_BYTES = 65_536;

/** Smallest and largest memory that can be configured; offsets stay small integers. */
export const PACKET_MEMORY_MIN_BYTES: number = 1024 * 1024;
export const PACKET_MEMORY_MAX_BYTES: number = 1024 * 1024 * 1024;

/** What is used of `WebAssembly.Memory` (the type library without DOM does not declare it). */
export interface WasmMemory {
  readonly buffer: ArrayBuffer;
}

declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => WasmMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => { readonly exports: PacketKernel };
};

/** The memory, a byte view of all of it, and its allocator. */
export interface PacketMemory {
  readonly memory: WasmMemory;
  /** A Buffer, so that sockets read into it and write from it without wrapping. */
  readonly mem: Buffer<ArrayBuffer>;
  readonly slab: Slab;
  /** The packet kernel over this memory: WebAssembly, or the plain one where this engine has no SIMD. */
  readonly kernel: PacketKernel;
}

/**
 * Makes the packet memory. It never grows: when it is full, windows close.
 * @param bytes a power of two from 1 MiB to 1 GiB.
 * @throws OperatorError ERR_PACKET_MEMORY for another size, or when the system refuses the address space.
 */
export function createPacketMemory(bytes: number): PacketMemory {
  const whole = Number.isInteger(Math.log2(bytes)) && bytes % SLAB_MIN_BLOCK === 0;
  if (!whole || bytes < PACKET_MEMORY_MIN_BYTES || bytes > PACKET_MEMORY_MAX_BYTES) {
    throw new OperatorError(`packet memory: ${bytes} bytes; it must be a power of two from 1 MiB to 1 GiB`, {
      code: 'ERR_PACKET_MEMORY',
      exitCode: ExitCode.Config,
    });
  }
  const pages = bytes / WASM_PAGE_BYTES;
  let memory: WasmMemory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new OperatorError(`packet memory: the system refused ${bytes} bytes (${why}); ask for less`, {
      code: 'ERR_PACKET_MEMORY',
      exitCode: ExitCode.Unavailable,
      cause: error,
    });
  }
  const mem = Buffer.from(memory.buffer);
  return { memory, mem, slab: new Slab(mem), kernel: loadKernel(memory) ?? new PlainKernel(mem) };
}

function loadKernel(memory: WasmMemory): PacketKernel | undefined {
  try {
    return new WebAssembly.Instance(new WebAssembly.Module(PACKET_KERNEL), { env: { memory } }).exports;
  } catch {
    return undefined;
  }
}
