import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";

conformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "redis",
  backend: import.meta.resolve("../support/backends/redis.ts"),
});
