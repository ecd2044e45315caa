import { MessagingError, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import type { RabbitmqOptions } from "postrider/rabbitmq";
import { type AddressInfo, createServer } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { openAdapter, openBus, server, throughProxy, unique } from "./bench.ts";

const { hostname, port } = new URL(server.url);

async function failureOf(options: Partial<RabbitmqOptions>): Promise<MessagingError> {
  const error: unknown = await openAdapter(options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!MessagingError.is(error)) throw new Error(`not refused with an error of ours: ${String(error)}`);
  return error;
}

/** A server that accepts and says nothing. */
async function silentServer(): Promise<string> {
  const silent = createServer();
  onTestFinished(() => void silent.close());
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  return `127.0.0.1:${(silent.address() as AddressInfo).port}`;
}

export function connecting(): void {
  describe("connecting fails", () => {
    test("with host and port when nobody listens", async () => {
      const error = await failureOf({ url: "amqp://127.0.0.1:1" });

      expect(error).toMatchObject({ code: "ERR_CONNECT", retryable: true });
      expect(error.message).toContain("127.0.0.1:1: ECONNREFUSED");
    });

    test("with the host when its name is not known", async () => {
      const error = await failureOf({ url: "amqp://no-such-host.invalid" });

      expect(error).toMatchObject({ code: "ERR_CONNECT", retryable: true });
      expect(error.message).toContain("no-such-host.invalid:5672");
    });

    test("for good when the password is wrong, and nothing shows it", async () => {
      const error = await failureOf({ url: `amqp://guest:hunter2@${hostname}:${port}` });

      expect(error).toMatchObject({ code: "ERR_AUTH", retryable: false });
      expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain("hunter2");
      expect((error.cause as Error).message).not.toContain("hunter2");
    });

    test("with the virtual host when there is none of that name", async () => {
      const error = await failureOf({ url: `amqp://${hostname}:${port}/no%20such` });

      expect(error.code).toBe("ERR_CONNECT");
      expect(error.message).toContain("virtual host `no such`");
    });

    test("with a hint when TLS meets a port that does not speak it", async () => {
      const error = await failureOf({ url: `amqps://${hostname}:${port}` });

      expect(error).toMatchObject({ code: "ERR_TLS", retryable: false });
      expect(error.message).toContain("use amqp://");
    });

    test("in time when somebody accepts and says nothing", async () => {
      const address = await silentServer();

      const error = await failureOf({ url: `amqp://${address}`, connectTimeout: 100 });

      expect(error.code).toBe("ERR_CONNECT");
      expect(error.message).toContain(`${address}: no answer within 100 ms`);
    });
  });

  test("of several nodes the first that answers is used", async () => {
    const { bus, events } = openBus({ urls: ["amqp://127.0.0.1:1", server.url] });

    await bus.connect();

    expect(bus.health().ready).toBe(true);
    expect(events.filter(({ type }) => type === "connected")).toHaveLength(1);
  });

  describe("closing does not hang", () => {
    test("when the connections were just cut", async () => {
      const proxy = await throughProxy();
      const { adapter } = await openAdapter({ url: proxy.url });

      await proxy.cut();

      await adapter.close();
    });

    test("while it connects", async () => {
      const { bus } = openBus({ url: `amqp://${await silentServer()}` });
      const connecting = bus.connect().catch((error: unknown) => error);

      await bus.close();

      expect(await connecting).toMatchObject({ code: expect.stringMatching(/ERR_C/u) as string });
    });

    test.skipIf(!server.ours)(
      "when the server is frozen, with a consumer and a publish under way",
      async () => {
        const topic = defineTopic<number>(unique("frozen"));
        // Its heartbeats would end this in two minutes.
        const { bus } = openBus({ heartbeat: "60s" });
        await bus.consume(topic, { group: "g" }, () => undefined);
        await bus.publish(topic, 1);
        await server.pause();
        try {
          const publish = bus.publish(topic, 2).catch((error: unknown) => error);
          await bus.close({ timeout: 100 });

          expect(await publish).toMatchObject({ accepted: "unknown" });
        } finally {
          await server.resume();
        }
      },
      30_000,
    );
  });

  test.skipIf(!server.ours)(
    "a server that says nothing any more is noticed by its heartbeats, and used again when it speaks",
    async () => {
      const topic = defineTopic<number>(unique("heartbeat"));
      const { bus, events } = openBus({ heartbeat: "1s", connectTimeout: "1s" });
      const handled: number[] = [];
      await bus.consume(topic, { group: "g" }, (n) => void handled.push(n));

      await server.pause();
      try {
        await eventually(() => expect(events.map(({ type }) => type)).toContain("disconnected"));
        expect(bus.health().ready).toBe(false);
      } finally {
        await server.resume();
      }
      await bus.publish(topic, 1);

      await eventually(() => expect(handled).toEqual([1]));
      expect(bus.health().ready).toBe(true);
    },
    60_000,
  );
}
