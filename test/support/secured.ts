/** The brokers that take TLS and a login, and the adapter of each, by one and the same description. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import tls from "node:tls";
import type { AddressInfo } from "node:net";
import { kafka } from "postrider/kafka";
import { rabbitmq } from "postrider/rabbitmq";
import { redis } from "postrider/redis";
import type { SecureDoor } from "../../scripts/brokers/index.ts";
import type { Adapter, TlsOptions } from "../../src/spi.ts";

export type SecuredKind = "rabbitmq" | "kafka" | "redis";

/** How an adapter goes to a door. */
export interface Approach {
  readonly url: string;
  readonly username: string;
  readonly password: string;
  readonly tls?: TlsOptions;
}

/** The whole URL, login included. */
export function urlOf(kind: SecuredKind, { url, username, password }: Approach): string {
  const whole = url.replace("//", `//${username}:${encodeURIComponent(password)}@`);
  return kind === "kafka" ? `${whole}?tls=true&sasl=scram-sha-512` : whole;
}

export function adapterOf(kind: SecuredKind, approach: Approach): Adapter {
  const url = urlOf(kind, approach);
  const { tls = {} } = approach;
  if (kind === "rabbitmq") return rabbitmq({ url, tls });
  return kind === "redis" ? redis({ url, tls }) : kafka({ url, tls });
}

/** A file of the door's certificates. */
export function certificate({ certificates }: SecureDoor, file: string): string {
  return readFileSync(join(certificates, file), "utf8");
}

/** Somebody in between with a certificate of his own, who reads along what he is sent. */
export interface Interceptor {
  readonly url: string;
  /** How often somebody came. */
  connections: number;
  /** What he was sent, decrypted. */
  readonly read: Buffer[];
  close(): Promise<void>;
}

/** `name` is that of his certificate, `more` is how else he serves; whoever trusts him is let through to the door. */
export async function intercept(
  door: SecureDoor,
  name: string,
  more: tls.TlsOptions = {},
): Promise<Interceptor> {
  const { hostname, port } = new URL(door.url);
  const ca = certificate(door, "ca.pem");
  const own = { cert: certificate(door, `${name}.pem`), key: certificate(door, `${name}.key`) };
  const sockets = new Set<tls.TLSSocket>();
  const read: Buffer[] = [];
  const server = tls.createServer({ ...own, ...more }, (client) => {
    const broker = tls.connect({ host: hostname, port: Number(port), ca });
    client.on("data", (chunk: Buffer) => read.push(chunk));
    client.pipe(broker).pipe(client);
    for (const socket of [client, broker]) {
      sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => (client.destroy(), broker.destroy()));
    }
  });
  // Whoever refuses the certificate ends it here.
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const interceptor: Interceptor = {
    url: door.url.replace(`:${port}`, `:${(server.address() as AddressInfo).port}`),
    connections: 0,
    read,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  server.on("connection", () => (interceptor.connections += 1));
  return interceptor;
}
