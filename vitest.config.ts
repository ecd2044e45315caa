import { defineConfig } from "vitest/config";
import { plantMutant } from "./test/mutants/plant.ts";

export default defineConfig({
  plugins: [plantMutant()],
  ssr: { resolve: { conditions: ["postrider-source"] } },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/global-setup.ts"],
    reporters: ["default", "./test/support/closing-line.ts"],
    testTimeout: 30_000,
    // Two cores: brokers and tests share them.
    maxWorkers: 2,
    typecheck: { enabled: true, include: ["test/types/**/*.test-d.ts"] },
  },
});
