/**
 * kafkajs 2.2.4 collects the headers of a record in an object that it copies for each header more: ten thousand of them, which
 * anybody may write on one record, stop the process for two minutes. Its decoder is given a list that collects itself in one
 * pass.
 */
import { createRequire } from "node:module";
import { headerMap } from "../../src/spi.ts";

/** The one version whose decoder is known to work this way. */
const patchedVersion = "2.2.4";

interface Decoder {
  readVarInt(): number;
  readVarIntArray(read: (decoder: Decoder) => ReadHeader): HeaderList;
}

interface ReadHeader {
  readonly key: string;
  readonly value: Buffer | null;
}

/** What the decoder of records does with it: folds it into one object, by a function of its own. */
interface HeaderList {
  reduce(): Record<string, unknown>;
}

/** Repairs the loaded client. Another version is left alone. Twice is fine. */
export function collectHeadersAtOnce(): void {
  const require = createRequire(import.meta.url);
  const { version } = require("kafkajs/package.json") as { readonly version: string };
  if (version !== patchedVersion) return;
  // Records' headers are the only lists of this kind.
  const decoder = require("kafkajs/src/protocol/decoder") as { readonly prototype: Decoder };
  decoder.prototype.readVarIntArray = function readHeaders(read): HeaderList {
    const headers = Array.from({ length: Math.max(0, this.readVarInt()) }, () => read(this));
    return { reduce: () => collect(headers) };
  };
}

/** As the client does: the value of a header, or its values in order when it is repeated. */
function collect(headers: readonly ReadHeader[]): Record<string, unknown> {
  const map: Record<string, unknown> = headerMap();
  for (const { key, value } of headers) {
    const before = map[key];
    if (before === undefined) map[key] = value;
    else if (Array.isArray(before)) before.push(value);
    else map[key] = [before, value];
  }
  return map;
}
