import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./lock.ts";
import { find, type Program } from "./programs.ts";
import { run } from "./run.ts";
import { say, secondsSince } from "./say.ts";
import { libraryFolder } from "./settings.ts";

export const maven: Program = { name: "mvn", debian: ["maven"], brew: "maven" };

/** The folder of the jars of one Kafka version; it exists only when complete. */
export function kafkaJars(version: string): string {
  return join(libraryFolder, `kafka-${version}`);
}

/** Kafka is not in Debian; Maven Central has it. Fetched once, kept over `down`. */
export async function fetchKafka(who: string, version: string): Promise<void> {
  const folder = kafkaJars(version);
  if (existsSync(folder)) return;
  const onWait = (): void => say(who, `waiting for another process that fetches Kafka ${version}`);
  await withLock(
    `${folder}.lock`,
    async () => {
      if (existsSync(folder)) return; // by that other process
      say(who, `fetching Kafka ${version} from Maven Central (60 MB)`);
      const start = performance.now();
      const pom = fileURLToPath(new URL(`kafka/${version}.pom.xml`, import.meta.url));
      const partial = `${folder}.partial`;
      await rm(partial, { recursive: true, force: true });
      await mkdir(partial, { recursive: true });
      const goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", `-DoutputDirectory=${partial}`];
      await run(find(maven), ["-q", "-B", "-ntp", "-f", pom, ...goal], { timeoutMs: 600_000 });
      await rename(partial, folder);
      say(who, `Kafka ${version} fetched in ${secondsSince(start)}`);
    },
    { onWait },
  );
}
