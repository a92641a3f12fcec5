// One route of the control API as data: method, path, schemas, what it does. The same schemas check requests and make the OpenAPI
// document, so the two cannot differ. It owns reading and checking a request; the sockets are server's, the answers the routes' own.

import type { IncomingMessage, ServerResponse } from 'node:http';
import * as v from 'valibot';
import { ApiError } from './api-error.ts';
import type { BodyBudget } from './body-budget.ts';

export type Method = 'get' | 'post' | 'put' | 'patch' | 'delete';
/** A schema for a part of a request; strict objects, so that a misspelt field is an error and not silence. */
export type Schema<T> = v.GenericSchema<unknown, T>;

/** Most bytes of a request body, unless a route says otherwise. */
export const BODY_MAX_BYTES: number = 64 * 1024;

/** What a route's `run` is given; every part has passed its schema. */
export interface ApiRequest<P, Q, B> {
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
}

/** JSON to send, or nothing with status 204. `stream` says that `run` has taken over `outgoing`. */
export interface ApiAnswer {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly stream?: true;
}

export interface ApiRoute<P = unknown, Q = unknown, B = unknown> {
  readonly method: Method;
  /** Below `/v1`, parameters as `:name`. */
  readonly path: string;
  readonly summary: string;
  /** The resource, for the document. */
  readonly tag: string;
  readonly params?: Schema<P> | undefined;
  readonly query?: Schema<Q> | undefined;
  readonly body?: Schema<B> | undefined;
  /** Fields of `body` all have defaults: a request without a body is one with none of them. */
  readonly bodyOptional?: true | undefined;
  readonly bodyMaxBytes?: number | undefined;
  /** Statuses that are no errors, with what they carry; `undefined` for no body. */
  readonly answers: Readonly<
    Record<number, { readonly description: string; readonly schema?: Schema<unknown>; readonly type?: string }>
  >;
  /** Codes of errors that are this route's own. */
  readonly errors?: Readonly<Record<string, string>> | undefined;
  run(request: ApiRequest<P, Q, B>): ApiAnswer | Promise<ApiAnswer>;
}

/** Any route, for tables. */
export interface AnyRoute extends Omit<ApiRoute, 'run'> {
  run(request: ApiRequest<never, never, never>): ApiAnswer | Promise<ApiAnswer>;
}

/** Takes the types of `run` from the schemas. */
export function route<P = undefined, Q = undefined, B = undefined>(r: ApiRoute<P, Q, B>): AnyRoute {
  return r as unknown as AnyRoute;
}

/** Reads and checks a request, and runs the route. @throws ApiError */
export async function runRoute(
  r: AnyRoute,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, readonly string[]>>,
  budget: BodyBudget,
): Promise<ApiAnswer> {
  const request: ApiRequest<unknown, unknown, unknown> = {
    params: r.params === undefined ? undefined : check(r.params, params, 'path.'),
    query: r.query === undefined ? noQuery(query) : check(r.query, singles(query), 'query.'),
    body: await bodyOf(r, incoming, outgoing, budget),
    incoming,
    outgoing,
  };
  return r.run(request as ApiRequest<never, never, never>);
}

function singles(query: Readonly<Record<string, readonly string[]>>): Record<string, string> {
  const out: Record<string, string> = {};
  for (const [key, values] of Object.entries(query)) {
    if (values.length > 1)
      throw new ApiError(400, 'ERR_VALUE', `${key} is given ${values.length} times; once is enough`, `query.${key}`);
    out[key] = values[0]!;
  }
  return out;
}

function noQuery(query: Readonly<Record<string, unknown>>): undefined {
  const [key] = Object.keys(query);
  if (key !== undefined)
    throw new ApiError(
      400,
      'ERR_UNKNOWN_FIELD',
      `"${shown(key)}" is no parameter here; this route takes none`,
      `query.${shown(key)}`,
    );
  return undefined;
}

