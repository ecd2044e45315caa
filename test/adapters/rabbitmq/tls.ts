import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { MessagingError, defineTopic } from "postrider";
import { eventually } from "postrider/testing";
import type { RabbitmqOptions } from "postrider/rabbitmq";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { openAdapter, openBus, server, unique } from "./bench.ts";

const folder = mkdtempSync(join(tmpdir(), "postrider-tls-"));

function openssl(...args: readonly string[]): void {
  execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
}

/** A self-signed certificate for one host name. */
function certificate(name: string, host: string): { readonly cert: string; readonly key: string } {
  const subject = ["-subj", `/CN=${host}`, "-addext", `subjectAltName=DNS:${host}`];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...curve,
    "-keyout",
    `${name}.key`,
    "-out",
    `${name}.pem`,
    "-days",
    "2",
    ...subject,
  );
  return {
    cert: readFileSync(join(folder, `${name}.pem`), "utf8"),
    key: readFileSync(join(folder, `${name}.key`), "utf8"),
  };
}

/** Takes TLS off in front of the broker. Resolves with its URL and what clear text it was ever sent. */
async function terminator(
  options: tls.TlsOptions,
): Promise<{ readonly url: string; readonly seen: Buffer[] }> {
  const { hostname, port } = new URL(server.url);
  const seen: Buffer[] = [];
  const ends = tls.createServer(options, (client) => {
    const upstream = net.connect(Number(port), hostname);
    client.on("data", (chunk: Buffer) => seen.push(chunk));
    client.pipe(upstream).pipe(client);
    for (const socket of [client, upstream]) {
      socket.on("error", () => undefined);
      socket.on("close", () => (client.destroy(), upstream.destroy()));
    }
  });
  ends.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => ends.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void ends.close());
  return { url: `amqps://localhost:${(ends.address() as net.AddressInfo).port}`, seen };
}

async function failureOf(options: Partial<RabbitmqOptions>): Promise<MessagingError> {
  const error: unknown = await openAdapter(options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!MessagingError.is(error)) throw new Error(`not refused with an error of ours: ${String(error)}`);
  return error;
}

export function overTls(): void {
  afterAll(() => rmSync(folder, { recursive: true }));

  describe("over TLS", () => {
    const good = certificate("good", "localhost");
    const other = certificate("other", "elsewhere.example");

    test("messages go round when the certificate is trusted", async () => {
      const { url } = await terminator(good);
      const topic = defineTopic<number>(unique("tls"));
      const { bus, events } = openBus({ url, tls: { ca: good.cert } });
      const handled: number[] = [];
      await bus.consume(topic, { group: "g" }, (n) => void handled.push(n));

      await bus.publish(topic, 1);

      await eventually(() => expect(handled).toEqual([1]));
      expect(events.filter(({ type }) => type === "warning")).toEqual([]);
    });

    test("a certificate that is not trusted is refused before the password is sent", async () => {
      const { url, seen } = await terminator(good);

      const error = await failureOf({ url });

      expect(error).toMatchObject({ code: "ERR_TLS", retryable: false });
      expect(error.message).toMatch(/DEPTH_ZERO_SELF_SIGNED_CERT.*tls\.ca/u);
      expect(seen).toEqual([]);
    });

    test("a certificate of another host is refused", async () => {
      const { url, seen } = await terminator(other);

      const error = await failureOf({ url, tls: { ca: other.cert } });

      expect(error).toMatchObject({ code: "ERR_TLS", retryable: false });
      expect(error.message).toMatch(/ALTNAME_INVALID.*tls\.servername/u);
      expect(seen).toEqual([]);
    });

    test("a server that asks for a client certificate gets one", async () => {
      const { url } = await terminator({
        ...good,
        requestCert: true,
        ca: [other.cert],
        rejectUnauthorized: true,
      });

      await openAdapter({ url, tls: { ca: good.cert, cert: other.cert, key: other.key } });
      const without = await failureOf({ url, tls: { ca: good.cert } });

      expect(without.code).toBe("ERR_TLS");
    });

    test("any certificate is accepted only by a name that says so, with a warning", async () => {
      const { url } = await terminator(other);

      const { events } = await openAdapter({ url, tls: { insecureSkipVerify: true } });

      expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "TLS_INSECURE" }));
    });
  });
}
