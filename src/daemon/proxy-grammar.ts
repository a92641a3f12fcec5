// The texts of the proxy options: `--proxy`, `--no-proxy`, `--proxy-ports`, `--proxy-listen`. What they mean is src/proxy's; here mistakes
// become those of an option, without the password.

import { BypassList } from '../proxy/bypass-list.ts';
import { ProxyError } from '../proxy/proxy-error.ts';
import { checkPorts, formatProxyChoice, type ProxyChoice, parseProxyChoice } from '../proxy/settings.ts';
import { withoutPassword } from '../proxy/upstream.ts';
import { GrammarError, parseInteger } from './value-grammar.ts';

export { formatProxyChoice, withoutPassword };

/** Calls `parse`; its mistake becomes one of the grammar. */
function asGrammar<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof ProxyError)) throw error;
    // The option's own error quotes the value.
    throw new GrammarError(error.problem.replace(/^"[^"]*" /, ''), error.right);
  }
}

export function parseProxy(text: string): ProxyChoice {
  return asGrammar(() => parseProxyChoice(text));
}

/** One value of `--no-proxy`: entries with commas or spaces between. */
export function parseNoProxy(text: string): readonly string[] {
  return asGrammar(() => BypassList.parse(text).texts);
}

/** `80,443`. */
export function parseProxyPorts(text: string): readonly number[] {
  const ports = text.split(',').map((part) => parseInteger(part.trim(), 1, 65_535, ''));
  return asGrammar(() => checkPorts(ports));
}

/** The port of the explicit proxy; 53 is the DNS server's. */
export function parseProxyListen(text: string): number {
  const port = parseInteger(text, 1, 65_535, '');
  if (port === 53) throw new GrammarError('is the port of the DNS server', 'another port of the gateway, like 3128');
  return port;
}
