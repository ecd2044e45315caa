import { defineConfig } from "tsdown";

export default defineConfig({
  entry: {
    index: "src/index.ts",
    spi: "src/spi.ts",
    rabbitmq: "adapters/rabbitmq/index.ts",
    kafka: "adapters/kafka/index.ts",
    redis: "adapters/redis/index.ts",
    sqlite: "adapters/sqlite/index.ts",
    memory: "adapters/memory/index.ts",
    postgres: "adapters/postgres/index.ts",
    mysql: "adapters/mysql/index.ts",
    testing: "src/testing/index.ts",
    cli: "src/cli/main.ts",
    "testing-child": "src/testing/child.ts",
  },
  format: "esm",
  platform: "node",
  target: "node22.13",
  fixedExtension: false,
  tsconfig: "tsconfig.build.json",
  dts: true,
  sourcemap: true,
  publint: true,
  attw: { profile: "esm-only" },
});
