// VPNKit's JSON of proxies (`--http`, Docker's `http_proxy.json`), exactly: `http` and `https` as URI or HOST:PORT, `exclude`, the ports that
// are taken over, and the list of what may be reached. What VPNKit ignores is ignored too.

import { BypassList } from './bypass-list.ts';
import { ProxyError } from './proxy-error.ts';
import { checkPorts, DEFAULT_PORTS, NO_PROXY, type ProxySettings } from './settings.ts';
import { parseUpstream, type Upstream } from './upstream.ts';

/** A file larger than this is no such file. */
const TEXT_MAX_CHARS = 1024 * 1024;

/** Reads the text of the file. @throws ProxyError naming the field that is wrong */
export function parseVpnkitJson(text: string): ProxySettings {
  const wrong = (what: string, right: string, key?: string): ProxyError =>
    new ProxyError('ERR_PROXY_FILE', what, right, key);
  if (text.length > TEXT_MAX_CHARS) throw wrong('the file is too large', 'less than a megabyte');
  // An empty file is one without settings.
  let value: unknown = {};
  try {
    if (text.trim() !== '') value = JSON.parse(text);
  } catch (error) {
    throw wrong(`it is not JSON (${printable((error as Error).message)})`, 'an object like {"http": "proxy:3128"}');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong('it is no JSON object', 'an object like {"http": "proxy:3128"}');
  const fields = value as Record<string, unknown>;

  const textOf = (key: string): string | undefined => {
    const field = fields[key];
    if (field === undefined || field === null || field === '') return undefined;
    if (typeof field !== 'string') throw wrong(`${key} is no text`, 'a text', key);
    return field;
  };
  const upstream = (key: string): Upstream | undefined => {
    const field = textOf(key);
    return field === undefined ? undefined : parseUpstream(field, key);
  };
  const ports = (key: string, fallback: number): readonly number[] => {
    const field = fields[key];
    if (field === undefined || field === null) return [fallback];
    if (!Array.isArray(field) || field.some((port) => typeof port !== 'number'))
      throw wrong(`${key} is no list of numbers`, 'ports like [80]', key);
    return checkPorts(field as number[], key);
  };
  const list = (key: string): BypassList => {
    const field = fields[key];
    if (Array.isArray(field) && field.every((entry) => typeof entry === 'string'))
      return BypassList.parse(field as string[], key);
    return BypassList.parse(textOf(key) ?? '', key);
  };
  const flag = (key: string): boolean => {
    const field = fields[key] ?? false;
    if (typeof field !== 'boolean') throw wrong(`${key} is neither true nor false`, 'true or false', key);
    return field;
  };

  const [http, https] = DEFAULT_PORTS as [number, number];
  return {
    ...NO_PROXY,
    http: upstream('http'),
    https: upstream('https'),
    exclude: list('exclude'),
    ports: checkPorts([...ports('transparent_http_ports', http), ...ports('transparent_https_ports', https)]),
    allow: flag('allow_enabled') ? list('allow') : undefined,
    allowMessage: textOf('allow_error_msg'),
  };
}

function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?').slice(0, 120);
}
