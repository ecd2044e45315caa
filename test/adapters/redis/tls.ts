import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessagingError } from "postrider";
import { afterAll, beforeAll, expect, test } from "vitest";
import { collect, openAdapter, openBus, publish, rawClient, server, subscribe, unique } from "./bench.ts";

const folder = mkdtempSync(join(tmpdir(), "postrider-redis-tls-"));
const port = 23381;
const url = `rediss://localhost:${port}`;

/** A self-signed certificate for one host name. */
function certificate(name: string, host: string): void {
  const subject = ["-subj", `/CN=${host}`, "-addext", `subjectAltName=DNS:${host}`];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const files = ["-keyout", `${name}.key`, "-out", `${name}.pem`, "-days", "2"];
  execFileSync("openssl", ["req", "-x509", ...curve, ...files, ...subject], { cwd: folder, stdio: "ignore" });
}

/** Turns the server's own TLS on, with a certificate. */
async function serve(name: string): Promise<void> {
  const file = (suffix: string): string => join(folder, `${name}.${suffix}`);
  await rawClient().config(
    "SET",
    "tls-cert-file",
    file("pem"),
    "tls-key-file",
    file("key"),
    "tls-ca-cert-file",
    file("pem"),
    "tls-auth-clients",
    "no",
    "tls-port",
    String(port),
  );
}

const ca = (name: string): string => readFileSync(join(folder, `${name}.pem`), "utf8");

export function overTls(): void {
  beforeAll(() => {
    certificate("good", "localhost");
    certificate("other", "elsewhere.test");
  });
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true });
  });

  test("it publishes and consumes over TLS with the right ca", async () => {
    await serve("good");
    const topic = unique("tls");
    const { adapter } = await openAdapter({ url, tls: { ca: ca("good") } });
    const sink = collect();
    await subscribe(adapter, topic, sink);
    await publish(adapter, topic, "a");
    await sink.atLeast(1);

    expect(sink.texts()).toEqual(["a"]);
  });

  test.each([
    ["a certificate nobody vouches for", "good", {}],
    ["a certificate for another host", "other", { tls: { ca: "other" } }],
  ] as const)("%s is refused for good, before a password is sent", async (_what, served, options) => {
    await serve(served);
    const tls = "tls" in options ? { tls: { ca: ca(options.tls.ca) } } : {};
    const { bus } = openBus({ url: url.replace("//", "//user:hunter2@"), ...tls });

    const error: unknown = await bus.connect().catch((reason: unknown) => reason);

    expect(MessagingError.is(error) && [error.code, error.retryable]).toEqual(["ERR_TLS", false]);
    expect(String(error)).not.toContain("hunter2");
  });

  test("TLS to a port without it, and none to one with it, is said to be that", async () => {
    await serve("good");
    const failureOf = async (to: string): Promise<string> => {
      return String(await openAdapter({ url: to, connectTimeout: 300 }).catch((reason: unknown) => reason));
    };

    expect(await failureOf(server.url.replace("redis:", "rediss:"))).toContain(
      "that the port is one for TLS",
    );
    expect(await failureOf(url.replace("rediss:", "redis:"))).toContain("connecting to Redis");
  });
}
