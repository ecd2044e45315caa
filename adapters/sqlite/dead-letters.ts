/** Dead letters of one group: rows that point at their messages, with headers of their own. */
import type { DeadLetterCursor, GroupSpec, StoredDeadLetter } from "../../src/spi.ts";
import type { SqliteConnection } from "./connection.ts";
import { forget } from "./messages.ts";
import { brokerError } from "./errors.ts";
import { type MessageColumns, fromColumns } from "./mapping.ts";

interface Row extends MessageColumns {
  readonly id: number;
  readonly message_id: number;
}

/** A cursor over what was there when it was opened. */
export async function openCursor(connection: SqliteConnection, spec: GroupSpec): Promise<DeadLetterCursor> {
  const guard = async <T>(what: string, act: () => Promise<T>): Promise<T> =>
    act().catch((cause: unknown) => Promise.reject(brokerError(what, connection.path, cause)));
  const group = await connection.group(spec);
  const last = await guard("listing dead letters", () =>
    connection.file.read(
      (sql) => sql.get<{ id: number | null }>("SELECT max(id) AS id FROM postrider_dead")?.id ?? 0,
    ),
  );
  let after = 0;

  return {
    async read(limit) {
      const rows = await guard("listing dead letters", () =>
        connection.file.read((sql) =>
          sql.all<Row>(
            `SELECT d.id, d.message_id, m.key, m.attributes, d.headers, m.body
             FROM postrider_dead d JOIN postrider_messages m ON m.id = d.message_id
             WHERE d.group_id = ? AND d.id > ? AND d.id <= ? ORDER BY d.id LIMIT ?`,
            group,
            after,
            last,
            limit,
          ),
        ),
      );
      after = rows.at(-1)?.id ?? after;
      return rows.map((row): StoredDeadLetter => ({
        message: fromColumns(row),
        position: String(row.message_id),
        token: { id: row.id, message: row.message_id },
      }));
    },
    async remove(letters) {
      const tokens = letters.map(({ token }) => token as { readonly id: number; readonly message: number });
      await guard("removing dead letters", () =>
        connection.file.write((sql) => {
          for (const { id, message } of tokens) {
            sql.run("DELETE FROM postrider_dead WHERE id = ?", id);
            forget(sql, message);
          }
        }),
      );
    },
    close: () => Promise.resolve(),
  };
}
