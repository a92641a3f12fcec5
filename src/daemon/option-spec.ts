// What an option is: the shape of one row of the table in config-schema, and how a row is declared. It knows no option.

import * as v from 'valibot';
import type { Cidr4, IpAddress } from '../ip/address.ts';
import { GrammarError } from './value-grammar.ts';

/** The value of an option that is switched off by the word `none`. */
export const NONE = 'none';

export type OptionGroup =
  | 'VMs'
  | 'Network'
  | 'Names and addresses'
  | 'Published ports'
  | 'Proxies'
  | 'Limits'
  | 'Control'
  | 'Daemon'
  | 'Finding faults';

/** What a default may depend on. */
export interface DefaultContext {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** User id of the process, -1 where there is none. */
  readonly uid: number;
  readonly network: Cidr4 | undefined;
  readonly gateway: IpAddress | undefined;
}

/** One option. `name` is its flag (`--name`) and its key in the file; `ISTHMUS_NAME` its variable. */
export interface OptionSpec<T> {
  readonly group: OptionGroup;
  /** Shown for the value in --help; empty for a switch, which takes none. */
  readonly placeholder: string;
  readonly repeatable: boolean;
  readonly schema: v.GenericSchema<string, T>;
  /** The default as text that `schema` reads, or undefined for "not set". */
  readonly default: (context: DefaultContext) => string | undefined;
  /** The default in words, for --help and the documents. */
  readonly defaultText: string;
  /** One or more sentences. */
  readonly help: string;
  /** The canonical text of a value, which `schema` reads back. */
  readonly format: (value: T) => readonly string[];
  /** A value that was given, as it may be shown in an error: without its secret. */
  readonly shown: (text: string) => string;
}

/** A valibot schema over one of the grammars: a GrammarError becomes an issue with what would be right. */
function grammar<T>(parse: (text: string) => T): v.GenericSchema<string, T> {
  return v.pipe(
    v.string(),
    v.rawTransform(({ dataset, addIssue, NEVER }): T => {
      try {
        return parse(dataset.value);
      } catch (error) {
        if (!(error instanceof GrammarError)) throw error;
        addIssue({ message: error.message, expected: error.right });
        return NEVER;
      }
    }),
  );
}

/** The word `none`, or what `parse` reads. */
export function orNone<T>(parse: (text: string) => T): (text: string) => T | typeof NONE {
  return (text) => (text === NONE ? NONE : parse(text));
}

/** One of a few words. */
export function oneOf<T extends string>(words: readonly T[]): (text: string) => T {
  return (text) => {
    const word = words.find((w) => w === text);
    if (word === undefined) throw new GrammarError('is unknown', `one of ${words.join(', ')}`);
    return word;
  };
}

/** A yes or no. */
export function parseSwitch(text: string): boolean {
  if (/^(true|yes|on|1)$/i.test(text)) return true;
  if (/^(false|no|off|0)$/i.test(text)) return false;
  throw new GrammarError('is neither yes nor no', 'true or false');
}

/** A row as it is written down: what is left out has its usual value. */
export interface Declaration<T> {
  group: OptionGroup;
  placeholder: string;
  parse: (text: string) => T;
  help: string;
  default?: string | ((context: DefaultContext) => string | undefined);
  defaultText?: string;
  repeatable?: true;
  format?: (value: T) => string | readonly string[];
  shown?: (text: string) => string;
}

/** Makes a row of its declaration. */
export function option<T>(d: Declaration<T>): OptionSpec<T> {
  const { default: fallback, format = String } = d;
  return {
    group: d.group,
    placeholder: d.placeholder,
    repeatable: d.repeatable ?? false,
    schema: grammar(d.parse),
    default: typeof fallback === 'function' ? fallback : () => fallback,
    defaultText: d.defaultText ?? (typeof fallback === 'string' ? fallback : 'not set'),
    help: d.help,
    format: (value) => [format(value)].flat(),
    shown: d.shown ?? ((text) => text),
  };
}
