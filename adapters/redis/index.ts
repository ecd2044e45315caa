import type { Adapter } from "../../src/spi.ts";
export function redis(_options: { readonly url: string }): Adapter {
  throw new Error("not there yet");
}
