// How answers look: tables for people on a terminal, fields between tabs where the output goes to a program, JSON where it is asked for.

import { styleText } from 'node:util';

/** Where a command writes. */
export interface ClientOutput {
  readonly stdout: { write(text: string | Uint8Array): unknown; readonly isTTY?: boolean };
}

/** One column: its head, and the text of a row. */
export interface Column<T> {
  readonly head: string;
  readonly right?: true;
  readonly of: (row: T) => string;
}

/** Rows as text: aligned under heads on a terminal, else a line each with tabs between the fields and no heads. */
export function table<T>(rows: readonly T[], columns: readonly Column<T>[], terminal: boolean): string {
  // Names come from guests and other programs: what could move the cursor, or be taken for a field's end, is shown.
  const cells = rows.map((row) => columns.map((c) => plain(c.of(row))));
  if (!terminal) return cells.map((line) => `${line.join('\t')}\n`).join('');
  if (rows.length === 0) return '';
  const widths = columns.map((c, i) => Math.max(c.head.length, ...cells.map((line) => line[i]!.length)));
  const format = (line: readonly string[]): string =>
    line
      .map((text, i) => (columns[i]!.right === true ? text.padStart(widths[i]!) : text.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd();
  const head = format(columns.map((c) => c.head));
  return `${[styleText('bold', head), ...cells.map(format)].join('\n')}\n`;
}

/** Without control characters. */
export function plain(text: string): string {
  return text.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** `1.4 MB`: three digits at most and a decimal unit. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let i = 0;
  while (value >= 1000 && i < units.length - 1) {
    value /= 1000;
    i++;
  }
  return `${i === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[i]}`;
}

/** `12s`, `4m`, `3h`, `2d`. */
export function ageText(seconds: number | null): string {
  if (seconds === null) return '-';
  if (seconds < 100) return `${Math.round(seconds)}s`;
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)}m`;
  return seconds < 48 * 3600 ? `${Math.round(seconds / 3600)}h` : `${Math.round(seconds / 86_400)}d`;
}
