/** The memory adapter as one that says it keeps no order: what it cannot do is to be refused. */
import type { Backend } from "postrider/testing";
import { createBackend as createMemoryBackend } from "./memory.ts";

export async function createBackend(): Promise<Backend> {
  const backend = await createMemoryBackend();
  return {
    ...backend,
    adapter() {
      const adapter = backend.adapter();
      return { ...adapter, capabilities: { ...adapter.capabilities, ordering: "none" } };
    },
  };
}
