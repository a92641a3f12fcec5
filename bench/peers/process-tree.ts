// CPU time and memory of a process and all that it started, as /proc has them.

import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100;

/** Undefined when the process has ended. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function threads(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** The process and its descendants. */
export function processTree(pid: number): number[] {
  const found = [pid];
  for (const thread of threads(pid)) {
    const children = read(`/proc/${pid}/task/${thread}/children`) ?? '';
    for (const child of children.split(' ')) if (child.trim() !== '') found.push(...processTree(Number(child)));
  }
  return found;
}

/** User and system time so far of the whole tree, in seconds; of ended children what was waited for. */
export function cpuSeconds(pid: number): number {
  let ticks = 0;
  for (const member of processTree(pid)) {
    const text = read(`/proc/${member}/stat`);
    if (text === undefined) continue;
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    for (let i = 11; i <= 14; i++) ticks += Number(fields[i]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Time on a processor so far of all threads that live, in nanoseconds: finer than the ticks of `cpuSeconds`, for little work. */
export function cpuNanoseconds(pid: number): number {
  let total = 0;
  for (const member of processTree(pid)) {
    for (const thread of threads(member))
      total += Number(read(`/proc/${member}/task/${thread}/schedstat`)?.split(' ')[0] ?? 0);
  }
  return total;
}

/** Resident memory of the whole tree, in MB. */
export function residentMb(pid: number): number {
  let kib = 0;
  for (const member of processTree(pid)) {
    kib += Number(/^VmRSS:\s+(\d+)/m.exec(read(`/proc/${member}/status`) ?? '')?.[1] ?? 0);
  }
  return (kib * 1024) / 1e6;
}
