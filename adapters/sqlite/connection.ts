/** One adapter's use of its file: connecting, the tables, topics and groups, and what is known of its health. */
import {
  type AdapterContext,
  type Cancel,
  type GroupSpec,
  LifecycleError,
  type MessagingError,
  type TopicSpec,
  type Topology,
  TransportError,
  jittered,
} from "../../src/spi.ts";
import { brokerError, connectError } from "./errors.ts";
import type { SqliteFile } from "./file.ts";
import { acquireFile, releaseFile } from "./files.ts";
import { brokerPart } from "./schema.ts";
import type { Sql } from "./sql.ts";
import { findGroup, groupId, hasTopic, topicId } from "./topology.ts";

/** Longest a write waits behind a transaction of this process: it may be one that waits for this very write. */
const patienceMs = 10_000;

export class SqliteConnection {
  readonly path: string;
  #context: AdapterContext | undefined;
  #file: SqliteFile | undefined;
  #connected = false;
  #error: MessagingError | undefined;
  #failures = 0;
  #cancelProbe: Cancel = () => undefined;
  #stopListening: Cancel = () => undefined;
  /** What was declared, to be made again should the file be removed. */
  readonly #declared = new Map<string, Topology>();

  constructor(path: string) {
    this.path = path;
  }

  get context(): AdapterContext {
    if (this.#context !== undefined) return this.#context;
    throw new LifecycleError("ERR_NOT_STARTED", "the sqlite adapter is not connected");
  }

  get file(): SqliteFile {
    if (this.#file !== undefined) return this.#file;
    throw new LifecycleError("ERR_CLOSED", "the sqlite adapter is not connected");
  }

  now(): number {
    return this.context.runtime.now();
  }

  /** A topic's name with the bus's prefix: what its row is called. */
  nameOf(topic: TopicSpec): string {
    return this.context.names.topic(topic.name);
  }

  async connect(context: AdapterContext): Promise<void> {
    this.#context = context;
    this.#file ??= acquireFile(this.path, context.runtime);
    const file = this.#file;
    try {
      await file.prepare(brokerPart);
    } catch (cause) {
      this.#error = connectError(this.path, cause);
      throw this.#error;
    }
    this.#stopListening();
    this.#stopListening = file.onReopened(() => this.#fileReplaced());
    this.#connected = true;
    this.#error = undefined;
    context.emit({ type: "connected", adapter: "sqlite" });
  }

  async declare(topology: Topology): Promise<void> {
    this.#declared.set(JSON.stringify(topology), topology);
    const { topics, groups } = topology;
    await this.#guard("declare", async () => {
      const complete = await this.file.read(
        (sql) =>
          topics.every((topic) => hasTopic(sql, this.nameOf(topic))) &&
          groups.every(({ topic, group }) => findGroup(sql, this.nameOf(topic), group) !== undefined),
      );
      if (complete) return;
      await this.write((sql) => {
        for (const topic of topics) topicId(sql, this.nameOf(topic));
        for (const { topic, group } of groups) groupId(sql, this.nameOf(topic), group);
      });
    });
  }

  /** The group's id; the group is made when it is not there. */
  group({ topic, group }: GroupSpec): Promise<number> {
    return this.#guard("declare", async () => {
      const name = this.nameOf(topic);
      const known = await this.file.read((sql) => findGroup(sql, name, group));
      return known ?? this.write((sql) => groupId(sql, name, group));
    });
  }

  /**
   * Writes as `SqliteFile.write` does, and remembers how that went. Waits behind a transaction of this process for as long
   * as it lasts only when `patient`.
   */
  async write<T>(run: (sql: Sql) => T, { patient = false }: { readonly patient?: boolean } = {}): Promise<T> {
    try {
      const result = await this.file.write(run, patient ? Infinity : patienceMs);
      this.#succeeded();
      return result;
    } catch (cause) {
      this.#failed(brokerError("a write", this.path, cause));
      throw cause;
    }
  }

  /** Tells the subscriptions of this process that the topic has something new. */
  poke(topic: string): void {
    this.#file?.poke(topic);
  }

  health(): { readonly connected: boolean; readonly error?: MessagingError | undefined } {
    return { connected: this.#connected && this.#error === undefined, error: this.#error };
  }

  async close(): Promise<void> {
    this.#stopListening();
    this.#cancelProbe();
    const file = this.#file;
    this.#file = undefined;
    this.#connected = false;
    if (file !== undefined) await releaseFile(file);
  }

  #succeeded(): void {
    this.#cancelProbe();
    this.#error = undefined;
    this.#failures = 0;
  }

  /** Health is what the last write has shown, so after one that failed somebody has to write again: if nobody else, a probe. */
  #failed(error: MessagingError): void {
    if (error.code === "ERR_CLOSED") return;
    const { runtime } = this.context;
    this.#error = error;
    this.#failures += 1;
    this.#cancelProbe();
    const delayMs = jittered(runtime, "sqlite", 500, 10_000)(this.#failures);
    this.#cancelProbe = runtime.setTimer(delayMs, () => void this.#probe(), { unref: true });
  }

  async #probe(): Promise<void> {
    if (this.#file === undefined) return;
    // A change that changes nothing is still a page in the log, flushed: it fails as any other write would.
    const run = (sql: Sql): number =>
      sql.run("UPDATE postrider_schema SET version = version WHERE part = ?", brokerPart.name);
    await this.write(run).catch(() => undefined);
  }

  async #guard<T>(what: string, act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (cause) {
      throw brokerError(what, this.path, cause);
    }
  }

  #fileReplaced(): void {
    const text = `${this.path} was removed or replaced while it was in use; it was opened anew, and what waited in it is gone`;
    this.context.emit({
      type: "disconnected",
      adapter: "sqlite",
      error: new TransportError("ERR_CONNECTION_LOST", text),
    });
    // Should this fail, a publish makes its topic, and a subscription its group, when they find it missing.
    for (const topology of this.#declared.values()) void this.declare(topology).catch(() => undefined);
    this.context.emit({ type: "connected", adapter: "sqlite" });
  }
}
