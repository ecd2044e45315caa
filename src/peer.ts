/** Broker clients and database drivers are optional peers: loaded when they are needed, missed with the remedy. */
import { ConfigurationError } from "./errors.ts";
import { textOf } from "./inspect.ts";

/**
 * Loads a peer dependency. Rejects with `ERR_DEPENDENCY` and the install line when it is missing.
 *
 * @example
 * const amqplib = await loadPeer("amqplib", () => import("amqplib"));
 */
export async function loadPeer<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    const code = (cause as { readonly code?: unknown } | null)?.code;
    const notFound = code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND";
    // What is missing may be something the package itself needs.
    const missing = notFound && textOf(cause).includes(`'${name}'`);
    throw new ConfigurationError(
      "ERR_DEPENDENCY",
      missing
        ? `"${name}" is not installed. Run: npm install ${name}`
        : `"${name}" is installed but cannot be loaded: ${textOf(cause)}`,
      { cause },
    );
  }
}
