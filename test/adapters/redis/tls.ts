import { expect, test } from "vitest";
import { openAdapter, server } from "./bench.ts";

/** What all brokers have in common is in ../security.ts. */
export function overTls(): void {
  test("TLS to a port without it, and none to one with it, is said to be that", async ({ skip }) => {
    const door = server.secure() ?? skip("a server in a container has no such door");
    const failureOf = async (to: string): Promise<string> => {
      return String(await openAdapter({ url: to, connectTimeout: 300 }).catch((reason: unknown) => reason));
    };

    expect(await failureOf(server.url.replace("redis:", "rediss:"))).toContain(
      "that the port is one for TLS",
    );
    expect(await failureOf(door.url.replace("rediss:", "redis:"))).toContain("connecting to Redis");
  });
}
