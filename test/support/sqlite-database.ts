import type { TestDatabase } from "postrider/testing";
export async function openSqliteDatabase(): Promise<TestDatabase> {
  return {
    store: async () => undefined as never,
    begin: () => Promise.reject(new Error("not there yet")),
    addEffect: async () => undefined,
    effects: async () => [],
    reset: async () => undefined,
    close: async () => undefined,
  };
}
