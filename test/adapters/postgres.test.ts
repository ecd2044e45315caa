import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";
import { storeConformance } from "postrider/testing";
import { openStoreBackend } from "./postgres-backend.ts";

const runner = { describe, it, beforeAll, afterAll };

storeConformance({ runner, name: "postgres", backend: openStoreBackend });

conformance({
  runner,
  name: "memory over postgres",
  backend: import.meta.resolve("./postgres-backend.ts"),
  only: (id) => /^[BIS]/u.test(id),
});
