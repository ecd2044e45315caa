/** The command line: which command, with which options. Everything it says, it says to the given terminal. */
import { parseArgs } from "node:util";
import { ConfigurationError, MessagingError } from "../errors.ts";
import { redact, textOf } from "../inspect.ts";
import { didYouMean } from "../options.ts";
import { version } from "../version.ts";
import { type Terminal, migrateCommand } from "./migrate.ts";
import { storeFromUrl } from "./stores.ts";

const usage = `\
usage: postrider migrate up               create or upgrade the tables; safe to repeat, and to run twice at once
       postrider migrate status           exit code 0 when they are up to date, 1 when not
       postrider migrate print [version]  the SQL for a tool of your own, all of it or one version's; connects to nothing

options:
  --database URL   postgres://…, mysql://…, sqlite:FILE or the path of a file; default: $DATABASE_URL
  --schema NAME    of the tables in PostgreSQL; default: postrider
  --prefix NAME    of the tables in MariaDB and MySQL; default: postrider_
  --help, --version
`;

const options = {
  database: { type: "string" },
  schema: { type: "string" },
  prefix: { type: "string" },
  help: { type: "boolean" },
  version: { type: "boolean" },
} as const;

interface Parsed {
  readonly words: readonly string[];
  readonly values: { readonly [name in keyof typeof options]?: string };
}

/** Runs one command. Resolves with the exit code: 0 done, 1 failed (or, of `status`, out of date), 2 not understood. */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<0 | 1 | 2> {
  try {
    const { words, values } = parse(args);
    if (values.help !== undefined) return say(terminal, usage);
    if (values.version !== undefined) return say(terminal, `${version}\n`);
    return await run(words, values, terminal);
  } catch (error) {
    terminal.err(`postrider: ${redact(textOf(error))}\n`);
    if (!MessagingError.is(error) || error.code !== "ERR_CONFIG") return 1;
    terminal.err("postrider --help shows how it is used\n");
    return 2;
  }
}

function say({ out }: Terminal, text: string): 0 {
  out(text);
  return 0;
}

async function run(
  [command, name, ...rest]: readonly string[],
  { database, ...naming }: Parsed["values"],
  terminal: Terminal,
): Promise<0 | 1> {
  if (command !== "migrate") {
    throw new ConfigurationError(
      "ERR_CONFIG",
      command === undefined
        ? "a command is needed"
        : `unknown command "${command}"${didYouMean(command, ["migrate"])}`,
    );
  }
  const act = migrateCommand(name);
  const url = database ?? terminal.env["DATABASE_URL"];
  if (url === undefined || url === "") {
    throw new ConfigurationError("ERR_CONFIG", "no database: give --database or set DATABASE_URL");
  }
  const store = storeFromUrl(url, naming);
  try {
    return await act(store, terminal, rest);
  } finally {
    await store.close();
  }
}

/** Throws `ERR_CONFIG` on an option that is unknown or lacks its value. */
function parse(args: readonly string[]): Parsed {
  const known = Object.keys(options).map((name) => `--${name}`);
  const refuse = (why: string): never => {
    throw new ConfigurationError("ERR_CONFIG", why);
  };
  const { tokens } = parseArgs({
    args: [...args],
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const words: string[] = [];
  const values: Record<string, string> = {};
  for (const token of tokens) {
    if (token.kind === "positional") words.push(token.value);
    if (token.kind !== "option") continue;
    const { name, rawName, value } = token;
    if (!Object.hasOwn(options, name)) refuse(`unknown option "${rawName}"${didYouMean(rawName, known)}`);
    const takesValue = options[name as keyof typeof options].type === "string";
    if (takesValue && (value === undefined || value === "" || known.includes(value)))
      refuse(`${rawName} needs a value`);
    if (!takesValue && value !== undefined) refuse(`${rawName} takes no value`);
    values[name] = value ?? "";
  }
  return { words, values };
}
