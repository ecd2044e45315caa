/** Stores by URL, for the command line: the one place of it that knows them all. Drivers are loaded when a store connects. */
import { mysql } from "../../adapters/mysql/index.ts";
import { postgres } from "../../adapters/postgres/index.ts";
import { sqliteStore } from "../../adapters/sqlite/index.ts";
import { ConfigurationError } from "../errors.ts";
import { redactUrl, show } from "../inspect.ts";
import { didYouMean } from "../options.ts";
import type { Store } from "../store.ts";

/** How the tables are called, where that is not the default. */
export interface TableNaming {
  readonly schema?: string;
  readonly prefix?: string;
}

const factories: Readonly<Record<string, (url: string, naming: TableNaming) => Store>> = {
  postgres: (url, naming) => postgres({ url, ...naming }),
  postgresql: (url, naming) => postgres({ url, ...naming }),
  mysql: (url, naming) => mysql({ url, ...naming }),
  mariadb: (url, naming) => mysql({ url, ...naming }),
  sqlite: (url, naming) => sqliteStore({ path: url.slice("sqlite:".length), ...naming }),
};

/** The store a URL names; what has no scheme is the path of a SQLite file. Throws `ERR_CONFIG`; never shows a password. */
export function storeFromUrl(url: string, naming: TableNaming = {}): Store {
  // One letter is a drive.
  const scheme = /^([a-z][a-z0-9+.-]+):/iu.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) return sqliteStore({ path: url, ...naming });
  const factory = Object.hasOwn(factories, scheme) ? factories[scheme] : undefined;
  if (factory !== undefined) return factory(url, naming);
  throw new ConfigurationError(
    "ERR_CONFIG",
    `unknown database scheme "${scheme}" in ${show(redactUrl(url))}${didYouMean(scheme, Object.keys(factories))}`,
  );
}
