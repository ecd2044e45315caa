/** Checks of options: an unknown, wrong or impossible one is refused by name before anything starts. */
import leven from "leven";
import { ConfigurationError } from "./errors.ts";
import { show } from "./inspect.ts";

/** Refuses keys that are not in `known`, with a did-you-mean. Throws `ERR_CONFIG`. */
export function checkKeys(where: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new ConfigurationError("ERR_CONFIG", `${where}: options must be an object, got ${show(options)}`);
  }
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      throw new ConfigurationError(
        "ERR_CONFIG",
        `${where}: unknown option "${key}"${didYouMean(key, known)}`,
      );
    }
  }
}

/** ` (did you mean "x"?)`, or the list of what there is when nothing is near. */
export function didYouMean(word: string, known: readonly string[]): string {
  let best = "";
  let distance = Infinity;
  for (const candidate of known) {
    const d = leven(word.toLowerCase(), candidate.toLowerCase());
    if (d < distance) [best, distance] = [candidate, d];
  }
  if (best !== "" && distance <= Math.max(2, Math.floor(word.length / 3)))
    return ` (did you mean "${best}"?)`;
  return known.length === 0 ? "" : ` (there is ${known.join(", ")})`;
}

/** An integer within a range. */
export function checkInteger(option: string, value: unknown, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${option} must be an integer ${min}..${max}, got ${show(value)}`,
    );
  }
  return value;
}

/** One of a fixed list of values. */
export function checkOneOf<const T>(option: string, value: unknown, allowed: readonly T[]): T {
  if (!allowed.includes(value as T)) {
    const list = allowed.map((item) => show(item)).join(" | ");
    throw new ConfigurationError("ERR_CONFIG", `${option} must be ${list}, got ${show(value)}`);
  }
  return value as T;
}

export function checkBoolean(option: string, value: unknown): boolean {
  if (typeof value !== "boolean") {
    throw new ConfigurationError("ERR_CONFIG", `${option} must be true or false, got ${show(value)}`);
  }
  return value;
}

export function checkFunction(option: string, value: unknown): void {
  if (typeof value !== "function") {
    throw new ConfigurationError("ERR_CONFIG", `${option} must be a function, got ${show(value)}`);
  }
}

export function checkString(option: string, value: unknown, maxLength: number): string {
  if (typeof value !== "string" || value.length === 0 || value.length > maxLength) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${option} must be a string of 1..${maxLength} characters, got ${show(value)}`,
    );
  }
  return value;
}
