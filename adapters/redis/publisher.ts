/** Publishing: each message stored once, in batches, and confirmed by the server's answer. */
import {
  type MessagingError,
  type OutgoingMessage,
  type PublishResult,
  TransportError,
  idOf,
} from "../../src/spi.ts";
import { type Part, type Sending, divide } from "./batch.ts";
import type { RedisConnection } from "./connection.ts";
import { addDeadLetter } from "./dead-letters.ts";
import { requestError } from "./errors.ts";
import type { Link } from "./link.ts";
import { maxValues } from "./mapping.ts";
import { type Argument, run, script } from "./script.ts";

/**
 * `KEYS[1]` the stream, then each message's keys of the dedupe window; `ARGV[1]` the window, then for each message how many
 * keys it has, how many values its entry, and these. Answers 1 for a message that was stored, 0 for one that was before, or
 * why it could not be stored; as long as nothing was stored, that is the answer for all. A duplicate is written down too:
 * `WAIT` waits only for what its own connection wrote.
 */
const publishScript = script(
  "publishing",
  `
local answers, key, at, stored = {}, 2, 2, false
while at <= #ARGV do
  local keys, values = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local answer = 0
  if keys == 0 or redis.call('EXISTS', unpack(KEYS, key, key + keys - 1)) == 0 then
    local added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 2, at + 1 + values))
    if type(added) == 'table' and added.err then
      if not stored then return added end
      answer = added.err
    else
      answer, stored = 1, true
    end
  end
  if answer == 1 or answer == 0 then
    for i = key, key + keys - 1 do redis.call('SET', KEYS[i], 1, 'PX', ARGV[1]) end
  end
  answers[#answers + 1] = answer
  key, at = key + keys, at + 2 + values
end
return answers`,
);

/** Sends without confirmation that may be under way before the next one waits. */
const maxUnconfirmed = 64;

export interface Publisher {
  publish(batch: readonly OutgoingMessage[]): Promise<readonly PublishResult[]>;
}

export function createPublisher(connection: RedisConnection): Publisher {
  const unconfirmed = new Set<Promise<unknown>>();

  const sendPart = async (link: Link, { stream, sendings }: Part): Promise<readonly PublishResult[]> => {
    const keys = [stream];
    const args: Argument[] = [connection.options.dedupeWindowMs];
    for (const sending of sendings) {
      keys.push(...sending.keys);
      args.push(sending.keys.length, sending.fields.length, ...sending.fields);
    }
    try {
      const answers = (await run(link, publishScript, keys, args)) as readonly (number | Buffer)[];
      // Only now: sent along with the script, it would not wait for one that the server had to be told first.
      const missing = sendings.some(needsReplicas) ? await waitForReplicas(connection, link) : undefined;
      return sendings.map((sending, i) => resultOf(sending, answers[i], missing));
    } catch (error) {
      return sendings.map(() => failure(error));
    }
  };

  const sendLetter = async (link: Link, sending: Sending): Promise<PublishResult> => {
    const { destination, message } = sending.outgoing;
    const spec = { topic: destination.topic, group: destination.group ?? "" };
    try {
      await addDeadLetter(
        link,
        connection.prefix,
        spec,
        idOf(destination.topic.name, "", message),
        sending.fields,
      );
      return resultOf(
        sending,
        1,
        needsReplicas(sending) ? await waitForReplicas(connection, link) : undefined,
      );
    } catch (error) {
      return failure(error);
    }
  };

  /** Not waited for, but not without bound either: what the socket does not take is kept in memory. */
  const fireAndForget = async (sent: Promise<readonly PublishResult[]>): Promise<readonly undefined[]> => {
    const told = sent.then((results) => {
      const failed = results.find((result) => result.status !== "accepted");
      if (failed === undefined) return;
      connection.warn("REDIS_UNCONFIRMED", `a publish without confirmation failed: ${failed.error.message}`);
    });
    unconfirmed.add(told);
    const forget = (): void => void unconfirmed.delete(told);
    told.then(forget, forget);
    if (unconfirmed.size > maxUnconfirmed) await Promise.race(unconfirmed);
    return [];
  };

  const send = async (batch: readonly OutgoingMessage[]): Promise<readonly PublishResult[]> => {
    const results: PublishResult[] = batch.map(({ durability }) => ({ status: "accepted", durability }));
    const { parts, letters, refused } = divide(connection.prefix, batch);
    const link = connection.publishing;
    const settle = async (
      sendings: readonly Sending[],
      sent: Promise<readonly (PublishResult | undefined)[]>,
    ): Promise<void> => {
      const settled = await sent;
      sendings.forEach(({ index }, i) => (results[index] = settled[i] ?? (results[index] as PublishResult)));
    };
    await Promise.all([
      settle(refused, Promise.resolve(refused.map(({ fields }) => tooMany(fields.length)))),
      ...letters.map((letter) =>
        settle(
          [letter],
          sendLetter(link, letter).then((result) => [result]),
        ),
      ),
      ...parts.map((part) => {
        const sent = sendPart(link, part);
        return settle(part.sendings, part.confirmed ? sent : fireAndForget(sent));
      }),
    ]);
    return results;
  };

  return {
    publish: (batch) => send(batch).catch((error: unknown) => batch.map(() => failure(error))),
  };
}

const needsReplicas = ({ outgoing }: Sending): boolean => outgoing.durability === "replicated";

/** Resolves with `undefined` when enough replicas have what was written over this connection, else with an error. */
async function waitForReplicas(connection: RedisConnection, link: Link): Promise<MessagingError | undefined> {
  const { replicas, commandTimeoutMs } = connection.options;
  if (replicas === 0) return undefined;
  const timeoutMs = Math.ceil(commandTimeoutMs / 2);
  const waiting = link.request("waiting for replicas", (redis) => redis.wait(replicas, timeoutMs));
  const reached = await waiting.catch((error: unknown) => requestError("waiting for replicas", error));
  if (typeof reached !== "number") return reached;
  if (reached >= replicas) return undefined;
  const text = `${reached} of ${replicas} replicas have the message after ${timeoutMs} ms. It is on the primary. Check the replication, or ask for fewer.`;
  return new TransportError("ERR_BROKER", text);
}

function resultOf(
  { outgoing: { durability } }: Sending,
  answer: number | Buffer | undefined,
  missing: MessagingError | undefined,
): PublishResult {
  if (typeof answer !== "number") return failure(refusal(answer));
  if (missing !== undefined && durability === "replicated") return { status: "unknown", error: missing };
  return { status: "accepted", durability, duplicate: answer === 0 };
}

/** What the server said of one message, as if it had said so of the whole script. */
function refusal(answer: Buffer | undefined): unknown {
  const error = new Error(answer?.toString() ?? "no answer for this message");
  error.name = "ReplyError";
  return error;
}

function tooMany(values: number): PublishResult {
  const text = `a message of ${values / 2} fields is more than a Redis script can pass on (${maxValues / 2}); put data into the payload`;
  return { status: "rejected", error: new TransportError("ERR_BROKER", text, { retryable: false }) };
}

function failure(cause: unknown): PublishResult {
  const error = requestError("publishing", cause);
  return { status: error.mayHaveRun ? "unknown" : "rejected", error };
}
