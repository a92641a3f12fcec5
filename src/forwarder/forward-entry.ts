// One row of the table of forwards, and what rows are compared by. The table (`forwards`) alone changes it.

import { isDeepStrictEqual } from 'node:util';
import { defaultKey } from './forward-check.ts';
import type { OpenForward } from './forward-opener.ts';
import {
  type CheckedForward,
  type Forward,
  type ForwardCounters,
  ForwardError,
  type ForwardHolder,
  type ForwardListen,
  type ForwardOrigin,
} from './forward-spec.ts';

const NO_COUNTERS: ForwardCounters = { connections: 0, active: 0, refused: 0, bytesToTarget: 0, bytesToClient: 0 };
/** Fields are the table's to write. */
export class ForwardEntry {
  readonly id: string;
  spec: CheckedForward;
  readonly origin: ForwardOrigin;
  readonly createdAt: string;
  holder: object | undefined;
  open: OpenForward | undefined;
  error: ForwardError | undefined;
  /** The port that the system chose once, for a spec with port 0; asked for again after a restart. */
  chosenPort: number;

  constructor(id: string, spec: CheckedForward, origin: ForwardOrigin, createdAt: string, chosenPort: number) {
    this.id = id;
    this.spec = spec;
    this.origin = origin;
    this.createdAt = createdAt;
    this.chosenPort = chosenPort;
  }

  view(): Forward {
    const { id, spec, origin, createdAt, open, error } = this;
    return {
      id,
      key: spec.key,
      spec,
      origin,
      createdAt,
      state: open === undefined ? 'failed' : 'listening',
      bound: open?.bound ?? [],
      ...(error === undefined ? {} : { error: { code: error.code, message: error.message } }),
      counters: open === undefined ? NO_COUNTERS : { ...open.counters },
    };
  }

  get asHolder(): ForwardHolder {
    const { id, spec } = this;
    return { id, key: spec.key, ...(spec.owner === undefined ? {} : { owner: spec.owner }) };
  }
}

/** Whether `replace` of this owner has it in its hands. */
export function belongs({ spec, origin }: ForwardEntry, owner: string | undefined): boolean {
  return owner === undefined ? origin !== 'config' : spec.owner === owner;
}

export function sameForward(a: CheckedForward, b: CheckedForward): boolean {
  return isDeepStrictEqual(a, b);
}

export function inUse(spec: CheckedForward, at: string, holder: ForwardHolder): ForwardError {
  const by = holder.owner === undefined ? '' : ` of ${holder.owner}`;
  return new ForwardError(
    'ERR_PORT_IN_USE',
    `${at} is held by the forward ${holder.key}${by} (id ${holder.id}); remove that one, or listen elsewhere`,
    { key: spec.key, holder, field: placeField(spec.listen) },
  );
}

/** The member that says where. */
function placeField(listen: ForwardListen): string {
  if (listen.kind === 'fd') return 'listen.name';
  return listen.kind === 'unix' ? 'listen.path' : 'listen.port';
}

/** Its key is another one's. */
export function keyTaken(spec: CheckedForward, there: ForwardEntry, advice: string): ForwardError {
  const { id, owner } = there.asHolder;
  const by = owner === undefined ? 'id' : `of ${owner}; id`;
  const at = there.open === undefined ? 'it does not listen now' : `it listens on ${there.open.bound[0]}`;
  return new ForwardError(
    'ERR_FORWARD_EXISTS',
    `there is another forward with the key ${spec.key} (${by} ${id}; ${at}); ${advice}`,
    { key: spec.key, holder: there.asHolder, field: spec.key === defaultKey(spec.listen) ? 'listen' : 'key' },
  );
}

/** In a list of one owner's forwards there is another's. */
export function strangerIn({ key, owner }: CheckedForward, wanted: string): ForwardError {
  const message = `owner is ${owner}; the forwards replaced here are ${wanted}'s`;
  return new ForwardError('ERR_FORWARD_SPEC', message, { field: 'owner', key });
}

/** A list has the key twice. @param at where it stood before. */
export function twice({ key }: CheckedForward, at: number): ForwardError {
  const message = `the key ${key} is that of number ${at} of the list, too (counted from 0)`;
  return new ForwardError('ERR_FORWARD_EXISTS', message, { field: 'key', key });
}

/** What goes wrong with one forward of a list says with which. */
export function ofList(error: unknown, at: number): unknown {
  if (error instanceof ForwardError && at >= 0) error.at ??= at;
  return error;
}

export function portOf(bound: string): number {
  return Number(bound.slice(bound.lastIndexOf(':') + 1));
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The system chooses its port, and nobody gave it a key: each of these is one more. */
export function isNameless({ key, listen }: CheckedForward): boolean {
  return 'port' in listen && listen.port === 0 && listen.kind !== 'vsock' && key === defaultKey(listen);
}
