import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { MessagingError } from "postrider";
import type { RabbitmqOptions } from "postrider/rabbitmq";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { openAdapter, server } from "./bench.ts";

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

/** Takes TLS off in front of the broker, for what its own door cannot show. */
async function terminator(options: tls.TlsOptions): Promise<string> {
  const { hostname, port } = new URL(server.url);
  const ends = tls.createServer(options, (client) => {
    const upstream = net.connect(Number(port), hostname);
    client.pipe(upstream).pipe(client);
    for (const socket of [client, upstream]) {
      socket.on("error", () => undefined);
      socket.on("close", () => (client.destroy(), upstream.destroy()));
    }
  });
  ends.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => ends.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void ends.close());
  return `amqps://localhost:${(ends.address() as net.AddressInfo).port}`;
}

async function failureOf(options: Partial<RabbitmqOptions>): Promise<MessagingError> {
  const error: unknown = await openAdapter(options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!MessagingError.is(error)) throw new Error(`not refused with an error of ours: ${String(error)}`);
  return error;
}

/** What all brokers have in common is in ../security.test.ts. */
export function overTls(): void {
  afterAll(() => rmSync(folder, { recursive: true }));

  describe("over TLS", () => {
    const good = certificate("good", "localhost");
    const other = certificate("other", "elsewhere.example");

    test("a server that asks for a client certificate gets one", async () => {
      const url = await terminator({
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
      const url = await terminator(other);

      const { events } = await openAdapter({ url, tls: { insecureSkipVerify: true } });

      expect(events).toContainEqual(expect.objectContaining({ type: "warning", code: "TLS_INSECURE" }));
    });
  });
}
