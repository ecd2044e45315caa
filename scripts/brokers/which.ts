import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** The executable files of that name, in the given folders first and then along the PATH. */
export function which(name: string, folders: readonly string[] = []): readonly string[] {
  const path = (process.env["PATH"] ?? "").split(delimiter).filter(Boolean);
  return [...folders, ...path].map((folder) => join(folder, name)).filter(isExecutable);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
