// `npm run rfc-coverage`: writes docs/rfc-coverage.md. With `--check` it writes nothing, and fails when a row has no test or the
// page is not what it would write.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { judge, readDeviations, readRows, readTitles } from './coverage/standard.ts';
import { standardPage } from './coverage/standard-page.ts';
import { projectRoot } from './project.ts';

const page = join(projectRoot, 'docs/rfc-coverage.md');
const sections = readRows(projectRoot);
const titles = readTitles(projectRoot);
const text = standardPage(sections, titles, readDeviations(projectRoot));
const wrong = judge(projectRoot, sections, titles);
if (!process.argv.includes('--check')) writeFileSync(page, text);
else if (readFileSync(page, 'utf8') !== text) wrong.push('docs/rfc-coverage.md is stale: run `npm run rfc-coverage`');
for (const line of wrong) console.log(line);
console.log(`${sections.flatMap(({ rows }) => rows).length} rows, ${titles.length} tests, ${wrong.length} complaints`);
process.exitCode = wrong.length === 0 ? 0 : 1;
