/** A vite plugin that plants the mutant named by `POSTRIDER_MUTANT`. */
import type { Plugin } from "vitest/config";
import { mutants } from "./mutants.ts";

export const mutantVariable = "POSTRIDER_MUTANT";

export function plantMutant(): Plugin | undefined {
  const name = process.env[mutantVariable];
  if (!name) return undefined;
  const mutant = mutants.find((one) => one.name === name);
  if (mutant === undefined) throw new Error(`${mutantVariable}: there is no mutant "${name}"`);
  const { file, from, to } = mutant;
  return {
    name: "plant-mutant",
    enforce: "pre",
    // What is cached is sound, and what is loaded now must never be cached.
    config: () => ({ test: { fsModuleCache: false } }),
    transform(code, id) {
      if (!id.endsWith(`/${file}`)) return undefined;
      if (code.split(from).length !== 2) throw new Error(`mutant "${name}": not once in ${file}: ${from}`);
      return code.replace(from, () => to);
    },
  };
}
