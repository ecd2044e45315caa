import { afterAll, beforeAll, describe, it } from "vitest";
import { storeConformance } from "postrider/testing";
import { openStoreBackend } from "./sqlite-backend.ts";

storeConformance({
  runner: { describe, it, beforeAll, afterAll },
  name: "sqlite",
  backend: openStoreBackend,
});
