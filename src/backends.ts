/** Adapters by URL: the one place of the core that knows them all. Broker clients are loaded when an adapter connects. */
import { kafka } from "../adapters/kafka/index.ts";
import { memory } from "../adapters/memory/index.ts";
import { rabbitmq } from "../adapters/rabbitmq/index.ts";
import { redis } from "../adapters/redis/index.ts";
import { sqlite } from "../adapters/sqlite/index.ts";
import type { Adapter } from "./adapter.ts";
import { ConfigurationError } from "./errors.ts";
import { redactUrl, show } from "./inspect.ts";
import { didYouMean } from "./options.ts";

const factories: Readonly<Record<string, (url: string) => Adapter>> = {
  amqp: (url) => rabbitmq({ url }),
  amqps: (url) => rabbitmq({ url }),
  kafka: (url) => kafka({ url }),
  redis: (url) => redis({ url }),
  rediss: (url) => redis({ url }),
  sqlite: (url) => sqlite({ path: url.slice("sqlite:".length) }),
  memory: (url) => memory({ name: url.slice("memory:".length) }),
};

/** What is no broker, and the store it is for. */
const stores: Readonly<Record<string, string>> = {
  postgres: "postgres",
  postgresql: "postgres",
  mysql: "mysql",
  mariadb: "mysql",
};

/** The adapter a URL names. Throws `ERR_CONFIG` on an unknown scheme; never shows the URL's password. */
export function adapterFromUrl(url: string): Adapter {
  const scheme = /^([a-z][a-z0-9+.-]*):/iu.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `broker URL ${show(redactUrl(url))} has no scheme, such as amqp://localhost`,
    );
  }
  const factory = Object.hasOwn(factories, scheme) ? factories[scheme] : undefined;
  if (factory !== undefined) return factory(url);
  const store = Object.hasOwn(stores, scheme) ? stores[scheme] : undefined;
  const advice = store
    ? `; a database is a store: createBus({ adapter: …, store: ${store}({ url }) })`
    : didYouMean(scheme, Object.keys(factories));
  throw new ConfigurationError(
    "ERR_CONFIG",
    `unknown broker scheme "${scheme}" in ${show(redactUrl(url))}${advice}`,
  );
}
