// Mistakes in the settings of proxies: a stable code, a sentence, and the field to blame. Control API and options both show them.

export type ProxyErrorCode =
  | 'ERR_PROXY_URL'
  | 'ERR_PROXY_EXCLUDE'
  | 'ERR_PROXY_PORTS'
  | 'ERR_PROXY_FILE'
  | 'ERR_PROXY_LOOP'
  | 'ERR_PROXY_SYSTEM';

export class ProxyError extends Error {
  override readonly name = 'ProxyError';
  /** HTTP status for a client of the control API. */
  readonly status: number;
  readonly code: ProxyErrorCode;
  /** The field of the request to blame. */
  readonly field: string | undefined;
  /** The two halves of the message: what is wrong, and what would be right. */
  readonly problem: string;
  readonly right: string;

  constructor(code: ProxyErrorCode, problem: string, right: string, field?: string) {
    super(`${problem}; expected ${right}`);
    this.problem = problem;
    this.right = right;
    this.status = code === 'ERR_PROXY_LOOP' || code === 'ERR_PROXY_SYSTEM' ? 409 : 400;
    this.code = code;
    this.field = field;
  }
}
