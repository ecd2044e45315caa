/** TLS and logins: the same sentences for the tests of every broker that has them, on the door of its real server. */
import { execFile } from "node:child_process";
import type { TlsOptions as TlsServerOptions } from "node:tls";
import { MessagingError, createBus, defineTopic, type BusEvent, type Topic } from "postrider";
import { eventually } from "postrider/testing";
import { expect, onTestFinished, test, type TestContext } from "vitest";
import type { Broker, SecureDoor } from "../../scripts/brokers/index.ts";
import { nodeRuntime } from "../../src/clock.ts";
import {
  adapterOf,
  certificate,
  intercept,
  type Approach,
  type Interceptor,
  type SecuredKind,
} from "../support/secured.ts";

const newTopic = (): Topic<number> => defineTopic(`secured-${nodeRuntime.newId().slice(-12)}`);

/** One message there and back. */
async function roundTrip(kind: SecuredKind, approach: Approach): Promise<number> {
  const bus = createBus({ adapter: adapterOf(kind, approach) });
  onTestFinished(() => bus.close({ timeout: 0 }));
  const topic = newTopic();
  const handled: number[] = [];
  await bus.consume(topic, { group: "g" }, (n) => void handled.push(n));
  await bus.publish(topic, 7);
  return eventually(() => handled[0] ?? expect.fail("not handled yet"));
}

/** How connecting, publishing and consuming fail: each in the same way. */
async function failure(kind: SecuredKind, approach: Approach): Promise<string> {
  const bus = createBus({ adapter: adapterOf(kind, approach) });
  onTestFinished(() => bus.close({ timeout: 0 }));
  const topic = newTopic();
  const calls = [
    () => bus.connect(),
    () => bus.publish(topic, 1),
    () => bus.consume(topic, { group: "g" }, () => undefined),
  ];
  const found = new Set<string>();
  for (const call of calls) {
    const error: unknown = await call().then(
      () => "succeeded",
      (reason: unknown) => reason,
    );
    if (!MessagingError.is(error)) found.add(String(error));
    else found.add(`${error.code}${error.retryable ? ", to be tried again" : ""}`);
  }
  return [...found].join(" or ");
}

async function interceptFor(door: SecureDoor, name: string, more?: TlsServerOptions): Promise<Interceptor> {
  const interceptor = await intercept(door, name, more);
  onTestFinished(() => interceptor.close());
  return interceptor;
}

