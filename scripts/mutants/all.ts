// All mutants, and how `docs/mutants.md` is laid out.

import { AROUND } from './around.ts';
import type { Mutant } from './mutant.ts';
import { READING } from './reading.ts';
import { RECEIVING } from './receiving.ts';
import { RECOVERING } from './recovering.ts';
import { SENDING } from './sending.ts';

export const AREAS: readonly (readonly [title: string, mutants: readonly Mutant[]])[] = [
  ['Receiving', [...RECEIVING, ...READING]],
  ['Sending', SENDING],
  ['Recovering', RECOVERING],
  ['Around the connection', AROUND],
];

export const MUTANTS: readonly Mutant[] = AREAS.flatMap(([, mutants]) => mutants);
