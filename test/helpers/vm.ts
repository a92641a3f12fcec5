// A real VM in tests: whether there can be one here, and its start.

import type { Test } from 'tap';
import { cachedImage, type VmImage, vmImage } from '../../scripts/vm/image.ts';
import { Machine, type MachineOptions, qemuVersion } from '../../scripts/vm/machine.ts';
import { PackagesUnavailable } from '../../scripts/vm/packages.ts';
import type { SkipReason } from './requirements.ts';

let image: VmImage | undefined = cachedImage();

/** Makes the image if need be. False, or why there can be no VM here. */
export async function needsVm(): Promise<SkipReason> {
  if (qemuVersion() === undefined) return 'needs qemu-system-x86_64 7.2 or newer, which is not installed';
  if (image !== undefined) return false;
  try {
    image = await vmImage();
    return false;
  } catch (error) {
    if (error instanceof PackagesUnavailable) return `needs a VM image: ${error.message}`;
    throw error;
  }
}

/** Boots a VM that ends with the test; `needsVm` has said that it can be. */
export async function bootVm(test: Test, options: Omit<MachineOptions, 'image'>): Promise<Machine> {
  if (image === undefined) throw new Error('needsVm() was not asked first');
  const machine = await Machine.boot({ ...options, image });
  test.teardown(() => machine.stop());
  return machine;
}
