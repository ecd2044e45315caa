/**
 * Does in a process of its own what goes wrong with a login, and shows all that is there to see of it, as an application that
 * logs everything would. `node secret-child.ts <kind> <approach as JSON>`.
 */
import { subscribe } from "node:diagnostics_channel";
import { inspect } from "node:util";
import { createBus, defineTopic, type Logger } from "postrider";
import { nodeRuntime } from "../../src/clock.ts";
import type { Adapter } from "../../src/spi.ts";
import { adapterOf, urlOf, type Approach, type SecuredKind } from "./secured.ts";

const [kind, json] = process.argv.slice(2) as [SecuredKind, string];
const approach = JSON.parse(json) as Approach;

const show = (what: string, value: unknown): void => {
  console.log(what, inspect(value, { depth: 12, showHidden: true, maxStringLength: null }));
  console.log(what, String(value), value instanceof Error ? value.stack : JSON.stringify(value));
};
const logger = Object.fromEntries(
  (["debug", "info", "warn", "error"] as const).map((level) => [
    level,
    (details: object, text?: string) => show(`log ${level} ${text}`, details),
  ]),
) as unknown as Logger;
subscribe("postrider", (event) => show("channel", event));

async function attempt(what: string, make: () => Adapter | string): Promise<void> {
  let bus;
  try {
    bus = createBus({
      adapter: make(),
      logger,
      onEvent: (event) => show("event", event),
      connectTimeout: "1s",
      publishTimeout: "1s",
    });
  } catch (error) {
    return show(what, error);
  }
  const topic = defineTopic<number>(`secret-${nodeRuntime.newId().slice(-12)}`);
  const calls = {
    connect: () => bus.connect(),
    publish: () => bus.publish(topic, 1),
    consume: () => bus.consume(topic, { group: "g" }, () => undefined),
  };
  for (const [name, call] of Object.entries(calls))
    await call().catch((error: unknown) => show(`${what}: ${name}`, error));
  show(`${what}: health`, bus.health());
  show(`${what}: bus`, bus);
  await bus.close();
}

const wrong = { ...approach, password: `${approach.password}-wrong` };
await attempt("right password", () => adapterOf(kind, approach));
await attempt("wrong password", () => adapterOf(kind, wrong));
await attempt("unknown user", () => adapterOf(kind, { ...approach, username: "nobody" }));
await attempt("untrusted certificate", () => adapterOf(kind, { ...approach, tls: {} }));
await attempt("wrong password, by URL only", () => urlOf(kind, wrong));
await attempt("nobody there", () =>
  adapterOf(kind, { ...approach, url: approach.url.replace(/:\d+$/u, ":1") }),
);
const url = urlOf(kind, approach);
const broken = [
  url.replace(/:\d+(?=\?|$)/u, ":port"),
  url.replace("127.0.0.1", "no host"),
  url.replace("127.0.0.1", "127.0.0.1 "),
  url.replace("://", ":/"),
  url.replace(/^\w+:/u, "amqq:"),
  `${url}${url.includes("?") ? "&" : "?"}nonsense=1`,
  url.replace(encodeURIComponent(approach.password), approach.password),
  url.replace(encodeURIComponent(approach.password), `${approach.password}%`),
];
for (const each of broken) await attempt("broken URL", () => each);
// As an application ends that does not catch it.
await createBus({ adapter: adapterOf(kind, wrong) }).connect();
