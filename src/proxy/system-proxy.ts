// The proxies that the system is set to: the environment's variables as curl and Go read them, or what `scutil --proxy` prints on macOS.
// Text in, settings out; who reads the text is the daemon's.

import { BypassList } from './bypass-list.ts';
import { ProxyError } from './proxy-error.ts';
import { NO_PROXY, type ProxySettings, parseProxyChoice } from './settings.ts';
import { hostPort, parseUpstream, type Upstream } from './upstream.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** What the system says, and the exceptions in it that are no destination. */
export interface SystemProxy extends ProxySettings {
  readonly unknown: readonly string[];
}

/** The variables, in lower or upper case; the lower one holds. Each source is named in the error. @throws ProxyError */
export function environmentProxy(env: Environment): SystemProxy {
  const read = (name: string): { name: string; text: string } | undefined => {
    for (const variable of [name, name.toUpperCase()]) {
      const text = env[variable]?.trim();
      if (text !== undefined && text !== '') return { name: variable, text };
    }
    return undefined;
  };
  const upstream = (name: string): Upstream | undefined => {
    const found = read(name) ?? read('all_proxy');
    return found === undefined ? undefined : parseUpstream(found.text, found.name);
  };
  const { list, unknown } = BypassList.parseKnown(read('no_proxy')?.text ?? '');
  return {
    ...NO_PROXY,
    http: upstream('http_proxy'),
    https: upstream('https_proxy'),
    exclude: list,
    unknown,
  };
}

/** A value of `scutil --proxy`: text, or a list of texts. */
type ScutilValue = string | readonly string[];

/** What `scutil --proxy` prints. @throws ProxyError ERR_PROXY_SYSTEM */
export function scutilProxy(text: string): SystemProxy {
  const values = parseScutil(text);
  const one = (key: string): string | undefined => {
    const value = values.get(key);
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const upstream = (name: string, scheme: string): Upstream | undefined => {
    const host = one(`${name}Proxy`);
    if (one(`${name}Enable`) !== '1' || host === undefined) return undefined;
    return parseUpstream(`${scheme}://${hostPort(host, Number(one(`${name}Port`) ?? 0) || 80)}`, `${name}Proxy`);
  };
  const pacUrl = one('ProxyAutoConfigURLString');
  const pac =
    one('ProxyAutoConfigEnable') === '1' && pacUrl !== undefined
      ? parseProxyChoice(/^https?:/i.test(pacUrl) ? `pac+${pacUrl}` : pacUrl, 'ProxyAutoConfigURLString')
      : undefined;
  const socks = upstream('SOCKS', 'socks5');
  const exceptions = values.get('ExceptionsList') ?? [];
  const simple = one('ExcludeSimpleHostnames') === '1' ? ['<local>'] : [];
  const { list, unknown } = BypassList.parseKnown([...[exceptions].flat().map(shortNetwork), ...simple]);
  return {
    ...NO_PROXY,
    http: upstream('HTTP', 'http') ?? socks,
    https: upstream('HTTPS', 'http') ?? socks,
    pac: pac?.kind === 'pac' ? pac.pac : undefined,
    exclude: list,
    unknown,
  };
}

/** `169.254/16` is `169.254.0.0/16` to macOS. */
function shortNetwork(entry: string): string {
  const [, base, prefix] = /^(\d+(?:\.\d+){0,2})\/(\d+)$/.exec(entry) ?? [];
  return base === undefined ? entry : `${[...base.split('.'), '0', '0', '0'].slice(0, 4).join('.')}/${prefix}`;
}

/** `<dictionary> { Key : value ... }`, with `<array> { 0 : value ... }` inside. */
function parseScutil(text: string): ReadonlyMap<string, ScutilValue> {
  const values = new Map<string, ScutilValue>();
  if (!/^\s*<dictionary>\s*\{/.test(text))
    throw new ProxyError('ERR_PROXY_SYSTEM', 'scutil --proxy printed no dictionary', '"<dictionary> { ... }"');
  let list: string[] | undefined;
  let depth = 0;
  for (const line of text.split('\n')) {
    if (/^\s*\}/.test(line)) {
      depth--;
      if (depth <= 1) list = undefined;
      continue;
    }
    const [, key, value = ''] = /^\s*(\S+) : (.*)$/.exec(line) ?? [];
    if (/<(dictionary|array)>\s*\{\s*$/.test(line)) {
      depth++;
      if (depth !== 2 || key === undefined || !value.startsWith('<array>')) continue;
      list = [];
      values.set(key, list);
    } else if (key !== undefined && depth === 2 && list !== undefined) list.push(value.trim());
    else if (key !== undefined && depth === 1) values.set(key, value.trim());
  }
  return values;
}
