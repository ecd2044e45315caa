/** Standard Schema v1 (standardschema.dev): what zod, valibot, arktype and others implement. Types only, no dependency. */
import { CodecError } from "./errors.ts";

/** A schema of any library that implements Standard Schema v1. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What a schema accepts. */
export type InputOf<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["input"];
/** What a schema gives. */
export type OutputOf<S extends StandardSchema> = NonNullable<S["~standard"]["types"]>["output"];

const maxIssues = 10;

/** The schema's output for `value`. Throws `CodecError` `ERR_VALIDATION` naming at most ten issues by their paths. */
export function validate(topic: string, schema: StandardSchema | undefined, value: unknown): unknown {
  if (schema === undefined) return value;
  const result = schema["~standard"].validate(value);
  return result instanceof Promise
    ? result.then((settled) => outputOf(topic, settled))
    : outputOf(topic, result);
}

function outputOf(topic: string, result: SchemaResult<unknown>): unknown {
  if (result.issues === undefined) return result.value;
  const shown = result.issues.slice(0, maxIssues).map(formatIssue).join("; ");
  const more = result.issues.length > maxIssues ? `; and ${result.issues.length - maxIssues} more` : "";
  throw new CodecError(
    "ERR_VALIDATION",
    `payload of topic "${topic}" does not match its schema: ${shown}${more}`,
  );
}

function formatIssue(issue: SchemaIssue): string {
  const path = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
  return path === "" ? issue.message : `${path}: ${issue.message}`;
}
