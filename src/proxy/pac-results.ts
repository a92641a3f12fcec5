// What a PAC file answers ("PROXY a:3128; SOCKS b; DIRECT"), as ways to go. Words that nobody knows are passed over, as browsers do.

import type { PacSource } from './settings.ts';
import { DIRECT, parseUpstream, type Route, type Upstream } from './upstream.ts';

const SCHEMES: Readonly<Record<string, string>> = {
  PROXY: 'http',
  HTTP: 'http',
  HTTPS: 'https',
  SOCKS: 'socks5',
  SOCKS5: 'socks5',
};
/** More ways than this are not tried. */
const ROUTES_MAX = 16;

/** @returns never empty: nothing usable is DIRECT. @param source has the credentials of the proxies. */
export function parsePacResult(text: string, { user, password }: Pick<PacSource, 'user' | 'password'>): Route[] {
  const routes: Route[] = [];
  for (const part of text.split(';').slice(0, ROUTES_MAX)) {
    const [word = '', place = ''] = part.trim().split(/\s+/);
    if (word.toUpperCase() === 'DIRECT') routes.push(DIRECT);
    const name = word.toUpperCase();
    const scheme = Object.hasOwn(SCHEMES, name) ? SCHEMES[name] : undefined;
    const upstream = scheme === undefined ? undefined : tryUpstream(`${scheme}://${place}`);
    if (upstream !== undefined) routes.push(user === undefined ? upstream : { ...upstream, user, password });
  }
  return routes.length === 0 ? [DIRECT] : routes;
}

function tryUpstream(text: string): Upstream | undefined {
  try {
    return parseUpstream(text);
  } catch {
    return undefined;
  }
}
