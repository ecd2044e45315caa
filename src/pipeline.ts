/** Middleware around the handler: composed once per consumer, outermost first. */
import { ConfigurationError } from "./errors.ts";
import type { Outcome } from "./outcome.ts";

/**
 * Wraps the handling of one attempt. Call `next` once, or not at all to answer in its place; what it resolves with is
 * the outcome so far, what it throws is the handler's failure.
 */
export type Middleware<Context> = (context: Context, next: () => Promise<Outcome>) => Promise<Outcome>;

/** One function that runs `middleware` around `terminal`. A second call of `next` rejects. */
export function compose<Context>(
  middleware: readonly Middleware<Context>[],
  terminal: (context: Context) => Promise<Outcome>,
): (context: Context) => Promise<Outcome> {
  return (context) => {
    let called = -1;
    const dispatch = async (index: number): Promise<Outcome> => {
      if (index <= called)
        throw new ConfigurationError("ERR_CONFIG", "next() was called twice by one middleware");
      called = index;
      const current = middleware[index];
      return current === undefined ? terminal(context) : current(context, () => dispatch(index + 1));
    };
    return dispatch(0);
  };
}
