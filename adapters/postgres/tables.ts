/** Names of what the store makes in a database, quoted. */
export interface Tables {
  readonly schema: string;
  /** Messages waiting to leave. */
  readonly outbox: string;
  /** Messages that can never leave, with the reason: a person's to look at. */
  readonly parked: string;
  /** Who may relay. */
  readonly lease: string;
  /** What was handled, or is being handled. */
  readonly inbox: string;
  /** Messages whose sender has not decided yet. */
  readonly prepared: string;
  /** Version of the tables. */
  readonly meta: string;
  /** SQL of a seed, so that schemas do not share advisory locks. */
  seed(purpose: "outbox" | "inbox" | "migrate"): string;
}

/** `schema` matches `^[a-z_][a-z0-9_]{0,62}$`: it needs no escaping. */
export function tablesOf(schema: string): Tables {
  const table = (name: string): string => `"${schema}"."${name}"`;
  return {
    schema,
    outbox: table("outbox"),
    parked: table("outbox_parked"),
    lease: table("lease"),
    inbox: table("inbox"),
    prepared: table("prepared"),
    meta: table("meta"),
    seed: (purpose) => `hashtextextended('postrider ${schema} ${purpose}', 0)`,
  };
}
