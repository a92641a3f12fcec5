// The token of `--control-tcp`: from the file of `--control-token-file`, or from the environment. Never from a flag, which every user of
// the host can read.

import { readFileSync } from 'node:fs';
import { configError, unreadable, type ValueSource } from './given-value.ts';

/** Holds the token itself; no option has this name, so that it is never shown with the options. */
export const TOKEN_VARIABLE = 'ISTHMUS_CONTROL_TOKEN';
const TOKEN_MIN_CHARS = 16;

/** @throws OperatorError where there is none, or one that could be guessed. */
export function controlToken(
  tcpSource: ValueSource,
  file: string | undefined,
  fileSource: ValueSource,
  env: Readonly<Record<string, string | undefined>>,
): string {
  const right = `${TOKEN_MIN_CHARS} visible characters or more, without blanks`;
  if (file !== undefined) {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      throw unreadable('control-token-file', fileSource, file, error);
    }
    const token = text.split(/\r?\n/)[0]!.trim();
    if (!isToken(token))
      throw configError('control-token-file', fileSource, `the first line of ${file} is no token`, right);
    return token;
  }
  const token = env[TOKEN_VARIABLE] ?? '';
  if (token === '') {
    throw configError(
      'control-tcp',
      tcpSource,
      'there is no token',
      `--control-token-file FILE, or a token in the variable ${TOKEN_VARIABLE}`,
    );
  }
  if (!isToken(token)) throw configError('control-tcp', tcpSource, `${TOKEN_VARIABLE} holds no token`, right);
  return token;
}

function isToken(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text) && text.length >= TOKEN_MIN_CHARS;
}
