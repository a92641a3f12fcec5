// Makes the test VM's kernel and initramfs from Debian packages: the cloud kernel, busybox and bash (for its /dev/udp and
// /dev/tcp). Cached under `.cache/vm`, in a folder named by the versions; needs apt and dpkg but no root.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { cacheFolder, projectRoot } from '../project.ts';
import { type CpioEntry, cpioArchive, cpioDevice, cpioFile, cpioFolder, cpioLink } from './cpio.ts';
import { aptOptions, dependencyOf, downloadPackages, PackagesUnavailable, unpackMembers } from './packages.ts';

/** A bootable pair of files. */
export interface VmImage {
  readonly kernel: string;
  readonly initrd: string;
  /** Package versions, for people. */
  readonly description: string;
}

/** Modules in the order in which they have to be loaded. */
const MODULES = [
  'virtio_ring',
  'virtio',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'failover',
  'net_failover',
  'virtio_net',
] as const;

const GUEST_FILES = ['init', 'agent', 'udhcpc.script', 'bashrc'] as const;

function guestFile(name: string): Buffer {
  return readFileSync(join(projectRoot, 'scripts/vm/guest', name));
}

/** Changes whenever what we put into the image changes. */
function recipe(): string {
  const hash = createHash('sha256').update(`2 ${MODULES.join()}`);
  for (const name of GUEST_FILES) hash.update(guestFile(name));
  return hash.digest('hex').slice(0, 12);
}

function imageIn(folder: string): VmImage | undefined {
  const image = { kernel: join(folder, 'vmlinuz'), initrd: join(folder, 'initrd.gz') };
  if (!existsSync(image.kernel) || !existsSync(image.initrd)) return undefined;
  return {
    ...image,
    description: basename(folder)
      .replace(/_[0-9a-f]{12}$/, '')
      .replaceAll('_', ' '),
  };
}

function modulesOf(folder: string): CpioEntry[] {
  const found = new Map<string, string>();
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const name = /([^/]+)\.ko(\.xz|\.zst)?$/.exec(file)?.[1];
    if (name !== undefined) found.set(name, join(folder, file));
  }
  const entries: CpioEntry[] = [];
  const order: string[] = [];
  for (const name of MODULES) {
    const file = found.get(name);
    // A module that is not there is built into the kernel (or, virtio_pci_*_dev, part of another one in older kernels).
    if (file === undefined) continue;
    let data: Buffer = readFileSync(file);
    if (file.endsWith('.xz')) data = execFileSync('xz', ['-dc'], { input: data, maxBuffer: 1 << 26 });
    if (file.endsWith('.zst')) data = execFileSync('zstd', ['-dc'], { input: data, maxBuffer: 1 << 26 });
    entries.push(cpioFile(`lib/modules/${name}.ko`, data));
    order.push(`${name}.ko`);
  }
  entries.push(cpioFile('lib/modules/order', Buffer.from(`${order.join('\n')}\n`)));
  return entries;
}

function initramfs(unpacked: string): Buffer {
  const busybox = ['bin/busybox', 'usr/bin/busybox'].map((p) => join(unpacked, p)).find(existsSync);
  const bash = ['bin/bash-static', 'usr/bin/bash-static'].map((p) => join(unpacked, p)).find(existsSync);
  if (busybox === undefined || bash === undefined)
    throw new PackagesUnavailable('the packages hold no busybox or no bash');
  const folders = 'bin sbin dev proc sys run tmp root etc lib lib/modules etc/udhcpc www'.split(' ');
  return cpioArchive([
    ...folders.map(cpioFolder),
    cpioDevice('dev/console', 5, 1),
    cpioFile('bin/busybox', readFileSync(busybox), 0o755),
    cpioFile('bin/bash', readFileSync(bash), 0o755),
    cpioLink('bin/sh', 'busybox'),
    cpioFile('init', guestFile('init'), 0o755),
    cpioFile('sbin/agent', guestFile('agent'), 0o755),
    cpioFile('etc/udhcpc/default.script', guestFile('udhcpc.script'), 0o755),
    cpioFile('etc/bashrc', guestFile('bashrc')),
    cpioFile('etc/passwd', Buffer.from('root:x:0:0:root:/root:/bin/bash\n')),
    cpioFile('etc/group', Buffer.from('root:x:0:\n')),
    ...modulesOf(join(unpacked, 'lib/modules')),
  ]);
}

/** The cached image, if there is one of the present recipe. */
export function cachedImage(): VmImage | undefined {
  const cache = cacheFolder('vm');
  const suffix = `_${recipe()}`;
  for (const name of readdirSync(cache).sort().reverse()) {
    const image = name.endsWith(suffix) ? imageIn(join(cache, name)) : undefined;
    if (image !== undefined) return image;
  }
  return undefined;
}

/** The image: cached, or made now (some 30 MB of downloads). Throws PackagesUnavailable with the reason. */
export async function vmImage(): Promise<VmImage> {
  if (process.arch !== 'x64') throw new PackagesUnavailable(`there is no VM image for ${process.arch} hosts`);
  const cached = cachedImage();
  if (cached !== undefined) return cached;

  const cache = cacheFolder('vm');
  const scratch = join(cache, `new-${process.pid}`);
  try {
    const options = await aptOptions('linux-image-cloud-amd64');
    const kernelPackage = await dependencyOf('linux-image-cloud-amd64', /^linux-image-\d.*-cloud-amd64$/, options);
    const names = [kernelPackage, 'busybox-static', 'bash-static'];
    const debs = await downloadPackages(names, join(scratch, 'debs'), options);
    const unpacked = join(scratch, 'unpacked');
    const modules = MODULES.map((name) => `*/${name}.ko*`);
    await Promise.all([
      unpackMembers(debs[0]!, ['./boot/vmlinuz-*', ...modules], unpacked).catch(async () => {
        // One pattern without a match (a module built in) makes tar fail after unpacking the others.
        await unpackMembers(debs[0]!, ['./boot/vmlinuz-*'], unpacked);
      }),
      unpackMembers(debs[1]!, ['*bin/busybox'], unpacked),
      unpackMembers(debs[2]!, ['*bin/bash-static'], unpacked),
    ]);
    const kernel = readdirSync(join(unpacked, 'boot')).find((name) => name.startsWith('vmlinuz-'));
    if (kernel === undefined) throw new PackagesUnavailable(`${kernelPackage} holds no kernel`);

    const ready = join(scratch, 'ready');
    mkdirSync(ready);
    copyFileSync(join(unpacked, 'boot', kernel), join(ready, 'vmlinuz'));
    writeFileSync(join(ready, 'initrd.gz'), gzipSync(initramfs(unpacked), { level: 6 }));
    const versions = debs.map((deb) => basename(deb).split('_').slice(0, 2).join('-').replaceAll('%3a', ':'));
    const home = join(cache, `${versions.join('_')}_${recipe()}`);
    rmSync(home, { recursive: true, force: true });
    renameSync(ready, home);
    return imageIn(home)!;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
