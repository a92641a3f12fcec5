// Chooses QEMU's accelerator: KVM where a VM really runs under it, TCG elsewhere. A /dev/kvm that opens proves nothing (nested
// virtualisation may hang), so a VM is booted up to its first process, within a time limit, once per boot of the host.

import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../project.ts';
import type { VmImage } from './image.ts';

/** QEMU's name for the way it runs the guest's instructions. */
export type Accel = 'kvm' | 'tcg';

/** The QEMU program. */
export const QEMU = 'qemu-system-x86_64';

const PROBE_LIMIT_MS = 6000;

function bootsUnderKvm(image: VmImage): Promise<boolean> {
  return new Promise((resolve) => {
    const args = ['-accel', 'kvm', '-m', '128', '-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'stdio'];
    const boot = [
      '-kernel',
      image.kernel,
      '-initrd',
      image.initrd,
      '-append',
      'console=ttyS0 quiet panic=-1 isthmus.probe',
    ];
    const child = spawn(QEMU, [...args, ...boot], { stdio: ['ignore', 'pipe', 'ignore'] });
    let text = '';
    let settled = false;
    const settle = (works: boolean): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      child.kill('SIGKILL');
      // A process stuck in the kernel may outlive its signal; it must not keep this one alive.
      child.unref();
      child.stdout.destroy();
      resolve(works);
    };
    const timer = setTimeout(() => settle(false), PROBE_LIMIT_MS);
    child.on('error', () => settle(false));
    child.on('exit', () => settle(text.includes('isthmus-probe-ok')));
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (text.includes('isthmus-probe-ok')) settle(true);
    });
  });
}

/** The accelerator to use for this image on this host; `ISTHMUS_VM_ACCEL` decides without a probe. */
export async function chooseAccel(image: VmImage): Promise<Accel> {
  const wanted = process.env.ISTHMUS_VM_ACCEL;
  if (wanted === 'kvm' || wanted === 'tcg') return wanted;
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const note = join(cacheFolder('vm'), 'accel.json');
  if (existsSync(note)) {
    const known = JSON.parse(readFileSync(note, 'utf8')) as { bootId: string; accel: Accel };
    if (known.bootId === bootId) return known.accel;
  }
  const accel: Accel = (await bootsUnderKvm(image)) ? 'kvm' : 'tcg';
  writeFileSync(note, JSON.stringify({ bootId, accel }));
  return accel;
}
