/** TLS as every adapter takes it. */
import type { ConnectionOptions } from "node:tls";
import { ConfigurationError } from "./errors.ts";
import { checkBoolean, checkFunction, checkKeys } from "./options.ts";

/** How the server's certificate is checked and ours is shown, as `node:tls` takes it. */
export interface TlsOptions extends Pick<
  ConnectionOptions,
  | "ca"
  | "cert"
  | "key"
  | "pfx"
  | "passphrase"
  | "servername"
  | "minVersion"
  | "maxVersion"
  | "ciphers"
  | "checkServerIdentity"
> {
  /** `true`: any certificate is accepted, so anybody in between can read and change everything. Warns. Default `false`. */
  readonly insecureSkipVerify?: boolean | undefined;
}

const knownOptions = [
  "ca",
  "cert",
  "key",
  "pfx",
  "passphrase",
  "servername",
  "minVersion",
  "maxVersion",
  "ciphers",
  "checkServerIdentity",
  "insecureSkipVerify",
] as const satisfies readonly (keyof TlsOptions)[];

/** What goes to `tls.connect`. Throws `ERR_CONFIG`; `where` begins its message, as in "redis tls". */
export function checkTls(where: string, options: TlsOptions): ConnectionOptions {
  if (typeof options === "object" && options !== null && "rejectUnauthorized" in options) {
    throw new ConfigurationError(
      "ERR_CONFIG",
      `${where}: to accept any certificate say insecureSkipVerify: true; better, give the CA's certificate as ca`,
    );
  }
  checkKeys(where, options, knownOptions);
  const { insecureSkipVerify = false, ...rest } = options;
  checkBoolean(`${where}.insecureSkipVerify`, insecureSkipVerify);
  if (rest.checkServerIdentity !== undefined)
    checkFunction(`${where}.checkServerIdentity`, rest.checkServerIdentity);
  // Said in any case: left out, Node takes it from an environment variable.
  return { ...rest, rejectUnauthorized: !insecureSkipVerify };
}

/** Whether an error, by its `code`, is of certificates or of the protocol of TLS: no repetition heals it. */
export function isTlsCode(code: unknown): code is string {
  return typeof code === "string" && tlsCode.test(code);
}

const tlsCode =
  /^(?:ERR_TLS_|ERR_SSL_|ERR_OSSL_|EPROTO$|CERT_|CRL_|DEPTH_ZERO_SELF_SIGNED|SELF_SIGNED|UNABLE_TO_(?:VERIFY|GET_|DECRYPT|DECODE)|ERROR_IN_CERT|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH)/u;

/**
 * Says what whoever sits in between could do. `clear` are the addresses, as `host:port`, to which a password goes without TLS;
 * this machine is not warned of.
 */
export function warnOfInsecurity(
  broker: string,
  { tls, clear }: { readonly tls: ConnectionOptions | undefined; readonly clear: readonly string[] },
  warn: (code: string, message: string) => void,
): void {
  if (tls?.rejectUnauthorized === false) {
    const text = `tls.insecureSkipVerify: ${broker}'s certificate is not checked; anybody in between can read along`;
    warn("TLS_INSECURE", text);
  }
  const address = clear.find((one) => !/^(?:localhost|127\.[\d.]+|\[::1\])(?::|$)/u.test(one));
  if (address !== undefined) {
    warn("PASSWORD_IN_CLEAR", `the password for ${broker} at ${address} travels unencrypted; use TLS`);
  }
}
