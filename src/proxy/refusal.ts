// Why a flow did not get through: what the proxy, the network or the policy said, as an HTTP status and a sentence for the guest's user.

/** Closed set, for metrics and events. */
export const RefusalCause = {
  /** The proxy wants other credentials, or any. */
  Credentials: 'credentials',
  /** The proxy, or isthmus, does not allow the destination. */
  Forbidden: 'forbidden',
  /** The proxy could not reach the destination. */
  Destination: 'destination',
  /** The proxy is not there, or does not speak its protocol. */
  Proxy: 'proxy',
  /** No name, or nobody there, without a proxy. */
  Unreachable: 'unreachable',
  /** The way leads back to isthmus. */
  Loop: 'loop',
} as const;
export type RefusalCause = (typeof RefusalCause)[keyof typeof RefusalCause];

export interface Refusal {
  readonly cause: RefusalCause;
  /** What an HTTP client is told: 403, 407, 502, 504, 508. */
  readonly status: number;
  /** One sentence. */
  readonly message: string;
  /** The proxy's own status, where there was one. */
  readonly proxyStatus?: number | undefined;
  /** `Proxy-Authenticate` of a 407. */
  readonly challenges?: readonly string[] | undefined;
}

export function refusal(cause: RefusalCause, status: number, message: string): Refusal {
  return { cause, status, message };
}

/** What a proxy's HTTP answer to CONNECT, or a 407 to anything, means. @param proxy its host and port. */
export function refusalOfStatus(
  proxy: string,
  status: number,
  reason: string,
  target: string,
  challenges: readonly string[],
  credentials: boolean,
): Refusal {
  const said = `the proxy ${proxy} answered ${status}${reason === '' ? '' : ` ${reason}`}`;
  if (status === 407) {
    const advice = credentials
      ? 'it did not take the user name and password that isthmus was given'
      : 'it wants a user name and password, and isthmus was given none';
    const message = `${said} for ${target}: ${advice} (--proxy http://USER:PASSWORD@HOST:PORT)`;
    // Handed on as they are, but for what node would not write.
    const whole = challenges.filter((value) => /^[\t\x20-\x7e]*$/.test(value));
    return { cause: RefusalCause.Credentials, status: 407, message, proxyStatus: status, challenges: whole };
  }
  if (status === 401 || status === 403 || status === 405 || status === 451) {
    const message = `${said}: it does not allow ${target}`;
    return { cause: RefusalCause.Forbidden, status: 403, message, proxyStatus: status };
  }
  const message = `${said}: it could not reach ${target}`;
  return {
    cause: RefusalCause.Destination,
    status: status === 504 ? 504 : 502,
    message,
    proxyStatus: status,
  };
}
