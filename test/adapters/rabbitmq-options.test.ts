import { MessagingError } from "postrider";
import { rabbitmq, type RabbitmqOptions } from "postrider/rabbitmq";
import { describe, expect, test } from "vitest";
import { checkOptions } from "../../adapters/rabbitmq/options.ts";

const url = "amqp://localhost";

function refusal(options: unknown): MessagingError {
  try {
    rabbitmq(options as RabbitmqOptions);
  } catch (error) {
    if (MessagingError.is(error)) return error;
  }
  throw new Error("it was not refused");
}

describe("an option that cannot work is refused at once", () => {
  test.each([
    [{ url, hartbeat: "5s" }, 'unknown option "hartbeat" (did you mean "heartbeat"?)'],
    [{}, "needs a url"],
    [{ url, urls: [url] }, "url or urls, not both"],
    [{ urls: [] }, "at least one URL"],
    [{ url: "localhost:5672" }, "must begin with amqp://"],
    [{ url: "http://localhost" }, "must begin with amqp:// or amqps://"],
    [{ url: "amqp://" }, "has no host"],
    [{ url: "amqp://user:12/34@localhost" }, "has an @ behind the host"],
    [{ url: "amqp://localhost?heartbeats=5" }, 'the parameter "heartbeats"'],
    [{ url: "amqp://localhost?heartbeat=fast" }, "heartbeat must be"],
    [{ url: "amqp://us%zzer@localhost" }, "hexadecimal"],
    [{ url, heartbeat: 0 }, "heartbeat must be between 1000 ms"],
    [{ url, heartbeat: "soon" }, "heartbeat must be milliseconds or a duration"],
    [{ url, connectTimeout: -1 }, "connectTimeout must be between"],
    [{ url, confirmTimeout: "10ms" }, "confirmTimeout must be between 1000 ms"],
    [{ url, confirmWindow: 0 }, "confirmWindow must be an integer 1..10000"],
    [{ url, auth: "kerberos" }, 'auth must be "plain" | "amqplain" | "external"'],
    [{ url, connectionName: "" }, "connectionName must be a string"],
    [{ url, tls: { ca: "x" } }, "tls needs URLs that begin with amqps://"],
    [{ url: "amqps://localhost", tls: { cas: "x" } }, 'unknown option "cas" (did you mean "ca"?)'],
  ])("%j", (options, text) => {
    const error = refusal(options);

    expect(error.code).toBe("ERR_CONFIG");
    expect(error.message).toContain(text);
  });

  test("and its message does not show the password", () => {
    for (const bad of [
      "amqp://user:hunter2@host?x=1",
      "amqp://user:hunter2%@host",
      "http://user:hunter2@host",
      "amqp:/user:hunter2@host",
      "amqp://user:pass/hunter2@host",
      "amqp://user:pass?hunter2@host",
      "amqp://user:pass#hunter2@host",
    ]) {
      const error = refusal({ url: bad });

      expect(`${error.message} ${String(error.cause)}`).not.toContain("hunter2");
    }
  });
});

describe("a URL", () => {
  test("says everything there is to say, percent-encoded where needed", () => {
    const { nodes, heartbeatSeconds, connectTimeoutMs } = checkOptions({
      url: "amqps://us%40er:p%2Fw@broker.example:5999/my%2Fhost?heartbeat=30&connection_timeout=1500",
    });

    expect(nodes).toEqual([
      {
        secure: true,
        hostname: "broker.example",
        port: 5999,
        username: "us@er",
        password: "p/w",
        vhost: "my%2Fhost",
        address: "broker.example:5999",
      },
    ]);
    expect([heartbeatSeconds, connectTimeoutMs]).toEqual([30, 1500]);
  });

  test("leaves out what has a default", () => {
    const [node] = checkOptions({ url: "amqp://[::1]" }).nodes;

    expect(node).toMatchObject({
      hostname: "::1",
      port: 5672,
      username: "guest",
      password: "guest",
      vhost: "",
    });
  });

  test("may be one of several nodes, tried in turn", () => {
    const { nodes } = checkOptions({ urls: ["amqp://a", "amqp://b:5673"] });

    expect(nodes.map(({ address }) => address)).toEqual(["a:5672", "b:5673"]);
  });
});
