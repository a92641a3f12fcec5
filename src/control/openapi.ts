// The OpenAPI 3.1 document of the control API, made from the routes and the schemas that check their requests.

import { toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import type { AnyRoute, Schema } from './api-route.ts';
import { errorAnswer } from './schemas-answers.ts';

/** Errors that any route may give, by status; the document names them on each. */
export const COMMON_ERRORS: Readonly<Record<string, string>> = {
  ERR_BAD_REQUEST: '400: this is not an HTTP/1.1 request',
  ERR_BAD_JSON: '400: the body is not JSON',
  ERR_VALUE: '400: a value is wrong; `key` is its path',
  ERR_UNKNOWN_FIELD: '400: a field that does not exist; `key` is its path',
  ERR_TOKEN: '401: the token is missing or wrong (TCP only)',
  ERR_HOST: '403: asked by a name in place of a loopback address (TCP only)',
  ERR_NOT_FOUND: '404: there is no such path',
  ERR_METHOD: '405: not with this method; the header Allow has those that it takes',
  ERR_TIMEOUT: '408: the request came too slowly',
  ERR_BODY_TOO_LARGE: '413: the body is too large',
  ERR_CONTENT_TYPE: '415: a body that is not declared as application/json',
  ERR_EXPECTATION: '417: the header Expect asks for something other than 100-continue',
  ERR_HEADERS_TOO_LARGE: '431: the headers are too large',
  ERR_INTERNAL: '500: a mistake of isthmus; its log has more',
  ERR_BUSY: '503: too many request bodies at once',
  ERR_CONNECTION_LIMIT: '503: too many connections that forwards hang on',
};

type Json = Readonly<Record<string, unknown>>;

/** The document. @param routes paths are below `/v1`. */
export function openApiDocument(routes: readonly AnyRoute[], version: string): Json {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const r of routes) {
    const path = `/v1${r.path.replace(/:(\w+)/g, '{$1}')}`;
    paths[path] = { ...paths[path], [r.method]: operation(r) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'isthmus control API',
      version,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      description:
        'Forwards, flows, VMs, leases, names and life of one isthmus daemon. On a unix socket of mode 0600, or a loopback port with a bearer token.',
    },
    servers: [{ url: 'http://localhost', description: 'over the unix socket of --control' }],
    tags: [...new Set(routes.map((r) => r.tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: { Error: jsonSchema(errorAnswer) },
      securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'On the port of --control-tcp' } },
    },
    security: [{}, { token: [] }],
  };
}

function operation(r: AnyRoute): Json {
  const responses: Record<string, unknown> = {};
  for (const [status, answer] of Object.entries(r.answers)) {
    const schema = answer.schema === undefined ? undefined : jsonSchema(answer.schema);
    const content =
      answer.type !== undefined
        ? { [answer.type]: { schema: { type: 'string' } } }
        : schema === undefined
          ? undefined
          : { 'application/json': { schema } };
    responses[status] =
      content === undefined ? { description: answer.description } : { description: answer.description, content };
  }
  for (const [status, text] of errorsByStatus({ ...COMMON_ERRORS, ...r.errors })) {
    responses[status] ??= {
      description: text,
      content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
    };
  }
  return {
    operationId: operationId(r),
    summary: r.summary,
    tags: [r.tag],
    ...parameters(r),
    ...(r.body === undefined
      ? {}
      : {
          requestBody: {
            required: r.bodyOptional !== true,
            content: { 'application/json': { schema: jsonSchema(r.body) } },
          },
        }),
    responses,
  };
}

function errorsByStatus(errors: Readonly<Record<string, string>>): Map<string, string> {
  const out = new Map<string, string>();
  for (const [code, text] of Object.entries(errors)) {
    const status = text.slice(0, 3);
    const line = `${code}: ${text.slice(5)}`;
    out.set(status, out.has(status) ? `${out.get(status)}; ${line}` : line);
  }
  return out;
}

function operationId({ method, path }: AnyRoute): string {
  const parts = path.split('/').filter((part) => part !== '');
  return [method, ...parts.map((part) => part.replace(':', 'by-').replaceAll('.', '-'))].join('-');
}

function parameters(r: AnyRoute): Json {
  const all = [...parametersOf(r.params, 'path'), ...parametersOf(r.query, 'query')];
  return all.length === 0 ? {} : { parameters: all };
}

function parametersOf(schema: Schema<unknown> | undefined, where: 'path' | 'query'): Json[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = jsonSchema(schema) as {
    properties?: Record<string, Json>;
    required?: readonly string[];
  };
  return Object.entries(properties).map(([name, of]) => {
    const { description, ...rest } = of;
    return {
      name,
      in: where,
      required: where === 'path' || required.includes(name),
      ...(description === undefined ? {} : { description }),
      schema: rest,
    };
  });
}

/** JSON Schema of what a client sends. Checks that JSON Schema has no word for are left out; the daemon makes them all the same. */
function jsonSchema(schema: Schema<unknown>): Json {
  const { $schema: _dialect, ...rest } = toJsonSchema(schema as v.GenericSchema, {
    typeMode: 'input',
    errorMode: 'ignore',
    target: 'draft-2020-12',
  }) as Json;
  return rest;
}
