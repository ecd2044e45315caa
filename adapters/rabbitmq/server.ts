/** What the server says of itself, and what is wrong with how we talk to it. */
import type { ChannelModel } from "amqplib";
import { type AdapterContext, ConfigurationError, warnOfInsecurity } from "../../src/spi.ts";
import type { Settings } from "./options.ts";

/** Quorum queues with time-outs and with dead-lettering that is confirmed exist since 3.10. */
const oldest = { major: 3, minor: 10 };

/** Throws `ERR_CAPABILITY` when the server is too old. By its version: what it does not know it accepts and ignores. */
export function checkServer({ connection }: ChannelModel, emit: AdapterContext["emit"]): void {
  const { product, version } = connection.serverProperties;
  const [major = NaN, minor = NaN] = version.split(".").map(Number);
  if (product !== "RabbitMQ" || Number.isNaN(major) || Number.isNaN(minor)) {
    return emit({
      type: "warning",
      code: "SERVER",
      message: `the server calls itself "${product} ${version}"; only RabbitMQ 3.10 and later is known to keep the promises`,
    });
  }
  if (major < oldest.major || (major === oldest.major && minor < oldest.minor)) {
    throw new ConfigurationError(
      "ERR_CAPABILITY",
      `RabbitMQ ${version} has no quorum queues that can delay; postrider needs 3.10 or later`,
    );
  }
}

/** Of a password in clear on the network, and of certificates that are not checked. */
export function checkSecurity({ nodes, auth, tls }: Settings, emit: AdapterContext["emit"]): void {
  const clear = auth === "external" ? [] : nodes.filter(({ secure }) => !secure);
  warnOfInsecurity("RabbitMQ", { tls, clear: clear.map(({ address }) => address) }, (code, message) =>
    emit({ type: "warning", code, message }),
  );
}
