/** Standard Schema v1 (standardschema.dev): what zod, valibot, arktype and others implement. Types only, no dependency. */
import { CodecError } from "./errors.ts";
import { isThenable, textOf } from "./inspect.ts";

/** A schema of any library that implements Standard Schema v1. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What a schema accepts. */
export type InputOf<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["input"];
/** What a schema gives. */
export type OutputOf<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["output"];

const maxIssues = 10;

/**
 * The schema's output for `value`, a promise of it when the schema is asynchronous. Throws, or rejects with, `CodecError`
 * `ERR_VALIDATION`: naming at most ten issues by their paths, or saying that the schema itself failed.
 */
export function validate(topic: string, schema: StandardSchema | undefined, value: unknown): unknown {
  if (schema === undefined) return value;
  try {
    const result: unknown = schema["~standard"].validate(value);
    if (!isThenable(result)) return outputOf(topic, result);
    return Promise.resolve(result).then(
      (settled) => outputOf(topic, settled),
      (cause: unknown) => Promise.reject(schemaFailure(topic, cause)),
    );
  } catch (cause) {
    throw cause instanceof CodecError ? cause : schemaFailure(topic, cause);
  }
}

function schemaFailure(topic: string, cause: unknown): CodecError {
  const text = `schema of topic "${topic}" failed: ${textOf(cause)}`;
  return new CodecError("ERR_VALIDATION", text, { cause });
}

function outputOf(topic: string, result: unknown): unknown {
  const { issues, ...success } = (result ?? {}) as Partial<{
    value: unknown;
    issues: readonly SchemaIssue[];
  }>;
  if (issues === undefined && "value" in success) return success.value;
  const known = issues ?? [{ message: "the schema gave neither a value nor issues" }];
  const shown = known.slice(0, maxIssues).map(formatIssue).join("; ");
  const more = known.length > maxIssues ? `; and ${known.length - maxIssues} more` : "";
  throw new CodecError(
    "ERR_VALIDATION",
    `payload of topic "${topic}" does not match its schema: ${shown}${more}`,
  );
}

function formatIssue(issue: SchemaIssue): string {
  const path = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
  return path === "" ? issue.message : `${path}: ${issue.message}`;
}
