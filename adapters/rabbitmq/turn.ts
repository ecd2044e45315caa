/**
 * Order over several instances: of all ordered subscriptions of a group only one consumes a queue at a time. It holds a queue
 * that is exclusive to its connection, so its turn ends with the connection that its deliveries belong to, without any
 * clock. This is the one place that knows how a turn is taken; which queues an instance should take a turn at is for
 * `sharing.ts` to say.
 */
import type { AdapterContext, MessagingError, Runtime } from "../../src/spi.ts";
import { onThrowAwayChannel } from "./channel.ts";
import type { Session } from "./connection.ts";
import { lockOf } from "./topology.ts";

/** The right to consume, until it is released or its connection ends. */
export interface Turn {
  release(): Promise<void>;
}

const askAgainMs = 1_000;
const settleMs = 50;
/** How long former consumers may take to go before it is said that there are others. */
const mixedMs = 5_000;

/** The server lets a connection declare its exclusive queue twice: within a process the turn is kept here. */
const takenHere = new WeakMap<Session, Set<string>>();

/** Stands by until it is our turn to consume `queue`. Rejects when the connection ends or `signal` aborts. */
export async function takeTurn(
  context: AdapterContext,
  session: Session,
  queue: string,
  signal: AbortSignal,
): Promise<Turn> {
  const stop = AbortSignal.any([signal, session.ended]);
  await untilLocked(context.runtime, session, queue, stop);
  return begin(context, session, queue, stop);
}

/** Takes the turn at a queue if nobody has it. */
export async function tryTurn(
  context: AdapterContext,
  session: Session,
  queue: string,
  signal: AbortSignal,
): Promise<Turn | undefined> {
  if (!(await tryLock(session, lockOf(queue)))) return undefined;
  return begin(context, session, queue, AbortSignal.any([signal, session.ended]));
}

/** Having the lock. */
async function begin(
  context: AdapterContext,
  session: Session,
  queue: string,
  stop: AbortSignal,
): Promise<Turn> {
  const lock = lockOf(queue);
  const turn: Turn = {
    async release() {
      try {
        if (!session.ended.aborted) await unlock(session, lock);
      } finally {
        takenHere.get(session)?.delete(lock);
      }
    },
  };
  try {
    await untilAlone(context, session, queue, stop);
    return turn;
  } catch (error) {
    // If its connection has ended, so has the turn.
    await turn.release().catch(() => undefined);
    throw error;
  }
}

/**
 * Asks for the lock until it is ours. Being refused is an error in the server's log; so it is asked for at the start, to learn
 * who consumes, and then only when nobody does.
 */
async function untilLocked(
  runtime: Runtime,
  session: Session,
  queue: string,
  stop: AbortSignal,
): Promise<void> {
  const lock = lockOf(queue);
  let first = true;
  for (;;) {
    if ((first || (await consumersOf(session, queue)) === 0) && (await tryLock(session, lock))) return;
    first = false;
    // Spread, so that all who stand by do not ask at once.
    await runtime.sleep(askAgainMs * (0.75 + runtime.random("turn") / 2), stop);
  }
}

/** `false`: another connection has it, or another subscription of ours. */
async function tryLock(session: Session, lock: string): Promise<boolean> {
  const taken = takenHere.get(session) ?? new Set<string>();
  takenHere.set(session, taken);
  if (taken.has(lock)) return false;
  taken.add(lock);
  try {
    await onThrowAwayChannel(session, `queue \`${lock}\``, (channel) =>
      channel.assertQueue(lock, { exclusive: true, durable: false }),
    );
    return true;
  } catch (error) {
    taken.delete(lock);
    if (isRefusal(error)) return false;
    throw error;
  }
}

async function unlock(session: Session, lock: string): Promise<void> {
  await onThrowAwayChannel(session, `queue \`${lock}\``, (channel) => channel.deleteQueue(lock));
}

function isRefusal(error: unknown): boolean {
  const { cause } = error as MessagingError & { readonly cause?: { readonly code?: unknown } };
  return cause?.code === 405;
}

/**
 * Waits until the one before has really gone. The lock is free as soon as its connection ends, but the queue may learn of it
 * later, and until then would give us what comes after its unsettled deliveries. A queue counts a consumer until all it
 * holds was settled or put back (seen on 3.10).
 */
export async function untilAlone(
  context: AdapterContext,
  session: Session,
  queue: string,
  stop: AbortSignal,
): Promise<void> {
  const { runtime } = context;
  const since = runtime.monotonic();
  let told = false;
  while ((await consumersOf(session, queue)) > 0) {
    const late = runtime.monotonic() - since > mixedMs;
    if (late && !told) {
      told = true;
      context.emit({
        type: "warning",
        code: `ORDER_MIXED ${queue}`,
        message: `queue \`${queue}\` is also consumed without order: "key"; the ordered consumer stands by until that ends`,
      });
    }
    await runtime.sleep(late ? askAgainMs : settleMs, stop);
  }
}

async function consumersOf(session: Session, queue: string): Promise<number> {
  const { consumerCount } = await onThrowAwayChannel(session, `queue \`${queue}\``, (channel) =>
    channel.checkQueue(queue),
  );
  return consumerCount;
}
