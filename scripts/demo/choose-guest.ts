// Decides which guest the demo can have here: the Linux VM, or, with the reason said, the embedded one.

import { chooseAccel, QEMU } from '../vm/accel.ts';
import { cachedImage, type VmImage, vmImage } from '../vm/image.ts';
import { Machine, qemuVersion } from '../vm/machine.ts';
import { PackagesUnavailable } from '../vm/packages.ts';
import { EmbeddedDriver } from './embedded-driver.ts';
import type { GuestDriver } from './guest-driver.ts';
import { printNote } from './report.ts';
import { VmGuest } from './vm-guest.ts';

const HOST_NAME = 'demo-vm';

/** Starts the chosen guest on a VM socket. */
export interface GuestChoice {
  /** Undefined when it is the VM; else why it cannot be. */
  readonly whyNotVm: string | undefined;
  start(socket: string, mac: string): Promise<{ readonly guest: GuestDriver; readonly machine: Machine | undefined }>;
}

async function imageOrReason(): Promise<VmImage | string> {
  if (qemuVersion() === undefined) return `${QEMU} is not installed and could not be`;
  const cached = cachedImage();
  if (cached === undefined) printNote('VM image', 'making it from Debian packages (about 30 MB)');
  try {
    return await vmImage();
  } catch (error) {
    if (error instanceof PackagesUnavailable) return error.message;
    throw error;
  }
}

/** Looks for QEMU and the image. `wanted` forces one kind. */
export async function chooseGuest(wanted: 'vm' | 'embedded' | undefined): Promise<GuestChoice> {
  const found = wanted === 'embedded' ? 'the embedded guest was asked for' : await imageOrReason();
  if (typeof found === 'string') {
    if (wanted === 'vm') throw new Error(`no VM here: ${found}`);
    return {
      whyNotVm: found,
      async start(socket, mac) {
        return { guest: await EmbeddedDriver.connect(socket, mac, HOST_NAME), machine: undefined };
      },
    };
  }
  printNote('VM image', found.description);
  printNote('accelerator', await chooseAccel(found));
  return {
    whyNotVm: undefined,
    async start(socket, mac) {
      const machine = await Machine.boot({ image: found, socket, mac, name: HOST_NAME });
      return { guest: new VmGuest(machine), machine };
    },
  };
}
