import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";

conformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "sqlite",
  backend: import.meta.resolve("../support/backends/sqlite.ts"),
});
