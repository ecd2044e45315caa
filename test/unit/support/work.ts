import type { RawDelivery } from "../../../src/adapter.ts";
import { type FakeRuntime, createFakeRuntime } from "../../../src/testing/fake-runtime.ts";
import { type Work, createWork } from "../../../src/work.ts";
import { type WireParts, wire } from "./wire.ts";

/** A delivery as an adapter hands it over. */
function rawOf(message: WireParts = {}, more: Partial<RawDelivery> = {}): RawDelivery {
  return {
    topic: "t",
    group: "g",
    message: wire(message),
    position: "p@1",
    redeliveries: 0,
    token: undefined,
    ...more,
  };
}

/** The work a consumer makes of a delivery. */
export function workOf(
  message: WireParts = {},
  more: Partial<RawDelivery> = {},
  runtime: FakeRuntime = createFakeRuntime(),
): Work {
  return createWork(rawOf(message, more), runtime);
}
