/** All adapters of ours keep order; here is one that says it does not. */
import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";

conformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "memory without order",
  backend: import.meta.resolve("../support/backends/unordered.ts"),
  only: (id) => id.startsWith("O"),
});
