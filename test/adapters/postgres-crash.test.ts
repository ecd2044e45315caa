import { openPostgresDatabase } from "../support/postgres-database.ts";
import { crashes } from "./store-crash.ts";

crashes({
  name: "postgres",
  variables: { port: "POSTRIDER_POSTGRES_PORT", url: "POSTRIDER_TEST_POSTGRES_URL" },
  port: 22_532,
  open: openPostgresDatabase,
});
