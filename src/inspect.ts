/** Looking at what others throw, send or configure: it may be anything, and looking must neither fail nor tell a secret. */

/** A value as an error message shows it: short, on one line, strings in quotes, never read into. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "function") return "a function";
  if (typeof value === "object" && value !== null) return isArray(value) ? "an array" : "an object";
  return String(value);
}

/** `Array.isArray` throws for a revoked proxy. */
function isArray(value: object): boolean {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

/** What an error says, or what was thrown instead of one, in words. Never throws, whatever it is given. */
export function textOf(error: unknown): string {
  try {
    return error instanceof Error ? error.message : String(error);
  } catch {
    return "something that cannot be turned into text";
  }
}

/** A promise, of whatever make. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { readonly then?: unknown } | null | undefined)?.then === "function";
}

/** `{…}`, `Object.create(null)` and their like from another realm; no class instance, no array. */
export function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Up to the last `@` before white space: a password may contain `@`, `/` and `:`. The slashes may have been forgotten. */
const urlPassword = /([/:][^/@:\s]*):\S*@/gu;
const namedSecret =
  /((?:password|passwd|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|authorization|credentials?|sasl)["']?\s*[=:]\s*)(?:(?:bearer|basic|digest)\s+)?(?:"[^"]*"|'[^']*'|\S+)/giu;

/** Text without passwords in URLs and without the values of `password=…`, `"token": "…"` and their like. */
export function redact(text: string): string {
  return text.replace(urlPassword, "$1:***@").replace(namedSecret, "$1***");
}

/** A URL, or what was meant to be one, without its secrets, even if its password has white space. */
export function redactUrl(url: string): string {
  return redact(url.replace(/^([a-z][a-z\d+.-]*:\/*[^/@:]*):.*@/isu, "$1:***@"));
}
