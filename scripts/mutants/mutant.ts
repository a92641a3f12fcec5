// What a mutant is: one rule of the protocol broken on purpose, by an exact change of one source file.

/** One change of the text. */
export interface Edit {
  /** Exact source text; it must occur once. */
  readonly find: string;
  readonly replace: string;
}

export interface Mutant {
  readonly id: string;
  /** The clause that is broken, and the row of the conformance table. */
  readonly rule: string;
  /** What the broken stack does. */
  readonly does: string;
  /** Source file, from the project's root. */
  readonly file: string;
  readonly edits: readonly Edit[];
  /** Where it is expected to be noticed first: `acks` is `test/tcp/acks.test.ts`, `ip/ipv4` is `test/ip/ipv4.test.ts`. */
  readonly tests: readonly string[];
}

/** Mutants of one file. */
export function mutantsOf(
  file: string,
  list: readonly (readonly [id: string, rule: string, does: string, tests: string, ...edits: string[]])[],
): Mutant[] {
  return list.map(([id, rule, does, tests, ...texts]) => {
    const edits: Edit[] = [];
    for (let i = 0; i + 1 < texts.length; i += 2) edits.push({ find: texts[i]!, replace: texts[i + 1]! });
    return { id, rule, does, file, edits, tests: tests.split(' ') };
  });
}

/** The source with the rule broken. @throws if a text to change is not there, or more than once. */
export function breakRule(mutant: Mutant, source: string): string {
  let text = source;
  for (const { find, replace } of mutant.edits) {
    const at = text.indexOf(find);
    if (at < 0) throw new Error(`${mutant.id}: not found in ${mutant.file}: ${find}`);
    if (text.includes(find, at + 1)) throw new Error(`${mutant.id}: more than once in ${mutant.file}: ${find}`);
    text = text.slice(0, at) + replace + text.slice(at + find.length);
  }
  return text;
}
