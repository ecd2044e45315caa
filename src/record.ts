/** What is written on a message when it is retried or dead-lettered. Never its payload, never a secret of an error. */
import { ownIdOf } from "./envelope.ts";
import type { DeadLetterReason } from "./events.ts";
import { type HeaderPatch, header } from "./headers.ts";
import { redact, textOf } from "./inspect.ts";
import { version } from "./version.ts";
import type { Work } from "./work.ts";

const errorLimit = 2048;

/** Headers of a deferred copy: attempts so far, and where a foreign message came from, so that its id stays the same. */
export function retryPatch(work: Work): HeaderPatch {
  return {
    [header.failures]: String(work.failures),
    [header.redeliveries]: work.redeliveries === 0 ? undefined : String(work.redeliveries),
    [header.firstFailureAt]: stamp(work.firstFailureAt),
    [header.notBefore]: undefined,
    ...positionPatch(work),
  };
}

/** Headers of a copy that comes later without a failed attempt. */
export function laterPatch(work: Work): HeaderPatch {
  return { [header.notBefore]: undefined, ...positionPatch(work) };
}

/** Headers of a dead letter. */
export function deadLetterPatch(
  work: Work,
  reason: DeadLetterReason,
  error: unknown,
  now: number,
): HeaderPatch {
  const { name, message, code } = describeError(error);
  return {
    [header.reason]: clean(reason),
    [header.attempts]: String(work.attempt),
    [header.group]: work.raw.group,
    [header.errorName]: name,
    [header.errorMessage]: message,
    [header.errorCode]: code,
    [header.firstFailureAt]: stamp(work.firstFailureAt ?? now),
    [header.deadLetteredAt]: String(now),
    [header.version]: version,
    [header.failures]: undefined,
    [header.redeliveries]: undefined,
    [header.notBefore]: undefined,
    ...positionPatch(work),
  };
}

function positionPatch(work: Work): HeaderPatch {
  const { message } = work.raw;
  const known = ownIdOf(message) !== undefined || message.headers[header.position] !== undefined;
  return known ? {} : { [header.position]: work.raw.position };
}

function stamp(time: number | undefined): string | undefined {
  return time === undefined ? undefined : String(Math.round(time));
}

/** Name, message and code of anything that can be thrown: `null`, a string, an object whose getters throw. @internal */
export function describeError(error: unknown): { name: string; message: string; code: string | undefined } {
  const read = (key: string): string | undefined => {
    try {
      const value: unknown = (error as Record<string, unknown>)[key];
      return typeof value === "string" || typeof value === "number" ? String(value) : undefined;
    } catch {
      return undefined;
    }
  };
  if (typeof error !== "object" || error === null)
    return { name: typeof error, message: clean(textOf(error)), code: undefined };
  return {
    name: clean(read("name") ?? "Error")
      .slice(0, 200)
      .toWellFormed(),
    message: clean(read("message") ?? "(no message)"),
    code: cleanCode(read("code")),
  };
}

function cleanCode(code: string | undefined): string | undefined {
  return code === undefined ? undefined : clean(code).slice(0, 100).toWellFormed();
}

/** Cut, on one line, well-formed, and without secrets. */
function clean(text: string): string {
  return (
    redact(text.slice(0, errorLimit * 2).toWellFormed())
      // oxlint-disable-next-line no-control-regex -- control characters are what is replaced
      .replace(/[\u0000-\u001f\u007f]+/gu, " ")
      .slice(0, errorLimit)
      .toWellFormed()
  );
}
