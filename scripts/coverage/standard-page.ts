// The page docs/rfc-coverage.md.

import { type Deviation, rowsIn, type Section, type Title } from './standard.ts';

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

/** Titles by file, for one cell. */
function tests(titles: readonly Title[]): string {
  const byFile = new Map<string, string[]>();
  for (const { file, title } of titles) byFile.set(file, [...(byFile.get(file) ?? []), cell(title)]);
  return [...byFile].map(([file, list]) => `\`${file}\`: ${[...new Set(list)].join('; ')}`).join('<br>');
}

/** `RFC 1234 5.6` and `RFC 1234` as a text names them. */
function clausesIn(text: string): string[] {
  return [...text.matchAll(/RFC (\d+)((?: |, )(?:\d+(?:\.\d+)*|(?:MUST|SHLD|MAY|REC)-\d+)\b)*/g)].flatMap(
    ([match, rfc]) => {
      const clauses = match
        .slice(`RFC ${rfc}`.length)
        .split(/[ ,]+/)
        .filter((clause) => clause !== '');
      return clauses.length === 0 ? [`RFC ${rfc}`] : clauses.map((clause) => `RFC ${rfc} ${clause}`);
    },
  );
}

function byNumber(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

export function standardPage(
  sections: readonly Section[],
  titles: readonly Title[],
  deviations: readonly Deviation[],
): string {
  const rows = sections.flatMap((section) => section.rows);
  const exempt = rows.filter((row) => row.exempt !== undefined).length;
  const lines = [
    '# Coverage of the standards',
    '',
    'Written by `npm run rfc-coverage` from `docs/conformance-rows.json`, the titles of the tests and the comments of the sources that',
    'begin with `Deviation:`. A row without a test fails the tests, unless a decision record says why.',
    '',
    'Level: what the standard says (must, should, may), or a rule of our own. A test file `tcp/acks` is `test/tcp/acks.test.ts`; `…` in',
    'a title stands for what is filled in when it runs.',
    '',
    `${rows.length} rows, ${rows.length - exempt} shown by tests, ${exempt} left out by decision.`,
  ];
  for (const { title, rows } of sections) {
    lines.push(
      '',
      `## ${title}`,
      '',
      '| row | clause | level | behaviour | tests | deviation |',
      '|---|---|---|---|---|---|',
    );
    for (const row of rows) {
      const shown = tests(titles.filter((t) => rowsIn(t.title).includes(row.id)));
      const left = row.exempt === undefined ? '' : `left out: [${row.exempt.slice(9, 13)}](${row.exempt.slice(5)})`;
      const deviates = deviations.filter(({ text }) => rowsIn(text).includes(row.id));
      lines.push(
        `| ${row.id} | ${row.source} | ${row.level} | ${cell(row.behaviour)} | ${shown || left} | ${deviates
          .map(({ text }) => cell(text))
          .join('<br>')} |`,
      );
    }
  }
  lines.push('', '## Deviations', '', '| where | what, and why |', '|---|---|');
  for (const { file, text } of deviations) lines.push(`| \`${file}\` | ${cell(text)} |`);
  const byClause = new Map<string, Title[]>();
  for (const t of titles)
    for (const clause of new Set(clausesIn(t.title))) byClause.set(clause, [...(byClause.get(clause) ?? []), t]);
  lines.push('', '## Clauses that titles name', '', '| clause | tests |', '|---|---|');
  for (const clause of [...byClause.keys()].sort(byNumber))
    lines.push(`| ${clause} | ${tests(byClause.get(clause)!)} |`);
  return `${lines.join('\n')}\n`;
}
