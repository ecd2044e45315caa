import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";

conformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "rabbitmq",
  backend: import.meta.resolve("../support/backends/rabbitmq.ts"),
});
