/** Finds the programs that the servers need, and gets the missing ones where that can be done. */
import { aptCanInstall, aptInstall } from "./apt.ts";
import { which } from "./which.ts";

export type Program = {
  readonly name: string;
  /** Looked into before the PATH. */
  readonly folders?: () => readonly string[];
  /** Package names in Debian and Ubuntu; the first one that the release knows is installed. */
  readonly debian: readonly string[];
  /** Formula in Homebrew. */
  readonly brew: string;
  /** Refuses a file that is there but will not do, such as one too old. */
  readonly accepts?: (file: string) => boolean;
};

/** The path of an installed program. */
export function find(program: Program): string {
  const file = lookFor(program);
  if (!file) throw new Error(`${program.name} not found. ${howToInstall([program])}`);
  return file;
}

export function missing(programs: readonly Program[]): readonly Program[] {
  return programs.filter((program) => !lookFor(program));
}

/** Installs programs with the system's package manager, or says what the developer has to type. */
export async function install(who: string, programs: readonly Program[]): Promise<void> {
  if (!aptCanInstall()) {
    throw new Error(`${list(programs)} not found, and no Docker engine answers. ${howToInstall(programs)}`);
  }
  await aptInstall(
    who,
    programs.map((program) => program.debian),
  );
  const still = missing(programs);
  if (still.length > 0) throw new Error(`packages installed, but ${list(still)} still not found`);
}

function lookFor({ name, folders, accepts = () => true }: Program): string | undefined {
  return which(name, folders?.()).find(accepts);
}

function list(programs: readonly Program[]): string {
  return programs.map((program) => program.name).join(", ");
}

function howToInstall(programs: readonly Program[]): string {
  const unique = (names: readonly (string | undefined)[]): string => [...new Set(names)].join(" ");
  if (process.platform === "darwin") return `Run: brew install ${unique(programs.map((p) => p.brew))}`;
  const packages = unique(programs.map((program) => program.debian[0]));
  return `Run: sudo apt-get install --no-install-recommends ${packages} (or install it in your system's way).`;
}
