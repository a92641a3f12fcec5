// The output of --print-config: every option, its value and its source. The text form is itself a file that --config takes.

import type { ConfigValue } from '../control/resources.ts';
import type { ConfigEntry } from './config.ts';
import { OPTIONS } from './config-schema.ts';

/** YAML with each value's source in a comment. */
export function configAsYaml(entries: readonly ConfigEntry[]): string {
  const lines: string[] = [];
  for (const { name, repeatable, texts, source } of entries) {
    // A file cannot name another file, so the one in use is told as a comment.
    const off = texts.length === 0 || name === 'config';
    const value = repeatable
      ? texts.map((text) => `\n${off ? '# ' : ''}  - ${quote(text)}`).join('')
      : ` ${quote(texts[0] ?? '')}`;
    const origin = `# ${source.label}`;
    if (texts.length === 0) lines.push(`# ${name}: ${notSet(name)}`);
    else if (repeatable) lines.push(`${name}: ${origin}${value}`);
    else lines.push(`${off ? '# ' : ''}${name}:${value} ${origin}`);
  }
  return `${lines.join('\n')}\n`;
}

/** `{ "mtu": { "value": "1500", "source": "flag", "from": "--mtu" }, ... }`; lists for repeatable options, null when not set. */
export function configAsJson(entries: readonly ConfigEntry[]): string {
  return `${JSON.stringify(valuesOf(entries), null, 2)}\n`;
}

/** The same for the control API, without secrets. */
export function configValues(entries: readonly ConfigEntry[]): Record<string, ConfigValue> {
  const secretless = entries.map((entry) =>
    entry.name === 'guest-api'
      ? { ...entry, texts: entry.texts.map((text) => text.replace(/token=[^;]*/, 'token=...')) }
      : entry,
  );
  return valuesOf(secretless);
}

function valuesOf(entries: readonly ConfigEntry[]): Record<string, ConfigValue> {
  const out: Record<string, ConfigValue> = {};
  for (const { name, repeatable, texts, source } of entries) {
    out[name] = { value: repeatable ? texts : (texts[0] ?? null), source: source.kind, from: source.label };
  }
  return out;
}

/** An option without a value may still have a default that depends on something else. */
function notSet(name: ConfigEntry['name']): string {
  const { defaultText } = OPTIONS[name];
  return defaultText === 'not set' ? defaultText : `not set (${defaultText})`;
}

/** Plain where YAML reads it back as the same text, else in double quotes, which JSON and YAML share. */
function quote(text: string): string {
  return /^[a-zA-Z0-9/][a-zA-Z0-9/._:=-]*$/.test(text) && !text.endsWith(':') ? text : JSON.stringify(text);
}
