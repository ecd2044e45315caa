/**
 * Mistakes that were made in other libraries, planted one at a time in our adapters: a line of the source is replaced while
 * it is loaded. The suite must fail each. `npm run test:mutants` plants them.
 */

export interface Mutant {
  readonly name: string;
  /** Whose conformance suite must fail. */
  readonly adapter: "rabbitmq" | "kafka" | "redis" | "memory";
  readonly file: string;
  /** Once in the file. */
  readonly from: string;
  readonly to: string;
  /** Scenarios of which at least one must fail. */
  readonly caughtBy: readonly string[];
}

const rabbitmqSubscriber = "adapters/rabbitmq/subscriber.ts";

export const mutants: readonly Mutant[] = [
  {
    name: "acknowledges before the copy is confirmed",
    adapter: "rabbitmq",
    file: rabbitmqSubscriber,
    from: "const outcome = await this.#parts.publisher.copy(this.#spec, to(stream), message);",
    to: "stream.ack([delivery]); const outcome = await this.#parts.publisher.copy(this.#spec, to(stream), message);",
    caughtBy: ["R8"],
  },
  {
    name: "settles whoever has the message now",
    adapter: "redis",
    file: "adapters/redis/lua.ts",
    from: "if found[1][2] == ARGV[2] then return 1, found[1][4] end",
    to: "if true then return 1, found[1][4] end",
    caughtBy: ["G7", "C8", "A3", "A8"],
  },
  {
    name: "commits beyond a message under way",
    adapter: "kafka",
    file: "adapters/kafka/offsets.ts",
    from: "return this.#tracked[this.#head]?.offset ?? this.#next;",
    to: "return this.#next;",
    caughtBy: ["A6"],
  },
  {
    name: "puts a failed message back at once",
    adapter: "redis",
    file: "adapters/redis/settle-scripts.ts",
    from: "math.ceil(time[2] / 1000) + tonumber(ARGV[6])",
    to: "math.ceil(time[2] / 1000)",
    caughtBy: ["R2"],
  },
  {
    name: "keeps no lease while the handler runs",
    adapter: "redis",
    file: "adapters/redis/settle-scripts.ts",
    from: "if answer == 1 then\n    ours[#ours + 1] = ARGV[i + 6]\n    at[ARGV[i + 6]] = i\n    answers[i] = 2\n  end",
    to: "",
    caughtBy: ["A8"],
  },
  {
    name: "cuts the stream to a length",
    adapter: "redis",
    file: "adapters/redis/publisher.ts",
    from: "redis.pcall('XADD', KEYS[1], '*',",
    to: "redis.pcall('XADD', KEYS[1], 'MAXLEN', 50, '*',",
    caughtBy: ["D2", "D10"],
  },
  {
    name: "sends the copy for another try to all groups",
    adapter: "kafka",
    file: "adapters/kafka/copies.ts",
    from: "const topic = retries.get(tierOf(delayMs, [...retries.keys()])) as string;",
    to: "void retries; void tierOf; const topic = this.#spec.topic.name;",
    caughtBy: ["R6"],
  },
  {
    name: "counts attempts in the process only",
    adapter: "rabbitmq",
    file: rabbitmqSubscriber,
    from: "headers: patchHeaders(delivery.message.headers, patch) };",
    to: "headers: delivery.message.headers }; void patchHeaders; void patch;",
    caughtBy: ["R3"],
  },
  {
    name: "takes whatever a handler returns for success",
    adapter: "memory",
    file: "src/outcome.ts",
    from: 'return typeof value === "object" && value !== null && directive in value;',
    to: "void value; return false;",
    caughtBy: ["A5"],
  },
  {
    name: "swallows the error of a dead letter",
    adapter: "rabbitmq",
    file: rabbitmqSubscriber,
    from: 'return { status: "failed", error: outcome.error };',
    to: "stream.ack([delivery]); return done;",
    caughtBy: ["R8"],
  },
  {
    name: "makes nothing again that was deleted",
    adapter: "rabbitmq",
    file: "adapters/rabbitmq/queue-consumer.ts",
    from: "host.declarations.forgetGroup(host.spec);",
    to: "",
    caughtBy: ["N6"],
  },
  {
    name: "drops on closing what was taken and not handled",
    adapter: "redis",
    file: "adapters/redis/settle-scripts.ts",
    from: "redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[4], 0, ARGV[i], 'TIME', 1, 'RETRYCOUNT', math.max(0, count - 1), 'JUSTID')",
    to: "{redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])}",
    caughtBy: ["S2", "G4"],
  },
];
