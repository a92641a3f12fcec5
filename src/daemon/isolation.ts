// Which VMs reach no other VM: by `--isolate`, and as the control API says while the daemon runs. What is said of one VM goes before what is said of
// a MAC, that before what is said of a link. The stack acts on it (`VmPort.isolated`).

import type { VmPort } from '../stack/vm-port.ts';
import type { IsolateRule } from './bind-grammar.ts';

interface Known {
  readonly port: VmPort;
  /** MACs that it was heard with, as text. */
  readonly macs: Set<string>;
  /** What was said of this very connection. */
  own: boolean | undefined;
}

/** MACs that one VM is remembered by. The switch knows 64 at a time, and forgets. Those that a rule names stay. */
const MACS_MAX = 1024;

export class Isolation {
  readonly #links: readonly string[];
  readonly #all: boolean;
  readonly #byMac = new Map<string, boolean>();
  readonly #vms = new Map<number, Known>();

  constructor(rules: readonly IsolateRule[]) {
    this.#all = rules.some((rule) => rule.kind === 'all');
    this.#links = rules.flatMap((rule) => (rule.kind === 'link' ? [rule.text] : []));
    for (const rule of rules) if (rule.kind === 'mac') this.#byMac.set(rule.text, true);
  }

  /**
   * Cuts a VM off from the others, or joins it again, from the next frame on.
   * @param vm the number of its connection (forgotten when that ends), or a MAC in lower case with colons, for whoever has it now and later.
   * @returns false if there is no such connection.
   */
  setIsolated(vm: number | string, isolated: boolean): boolean {
    if (typeof vm === 'string') {
      this.#byMac.set(vm, isolated);
      for (const known of this.#vms.values()) if (known.macs.has(vm)) this.#apply(known);
      return true;
    }
    const known = this.#vms.get(vm);
    if (known === undefined) return false;
    known.own = isolated;
    this.#apply(known);
    return true;
  }

  /** @returns undefined if there is no such connection. */
  isIsolated(vmId: number): boolean | undefined {
    return this.#vms.get(vmId)?.port.isolated;
  }

  // --- The stack's.

  onVmConnected(port: VmPort): void {
    const known: Known = { port, macs: new Set(), own: undefined };
    this.#vms.set(port.id, known);
    const { mac } = port.info;
    if (mac !== undefined) known.macs.add(textOf(mac, 0));
    this.#apply(known);
  }

  onVmGone(port: VmPort): void {
    this.#vms.delete(port.id);
  }

  /** A VM speaks with a MAC that it has not been heard with, or not lately. */
  onMacLearned(port: VmPort, mac: Uint8Array, off: number): void {
    const text = textOf(mac, off);
    for (const known of this.#vms.values()) {
      if (known.port === port) this.#remember(known, text);
      else if (!known.macs.delete(text)) continue;
      this.#apply(known);
    }
  }

  /** MACs that a VM is known by. */
  macsOf(vmId: number): number {
    return this.#vms.get(vmId)?.macs.size ?? 0;
  }

  #remember({ macs }: Known, text: string): void {
    macs.add(text);
    if (macs.size <= MACS_MAX) return;
    for (const old of macs) {
      if (this.#byMac.has(old)) continue;
      macs.delete(old);
      return;
    }
  }

  #apply({ port, macs, own }: Known): void {
    const said = [...macs].map((mac) => this.#byMac.get(mac)).filter((is) => is !== undefined);
    const byMac = said.length === 0 ? undefined : said.some((is) => is);
    // A link's name is its URL with the number of the connection behind it.
    const byLink =
      this.#all || this.#links.some((url) => port.info.name === url || port.info.name.startsWith(`${url}#`));
    port.isolated = own ?? byMac ?? byLink;
  }
}

function textOf(mac: Uint8Array, off: number): string {
  return Array.from(mac.subarray(off, off + 6), (b) => b.toString(16).padStart(2, '0')).join(':');
}
