import type { Adapter } from "../../src/spi.ts";
export function sqlite(_options: { readonly path: string }): Adapter {
  throw new Error("not there yet");
}
