/** The README says what is true: its example runs, its table is the adapters' own. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { guarantees, writtenGuarantees } from "../../scripts/guarantees.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

it("the example runs as it is printed, on a machine without any server", async () => {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const code = /<!-- example -->\n+```ts\n(?<code>[\s\S]*?)```/u.exec(readme)?.groups?.["code"] ?? "";
  const folder = await mkdtemp(join(tmpdir(), "postrider-readme-"));
  try {
    await mkdir(join(folder, "node_modules"));
    await symlink(root, join(folder, "node_modules/postrider"));
    await symlink(join(root, "node_modules/zod"), join(folder, "node_modules/zod"));
    await writeFile(join(folder, "example.mts"), code);

    const { stdout } = await run(process.execPath, ["--conditions=postrider-source", "example.mts"], {
      cwd: folder,
    });

    expect(code.trimEnd().split("\n").length).toBeLessThanOrEqual(25);
    expect(stdout).toBe("invoice over 9, attempt 2\n");
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}, 60_000);

it("the guarantee table is what the adapters declare (`npm run guarantees` writes it)", async () => {
  expect(writtenGuarantees()).toBe(await guarantees());
});
