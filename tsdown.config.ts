import { type UserConfig, defineConfig } from "tsdown";

const config: UserConfig = defineConfig({
  entry: {
    index: "src/index.ts",
    spi: "src/spi.ts",
    rabbitmq: "adapters/rabbitmq/index.ts",
    kafka: "adapters/kafka/index.ts",
    redis: "adapters/redis/index.ts",
    sqlite: "adapters/sqlite/index.ts",
    memory: "adapters/memory/index.ts",
    postgres: "adapters/postgres/index.ts",
    testing: "src/testing/index.ts",
    "testing-child": "src/testing/child.ts",
  },
  format: "esm",
  platform: "node",
  target: "node22.13",
  fixedExtension: false,
  dts: true,
  sourcemap: true,
  publint: true,
  attw: { profile: "esm-only" },
});

export default config;
