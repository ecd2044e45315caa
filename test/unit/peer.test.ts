import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { loadPeer } from "../../src/peer.ts";
import { messagingErrorOf } from "./support/errors.ts";

describe("loadPeer", () => {
  it("gives what was loaded", async () => {
    assert.equal(await loadPeer("x", () => Promise.resolve(7)), 7);
  });

  it("says how to install what is missing", async () => {
    const name = "postrider-no-such-package";
    const error = await messagingErrorOf("ERR_DEPENDENCY", () =>
      loadPeer(name, () => import(/* @vite-ignore */ name)),
    );

    assert.equal(error.message, `"${name}" is not installed. Run: npm install ${name}`);
    assert.ok(error.cause instanceof Error);
  });

  it("does not call a package missing that is there and lacks something itself", async () => {
    const cause = Object.assign(
      new Error("Cannot find package 'inner' imported from /app/node_modules/amqplib/x.js"),
      {
        code: "ERR_MODULE_NOT_FOUND",
      },
    );
    const { message } = await messagingErrorOf("ERR_DEPENDENCY", () =>
      loadPeer("amqplib", () => Promise.reject(cause)),
    );

    assert.match(message, /^"amqplib" is installed but cannot be loaded: Cannot find package 'inner'/u);
  });

  it.each([null, "text", new SyntaxError("bad"), Object.create(null)])(
    "reports a load that fails with %s",
    async (cause) => {
      const error = await messagingErrorOf("ERR_DEPENDENCY", () =>
        loadPeer("pg", () => Promise.reject(cause)),
      );

      assert.equal(error.cause, cause);
      assert.match(error.message, /^"pg" is installed but cannot be loaded/u);
    },
  );
});
