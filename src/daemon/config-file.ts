// The configuration file: YAML 1.2, of which JSON is a subset. It owns reading, position and shape; keys and values are those of the
// flags. Loaded only when a file is given, as the YAML library takes 30 ms.

import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import { isOptionName, OPTION_NAMES, OPTIONS, type OptionName } from './config-schema.ts';
import { configError, type GivenValue, type GivenValues, unreadable, type ValueSource } from './given-value.ts';
import { nearest } from './nearest.ts';

/** Larger than any real file of options by far. */
const FILE_MAX_BYTES = 1024 * 1024;

/** Reads the file that `--config` or `ISTHMUS_CONFIG` names. @throws OperatorError */
export function readConfigFile(given: GivenValue): GivenValues {
  const path = given.texts.at(-1) ?? '';
  if (given.texts.length > 1)
    throw configError('config', given.source, `is given ${given.texts.length} times`, 'one value');
  if (path === '') throw configError('config', given.source, '"" is empty', 'a path');
  const lines = new LineCounter();
  const doc = parseDocument(readBounded(path, given.source), { lineCounter: lines, prettyErrors: false });
  const at = (offset: number | undefined): string => `${path}:${lines.linePos(offset ?? 0).line || 1}`;
  const broken = doc.errors[0];
  if (broken !== undefined) throw bad(at(broken.pos[0]), `is not valid YAML: ${broken.message}`);

  const values = new Map<OptionName, GivenValue>();
  if (doc.contents === null) return values;
  if (!isMap(doc.contents)) throw bad(at(doc.contents.range?.[0]), 'is not a mapping; expected lines like "mtu: 1500"');
  for (const { key, value } of doc.contents.items) {
    const position = at(isScalar(key) ? key.range?.[0] : 0);
    const name = isScalar(key) ? String(key.value) : '';
    if (!isOptionName(name) || name === 'config') throw unknownKey(position, name);
    const source: ValueSource = { kind: 'file', label: position };
    const resolved = isAlias(value) ? value.resolve(doc) : value;
    values.set(name, { texts: textsOf(name, resolved as Node | null | undefined, source), source });
  }
  return values;
}

function textsOf(name: OptionName, node: Node | null | undefined, source: ValueSource): string[] {
  const expected = OPTIONS[name].repeatable ? 'a value, or a list of values' : 'one value';
  if (isSeq(node)) {
    if (!OPTIONS[name].repeatable) throw configError(name, source, 'is a list', expected);
    return node.items.map((item) => scalarText(name, item, source, expected));
  }
  return [scalarText(name, node, source, expected)];
}

function scalarText(name: OptionName, node: unknown, source: ValueSource, expected: string): string {
  if (node === null || node === undefined || (isScalar(node) && node.value === null)) {
    throw configError(name, source, 'has no value', expected);
  }
  if (!isScalar(node)) throw configError(name, source, 'is a mapping, a list in a list, or an alias', expected);
  // A number keeps the digits that the operator wrote: 0080 is not 80 in a port.
  return typeof node.value === 'string' ? node.value : (node.source ?? String(node.value));
}

function unknownKey(position: string, name: string): OperatorError {
  if (name === 'config') return bad(position, 'config: a file cannot name another; expected other options');
  const near = nearest(
    name,
    OPTION_NAMES.filter((word) => word !== 'config'),
  );
  const hint = near === undefined ? 'expected a flag of isthmus run without its dashes' : `did you mean ${near}?`;
  return bad(position, `"${name}" is not an option; ${hint}`, 'ERR_CONFIG_UNKNOWN_KEY');
}

function bad(position: string, problem: string, code = 'ERR_CONFIG_FILE'): OperatorError {
  return new OperatorError(`${position}: ${problem}`, { code, exitCode: ExitCode.Config });
}

function readBounded(path: string, source: ValueSource): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    if (fstatSync(fd).size > FILE_MAX_BYTES)
      throw bad(path, `is larger than ${FILE_MAX_BYTES} bytes; expected a file of options`);
    return readFileSync(fd, 'utf8');
  } catch (error) {
    throw error instanceof OperatorError ? error : unreadable('config', source, path, error);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
