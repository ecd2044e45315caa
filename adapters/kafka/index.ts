import type { Adapter } from "../../src/spi.ts";
export function kafka(_options: { readonly url: string }): Adapter {
  throw new Error("not there yet");
}