async function bodyOf(
  r: AnyRoute,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  budget: BodyBudget,
): Promise<unknown> {
  const maxBytes = r.bodyMaxBytes ?? BODY_MAX_BYTES;
  const text = await budget.read(incoming, maxBytes, outgoing);
  if (r.body === undefined) {
    if (text !== '') throw new ApiError(400, 'ERR_UNKNOWN_FIELD', 'this route takes no body');
    return undefined;
  }
  const type = incoming.headers['content-type'];
  if (text === '' && r.bodyOptional) return check(r.body, {}, '');
  if (type === undefined || !/^application\/json\s*(;|$)/i.test(type)) {
    const given = type === undefined ? 'none was given' : `not "${shown(type)}"`;
    throw new ApiError(415, 'ERR_CONTENT_TYPE', `a body is JSON with Content-Type: application/json; ${given}`);
  }
  const encoding = incoming.headers['content-encoding'];
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity')
    throw new ApiError(
      415,
      'ERR_CONTENT_TYPE',
      `a body is sent as it is, without Content-Encoding: ${shown(encoding)}`,
    );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ApiError(400, 'ERR_BAD_JSON', `the body is not JSON: ${shown((error as Error).message)}`);
  }
  // Valibot passes over such members without a word.
  if (/proto|constructor|\\u/.test(text)) refuseInherited(value, '');
  // To valibot a list is an object too.
  if (Array.isArray(value)) throw new ApiError(400, 'ERR_VALUE', 'the body is a list; expected an object');
  return check(r.body, value, '');
}

/** Names that every JavaScript object has from elsewhere; as members they are nobody's. @throws ApiError with the path */
function refuseInherited(value: unknown, path: string): void {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, inner] of Object.entries(value)) {
    const at = Array.isArray(value) ? `${path}[${name}]` : `${path === '' ? '' : `${path}.`}${shown(name)}`;
    if (name === '__proto__' || name === 'constructor' || name === 'prototype')
      throw new ApiError(400, 'ERR_UNKNOWN_FIELD', `${at} is no field here, and no name that can be given`, at);
    refuseInherited(inner, at);
  }
}

/** The value as the schema gives it. @throws ApiError with the path of the first field that is wrong. */
export function check<T>(schema: Schema<T>, value: unknown, prefix: string): T {
  const result = v.safeParse(schema, value, { abortEarly: false });
  if (result.success) return result.output;
  const issue = deepest(result.issues);
  const path = pathOf(issue);
  const key = path === '' ? (prefix === '' ? undefined : prefix.slice(0, -1)) : `${prefix}${path}`;
  if (issue.type === 'strict_object' && issue.expected === 'never')
    throw new ApiError(400, 'ERR_UNKNOWN_FIELD', `${path} is no field here`, key);
  throw new ApiError(400, 'ERR_VALUE', `${path === '' ? 'the value' : path}: ${issueText(issue)}`, key);
}

/** Of a union that fits nowhere, what was wrong with the alternative that came furthest. */
function deepest(issues: readonly v.BaseIssue<unknown>[]): v.BaseIssue<unknown> {
  const issue = issues[0]!;
  const inner = issue.issues;
  if (inner === undefined || inner.length === 0 || (issue.type !== 'variant' && issue.type !== 'union')) return issue;
  const next = deepest(inner);
  return { ...next, path: [...(issue.path ?? []), ...(next.path ?? [])] } as v.BaseIssue<unknown>;
}

function issueText(issue: v.BaseIssue<unknown>): string {
  if (issue.received === 'undefined') return `is missing; expected ${expectation(issue)}`;
  // Schemas with words of their own say what would be right; valibot's default text names JavaScript types.
  if (!issue.message.startsWith('Invalid ')) return issue.message;
  return `${shown(issue.received)} is not ${expectation(issue)}`;
}

function expectation(issue: v.BaseIssue<unknown>): string {
  const { expected } = issue;
  if (issue.type === 'strict_object' && issue.received === 'undefined') return 'a value';
  switch (expected) {
    case 'Object':
      return 'an object';
    case 'Array':
      return 'a list';
    case null:
      return 'another value';
    default:
      return expected.replaceAll('(', '').replaceAll(')', '').replaceAll(' | ', ' or ');
  }
}

function pathOf(issue: v.BaseIssue<unknown>): string {
  let path = '';
  for (const item of issue.path ?? []) {
    const { key } = item;
    path += typeof key === 'number' ? `[${key}]` : `${path === '' ? '' : '.'}${shown(String(key))}`;
  }
  return path;
}

/** Somebody else's text in a message of ours: short, and without control characters. */
export function shown(text: string): string {
  const plain = text.replace(/\p{Cc}/gu, '?');
  return plain.length > 120 ? `${plain.slice(0, 120)}...` : plain;
}
