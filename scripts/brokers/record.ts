/** What is known of a running instance, on disk: any process of the checkout can find and stop it. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ProcessId } from "./process.ts";
import type { Place } from "./settings.ts";

export type InstanceRecord = {
  readonly port: number;
  /** Absent for a container, and after an orderly stop. */
  readonly server?: ProcessId | undefined;
  /** The program that `server` runs. */
  readonly file?: string | undefined;
  readonly helper?: ProcessId | undefined;
  readonly container?: boolean | undefined;
  /** As the server told it when it was ready. */
  readonly version?: string | undefined;
};

export function readRecord(place: Place): InstanceRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(recordFile(place), "utf8"));
  } catch {
    return undefined; // none, or cut short by a full disk: as good as none
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { port, server, file, helper, container, version } = value as { [key: string]: unknown };
  return {
    port: typeof port === "number" ? port : place.port,
    server: toProcessId(server),
    file: typeof file === "string" ? file : undefined,
    helper: toProcessId(helper),
    container: container === true,
    version: typeof version === "string" ? version : undefined,
  };
}

export function writeRecord(place: Place, record: InstanceRecord): void {
  mkdirSync(place.home, { recursive: true });
  // Renamed into place, so that no reader meets half of it.
  const draft = `${recordFile(place)}.${process.pid}`;
  writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`);
  renameSync(draft, recordFile(place));
}

export function removeRecord(place: Place): void {
  rmSync(recordFile(place), { force: true });
}

function recordFile(place: Place): string {
  return join(place.home, "instance.json");
}

function toProcessId(value: unknown): ProcessId | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { pid, started } = value as { [key: string]: unknown };
  if (typeof pid !== "number" || !Number.isInteger(pid) || pid <= 1) return undefined;
  return typeof started === "string" ? { pid, started } : undefined;
}
