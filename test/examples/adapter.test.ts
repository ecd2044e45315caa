/** The suite runs from outside too: on an adapter that uses what the package exports, and nothing else. */
import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";

conformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "example",
  backend: import.meta.resolve("../support/backends/arrays.ts"),
});
