import { conformance } from "postrider/testing";
import { afterAll, beforeAll, describe, it } from "vitest";
import { storeConformance } from "postrider/testing";
import { openStoreBackend } from "./mysql-backend.ts";

const runner = { describe, it, beforeAll, afterAll };

storeConformance({ runner, name: "mysql", backend: openStoreBackend });

conformance({
  runner,
  name: "memory over mysql",
  backend: import.meta.resolve("./mysql-backend.ts"),
  only: (id) => /^[BIS]/u.test(id),
});
