// Decides which guest the demo can have here: the Linux VM, or, with the reason said, the embedded one.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chooseAccel, QEMU } from '../vm/accel.ts';
import { cachedImage, type VmImage, vmImage } from '../vm/image.ts';
import { Machine, qemuVersion } from '../vm/machine.ts';
import { PackagesUnavailable } from '../vm/packages.ts';
import type { GuestDriver } from './guest-driver.ts';
import { printNote } from './report.ts';
import { VmGuest } from './vm-guest.ts';

/** Starts the chosen guest on a VM socket. */
export interface GuestChoice {
  /** Undefined when it is the VM; else why it cannot be. */
  readonly whyNotVm: string | undefined;
  start(socket: string, mac: string): Promise<{ readonly guest: GuestDriver; readonly machine: Machine | undefined }>;
}

/** The module of the embedded guest and what it has to export. */
interface EmbeddedGuestModule {
  connectEmbeddedGuest(socket: string, mac: string): Promise<GuestDriver>;
}

async function startEmbedded(socket: string, mac: string): Promise<GuestDriver> {
  const url = new URL('./embedded-guest.js', import.meta.url);
  if (!existsSync(fileURLToPath(url))) throw new Error('this tree has no embedded guest');
  const module = (await import(url.href)) as EmbeddedGuestModule;
  return module.connectEmbeddedGuest(socket, mac);
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
        return { guest: await startEmbedded(socket, mac), machine: undefined };
      },
    };
  }
  printNote('VM image', found.description);
  printNote('accelerator', await chooseAccel(found));
  return {
    whyNotVm: undefined,
    async start(socket, mac) {
      const machine = await Machine.boot({ image: found, socket, mac, name: 'demo-vm' });
      return { guest: new VmGuest(machine), machine };
    },
  };
}
