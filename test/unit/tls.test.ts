import assert from "node:assert/strict";
import { describe, it } from "vitest";
import { checkTls, isTlsCode, warnOfInsecurity } from "../../src/tls.ts";
import { messagingErrorOf } from "./support/errors.ts";

describe("options of TLS", () => {
  it("check certificates, whatever the environment says", () => {
    assert.deepEqual(checkTls("redis tls", {}), { rejectUnauthorized: true });
    assert.deepEqual(checkTls("redis tls", { ca: "x" }), { ca: "x", rejectUnauthorized: true });
    assert.deepEqual(checkTls("redis tls", { insecureSkipVerify: true }), { rejectUnauthorized: false });
  });

  it.each([
    [{ cas: "x" }, 'redis tls: unknown option "cas" (did you mean "ca"?)'],
    [{ rejectUnauthorized: false }, "insecureSkipVerify: true"],
    [{ insecureSkipVerify: "yes" }, "redis tls.insecureSkipVerify must be true or"],
    [{ checkServerIdentity: 1 }, "redis tls.checkServerIdentity must be a function"],
    [true, "redis tls: options must be an object"],
  ])("that cannot work are refused: %j", async (options, text) => {
    const { message } = await messagingErrorOf("ERR_CONFIG", () => checkTls("redis tls", options as never));

    assert.ok(message.includes(text), message);
  });
});

describe("warnings", () => {
  const warnings = (link: Parameters<typeof warnOfInsecurity>[1]): string[] => {
    const said: string[] = [];
    warnOfInsecurity("Redis", link, (code, message) => void said.push(`${code} ${message}`));
    return said;
  };

  it("say that anybody could read along", () => {
    assert.match(
      warnings({ tls: { rejectUnauthorized: false }, clear: [] }).join(),
      /^TLS_INSECURE .*insecureSkipVerify/u,
    );
    const clear = ["localhost:1", "[::1]:1", "127.0.0.1", "localhost.example:1", "other:1"];
    assert.deepEqual(warnings({ tls: undefined, clear }), [
      "PASSWORD_IN_CLEAR the password for Redis at localhost.example:1 travels unencrypted; use TLS",
    ]);
  });

  it("are not given without a reason", () => {
    assert.deepEqual(warnings({ tls: { rejectUnauthorized: true }, clear: ["localhost"] }), []);
  });
});

describe("codes of errors", () => {
  it("tell what no repetition heals", () => {
    for (const code of [
      "CERT_HAS_EXPIRED",
      "ERR_TLS_CERT_ALTNAME_INVALID",
      "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    ])
      assert.ok(isTlsCode(code), code);
    for (const code of ["ECONNREFUSED", "ERR_SOCKET_CLOSED", "EPIPE", 7, undefined])
      assert.ok(!isTlsCode(code));
  });
});
