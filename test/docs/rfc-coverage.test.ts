// Every row of docs/conformance-rows.json has a test, and docs/rfc-coverage.md says so. The mutants' page names every mutant, and
// what each changes is in the sources.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { judge, readDeviations, readRows, readTitles } from '../../scripts/coverage/standard.ts';
import { standardPage } from '../../scripts/coverage/standard-page.ts';
import { MUTANTS } from '../../scripts/mutants/all.ts';
import { breakRule } from '../../scripts/mutants/mutant.ts';
import { projectRoot } from '../../scripts/project.ts';

const read = (path: string): string => readFileSync(join(projectRoot, path), 'utf8');

t.test(
  'docs/rfc-coverage.md: every row has a test or a decision, and the page is what `npm run rfc-coverage` writes',
  (t) => {
    const sections = readRows(projectRoot);
    const titles = readTitles(projectRoot);
    t.strictSame(judge(projectRoot, sections, titles), []);
    const deviations = readDeviations(projectRoot);
    t.ok(deviations.length >= 10 && deviations.every(({ text }) => text.length > 40), 'deviations are found');
    t.ok(read('docs/rfc-coverage.md') === standardPage(sections, titles, deviations), 'it is not stale');
    t.end();
  },
);

t.test('docs/mutants.md: every mutant is in it, and still breaks something', (t) => {
  const page = read('docs/mutants.md');
  t.ok(MUTANTS.length >= 40, `${MUTANTS.length} mutants`);
  t.equal(new Set(MUTANTS.map(({ id }) => id)).size, MUTANTS.length, 'ids are unique');
  const sources = new Map([...new Set(MUTANTS.map(({ file }) => file))].map((file) => [file, read(file)]));
  for (const mutant of MUTANTS) {
    t.not(breakRule(mutant, sources.get(mutant.file)!), sources.get(mutant.file), mutant.id);
    if (!page.includes(`| ${mutant.id} | ${mutant.rule} |`)) t.fail(`${mutant.id} is not in docs/mutants.md`);
  }
  t.end();
});
