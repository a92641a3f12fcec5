// What of the standards is tested: rows of docs/conformance-rows.json, titles of tests that name a row or an RFC, and comments of
// the sources that begin with `Deviation:`. It reads; `rfc-coverage` writes and judges.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

/** One behaviour that must be shown by a test. */
export interface Row {
  readonly id: string;
  /** RFC and clause, or CVE; '' for a rule of our own. */
  readonly source: string;
  readonly level: string;
  readonly weight: string;
  readonly behaviour: string;
  /** The decision record that says why there is no test. */
  readonly exempt?: string;
}

export interface Section {
  readonly title: string;
  readonly rows: readonly Row[];
}

/** The title of one test. */
export interface Title {
  /** Path below `test/`, without `.test.ts`. */
  readonly file: string;
  readonly title: string;
}

export interface Deviation {
  readonly file: string;
  readonly text: string;
}

const ROW = /\b(?:TCP-[A-Z]+|IP4|ARP|ICMP|UDP|DHCP|NTP|DNS)-\d{2}\b/g;

function filesBelow(root: string, folder: string, ending: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending))
    .map((name) => `${folder}/${name}`)
    .sort();
}

export function readRows(root: string): readonly Section[] {
  const { sections } = JSON.parse(readFileSync(join(root, 'docs/conformance-rows.json'), 'utf8')) as {
    sections: Section[];
  };
  return sections;
}

/** Ids of rows that a text names. */
export function rowsIn(text: string): string[] {
  return text.match(ROW) ?? [];
}

/** Titles of all tests: the first argument of `test(...)` and `script(...)`; what is filled in at run time reads `…`. */
export function readTitles(root: string): Title[] {
  const titles: Title[] = [];
  for (const path of filesBelow(root, 'test', '.test.ts')) {
    const file = path.slice('test/'.length, -'.test.ts'.length);
    const source = ts.createSourceFile(path, readFileSync(join(root, path), 'utf8'), ts.ScriptTarget.Latest);
    const visit = (node: ts.Node): void => {
      if (ts.isCallExpression(node) && isTest(node.expression)) {
        const title = textOf(node.arguments[0]);
        if (title !== '') titles.push({ file, title });
      }
      ts.forEachChild(node, visit);
    };
    visit(source);
  }
  return titles;
}

function isTest(callee: ts.Expression): boolean {
  const name = ts.isPropertyAccessExpression(callee) ? callee.name : callee;
  return ts.isIdentifier(name) && (name.text === 'test' || name.text === 'script');
}

function textOf(node: ts.Expression | undefined): string {
  if (node === undefined) return '';
  if (ts.isStringLiteralLike(node)) return node.text;
  if (!ts.isTemplateExpression(node)) return '';
  return node.head.text + node.templateSpans.map((span) => `…${span.literal.text}`).join('');
}

/** Comments with `Deviation:`, from that word to the end of the comment. */
export function readDeviations(root: string): Deviation[] {
  const found: Deviation[] = [];
  for (const path of filesBelow(root, 'src', '.ts')) {
    const lines = readFileSync(join(root, path), 'utf8').split('\n');
    for (let i = 0; i < lines.length; i++) {
      const start = /^\s*(\/\/|\/\*\*?|\*).*?Deviation: (.*)$/.exec(lines[i]!);
      if (start === null) continue;
      const words = [start[2]!];
      const more = start[1] === '//' ? /^\s*\/\/ (?!Deviation: )(.*)$/ : /^\s*\* (.*)$/;
      while (!words.at(-1)!.includes('*/')) {
        const next = more.exec(lines[i + 1] ?? '');
        if (next === null) break;
        words.push(next[1]!);
        i++;
      }
      found.push({ file: path, text: words.join(' ').replace(/\s*\*\/.*$/, '') });
    }
  }
  return found;
}

/** What is wrong with the rows: one line each. */
export function judge(root: string, sections: readonly Section[], titles: readonly Title[]): string[] {
  const wrong: string[] = [];
  const shown = new Set(titles.flatMap(({ title }) => rowsIn(title)));
  const known = new Set<string>();
  for (const { rows } of sections) {
    for (const { id, exempt } of rows) {
      if (known.has(id)) wrong.push(`${id} is listed twice`);
      known.add(id);
      if (exempt !== undefined && !existsSync(join(root, exempt))) wrong.push(`${id}: there is no ${exempt}`);
      if (exempt === undefined && !shown.has(id)) wrong.push(`${id} has no test whose title names it`);
      if (exempt !== undefined && shown.has(id)) wrong.push(`${id} is exempt, and has a test`);
    }
  }
  for (const { file, title } of titles)
    for (const id of rowsIn(title))
      if (!known.has(id)) wrong.push(`${file}: "${title}" names ${id}, which is not listed`);
  return wrong;
}
