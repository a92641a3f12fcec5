// What a control request is refused with: a status, a stable code, a sentence, and where one field is to blame its key path. The
// codes are public; docs/control-api.md lists them.

/** A refusal. Also thrown by sources, for what only they can know. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly code: string;
  /** Path of the part of the request that is to blame: `forwards[3].listen.port` in a body, `query.limit`, `path.id`. */
  readonly key: string | undefined;

  constructor(status: number, code: string, message: string, key?: string) {
    super(message);
    this.status = status;
    this.code = code;
    this.key = key;
  }
}

/** The body of an error answer. */
export interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly key?: string | undefined };
}

/** Anything with a status and a code is a refusal: sources throw errors of their own classes too. */
export function asApiError(error: unknown): ApiError | undefined {
  if (error instanceof ApiError) return error;
  if (!(error instanceof Error) || !('status' in error) || !('code' in error)) return undefined;
  const { status, code } = error;
  if (typeof status !== 'number' || typeof code !== 'string' || status < 400 || status > 599) return undefined;
  // A forward's own `key` names the forward, not a part of the request.
  const key = 'field' in error && typeof error.field === 'string' ? error.field : undefined;
  return new ApiError(status, code, error.message, key);
}

export function errorBody({
  code,
  message,
  key,
}: {
  code: string;
  message: string;
  key?: string | undefined;
}): ErrorBody {
  return { error: key === undefined ? { code, message } : { code, message, key } };
}
