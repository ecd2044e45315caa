/** For brokers that nothing but the library can write to: the closest to a foreign message is one without attributes. */
import type { Adapter } from "../../../src/spi.ts";
import type { ForeignProducer } from "postrider/testing";
import { nodeRuntime } from "../../../src/clock.ts";
import { headerMap } from "../../../src/headers.ts";
import { createNames } from "../../../src/names.ts";

export function bareProducer(open: () => Adapter): ForeignProducer {
  return {
    maxHeaderBytes: 2 * 1_048_576,
    async publish(name, messages) {
      const adapter = open();
      await adapter.connect({
        runtime: nodeRuntime,
        names: createNames(""),
        prefix: "",
        emit: () => undefined,
      });
      const destination = { topic: { name, partitions: 1, keyed: false } };
      const results = await adapter.publish(
        messages.map(({ headers = {}, body }) => {
          const texts = Object.entries(headers).map(
            ([name, value]) => [name, Buffer.from(value).toString()] as const,
          );
          const message = { attributes: headerMap(), headers: headerMap(texts), key: undefined, body };
          return { destination, message, durability: "replicated", requireRoute: false };
        }),
      );
      await adapter.close();
      const failed = results.find(({ status }) => status !== "accepted");
      if (failed !== undefined) throw new Error("a foreign message was not taken", { cause: failed });
    },
  };
}