/** `server` is one that has been started. */
export function security(kind: SecuredKind, server: Broker): void {
  const doorFor = ({ skip }: TestContext): SecureDoor =>
    server.secure() ?? skip("a server in a container has no such door");
  const approachOf = (door: SecureDoor, more: Partial<Approach> = {}): Approach => ({
    url: door.url,
    username: door.username,
    password: door.password,
    tls: { ca: certificate(door, "ca.pem") },
    ...more,
  });

  test("a message goes there and back with the CA, the user and the password", async (context) => {
    const door = doorFor(context);

    expect(await roundTrip(kind, approachOf(door))).toBe(7);
  });

  test.for([
    ["whose CA is unknown", "server", undefined],
    ["that is self-signed", "self-signed", undefined],
    ["that is self-signed, another CA being known", "self-signed", "ca.pem"],
    ["that has expired", "expired", "ca.pem"],
    ["of another host", "other-host", "ca.pem"],
  ] as const)(
    "Z4 a wrong certificate is refused for good, before anything is sent: one %s",
    async ([, name, trusted], context) => {
      const door = doorFor(context);
      const interceptor = await interceptFor(door, name);
      const trust = trusted === undefined ? {} : { ca: certificate(door, trusted) };

      const failed = await failure(kind, approachOf(door, { url: interceptor.url, tls: trust }));

      expect(failed).toBe("ERR_TLS");
      expect(Buffer.concat(interceptor.read).toString("latin1")).toBe("");
      // Each call once more, not again and again until its time is over.
      expect(interceptor.connections).toBeGreaterThan(0);
      expect(interceptor.connections).toBeLessThanOrEqual(6);
    },
  );

  test("the CA makes it work, also that of a self-signed certificate; then it is sent something", async (context) => {
    const door = doorFor(context);
    const interceptor = await interceptFor(door, "self-signed");
    const ca = [certificate(door, "self-signed.pem"), certificate(door, "ca.pem")];

    expect(await roundTrip(kind, approachOf(door, { url: interceptor.url, tls: { ca } }))).toBe(7);
    expect(Buffer.concat(interceptor.read).toString("latin1")).toContain(door.username);
  });

  test.for(["password", "username"] as const)(
    "N5 a wrong login is refused for good, not tried again and again: %s",
    async (what, context) => {
      const door = doorFor(context);
      const interceptor = await interceptFor(door, "server");

      const failed = await failure(kind, approachOf(door, { url: interceptor.url, [what]: "wrong" }));

      expect(failed).toBe("ERR_AUTH");
      expect(interceptor.connections).toBeLessThanOrEqual(6);
    },
  );

  test("a server that asks for a client certificate gets one", async (context) => {
    const door = doorFor(context);
    const ca = certificate(door, "ca.pem");
    const { url } = await interceptFor(door, "server", { ca, requestCert: true, rejectUnauthorized: true });
    const own = { cert: certificate(door, "server.pem"), key: certificate(door, "server.key") };

    expect(await roundTrip(kind, approachOf(door, { url, tls: { ca, ...own } }))).toBe(7);
    expect(await failure(kind, approachOf(door, { url }))).toBe("ERR_TLS");
  });

  test("any certificate is accepted only by a name that says so, with a warning", async (context) => {
    const door = doorFor(context);
    const warnings: string[] = [];
    const adapter = adapterOf(kind, approachOf(door, { tls: { insecureSkipVerify: true } }));
    const onEvent = (event: BusEvent): void => void (event.type === "warning" && warnings.push(event.code));
    const bus = createBus({ adapter, onEvent });
    onTestFinished(() => bus.close({ timeout: 0 }));

    await bus.connect();

    expect(warnings).toContain("TLS_INSECURE");
    const refused = { tls: { rejectUnauthorized: false } as object };
    expect(() => adapterOf(kind, approachOf(door, refused))).toThrow(/insecureSkipVerify: true/u);
  });

  test("Z3 a password is nowhere to be seen, whatever goes wrong", { timeout: 120_000 }, async (context) => {
    const door = doorFor(context);
    const { password, username } = door;

    const output = await outputOf(kind, approachOf(door));

    expect(output).toContain("ERR_AUTH");
    expect(output).toContain("ERR_TLS");
    expect(output).toContain("ERR_CONNECT");
    expect(output).toContain("ERR_CONFIG");
    const bytes = Buffer.from(password);
    const plain = Buffer.from(`\0${username}\0${password}`);
    const forms = [
      // Its words: not even a part of it.
      ...password.split(/[^a-z]+/u).filter((word) => word.length > 3),
      ...[bytes, plain].map((each) => each.toString("base64").slice(0, -4)),
      bytes.toString("hex"),
      bytes.toString("hex").replaceAll(/(..)(?=.)/gu, "$1 "),
    ];
    const lines = output.split("\n").filter((line) => forms.some((form) => line.includes(form)));
    expect(lines).toEqual([]);
  });
}

/** Everything that the program writes, the trace of its own end included. */
function outputOf(kind: SecuredKind, approach: Approach): Promise<string> {
  const program = `${import.meta.dirname}/../support/secret-child.ts`;
  const args = ["--conditions=postrider-source", program, kind, JSON.stringify(approach)];
  return new Promise((resolve) => {
    const options = { env: { ...process.env, NO_COLOR: "1" }, maxBuffer: 1 << 28 };
    execFile(process.execPath, args, options, (_error, stdout, stderr) => resolve(stdout + stderr));
  });
}
