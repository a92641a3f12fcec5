// `docs/mutants.md`: which rules are broken, and which test notices.

import { AREAS, MUTANTS } from './all.ts';

/** The test that failed first. */
export interface Killer {
  readonly file: string;
  readonly title: string;
}

/** Text in a cell of a table. */
function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}

/** The page, for the killers of a full run by mutant id. */
export function mutantsPage(killers: ReadonlyMap<string, Killer>): string {
  const lines = [
    '# Mutants',
    '',
    'Rules of the protocol that `npm run mutants` breaks on purpose, one at a time, and the test that notices first. The run fails',
    'when a broken rule goes unnoticed, or when the text that a mutant changes is not in the source any more. It writes this page;',
    'the mutants themselves are in `scripts/mutants/`.',
    '',
    `${MUTANTS.length} mutants.`,
  ];
  for (const [title, mutants] of AREAS) {
    lines.push(
      '',
      `## ${title}`,
      '',
      '| mutant | rule | what the broken stack does | noticed by |',
      '|---|---|---|---|',
    );
    for (const mutant of mutants) {
      const killer = killers.get(mutant.id);
      const by = killer ? `${killer.file}: ${killer.title}` : 'nobody';
      lines.push(`| ${mutant.id} | ${cell(mutant.rule)} | ${cell(mutant.does)} | ${cell(by)} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}
