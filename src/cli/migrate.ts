/** `postrider migrate`: the tables of a store, from the command line. */
import { nodeRuntime } from "../clock.ts";
import { ConfigurationError } from "../errors.ts";
import { textOf } from "../inspect.ts";
import { didYouMean } from "../options.ts";
import type { Store } from "../store.ts";

/** Where a command writes: results to `out`, all else to `err`. */
export interface Terminal {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
}

type Command = (store: Store, terminal: Terminal, args: readonly string[]) => Promise<0 | 1>;

const commands: Readonly<Record<"up" | "status" | "print", Command>> = {
  async up(store, { out, err }, args) {
    refuse("up", args);
    const { have } = await store.version();
    // Such a store has its clock from `connect`, and makes its tables there.
    if (store.migratesItself) {
      const emit = (event: { readonly type: string; readonly message?: string }): void => {
        if (event.type === "warning") err(`${event.message}\n`);
      };
      await store.connect({ runtime: nodeRuntime, emit });
    }
    const { from, to } = await store.migrate();
    const before = Math.min(have, from);
    out(before === to ? `version ${to}: nothing to do\n` : `version ${before} -> ${to}\n`);
    return 0;
  },

  async status(store, { out }, args) {
    refuse("status", args);
    const { have, known } = await store.version();
    const advice = have < known ? 'run "postrider migrate up"' : "nothing to do";
    out(`version ${have}, this postrider makes ${known}: ${advice}\n`);
    return have < known ? 1 : 0;
  },

  async print(store, { out }, args) {
    const [version, ...more] = args;
    refuse("print", more);
    const texts = store.migrations().map((sql, index) => `-- postrider: version ${index + 1}\n${sql}\n`);
    if (version === undefined) {
      out(texts.join("\n"));
      return 0;
    }
    const text = /^\d+$/u.test(version) ? texts[Number(version) - 1] : undefined;
    if (text === undefined) {
      throw new ConfigurationError("ERR_CONFIG", `no version "${version}" (there is 1 to ${texts.length})`);
    }
    out(text);
    return 0;
  },
};

function refuse(command: string, args: readonly string[]): void {
  if (args.length === 0) return;
  throw new ConfigurationError(
    "ERR_CONFIG",
    `migrate ${command} takes no argument, got "${textOf(args[0])}"`,
  );
}

/** Throws `ERR_CONFIG` with a did-you-mean. */
export function migrateCommand(name: string | undefined): Command {
  const names = Object.keys(commands);
  if (name !== undefined && Object.hasOwn(commands, name)) return commands[name as keyof typeof commands];
  throw new ConfigurationError(
    "ERR_CONFIG",
    name === undefined
      ? `migrate needs a command: ${names.join(", ")}`
      : `unknown command "migrate ${name}"${didYouMean(name, names)}`,
  );
}
