/** The scenarios that are asked of an adapter, by id: 90 core, and 26 extended, which have a star. */

const list = `
D1 D2 D3 D4 D5 D6 D7 D8 D9 D10 D11 D12
G1 G2 G3 G4 G5* G6 G7
O1 O2 O3 O4 O5 O6*
A1 A2 A3 A4* A5 A6 A7* A8 A9 A10*
C1 C2 C3 C4 C5 C6 C7 C8
R1 R2 R3 R4 R5 R6 R7 R8 R9 R10*
L1 L2 L3* L4 L5* L6
X1 X2 X3 X4 X5 X6 X7* X8* X9 X10*
I1 I2 I3 I4 I5* I6* I7* I8 I9
B1 B2 B3 B4 B5 B6 B7* B8* B9 B10*
P1 P2* P3 P4 P5
S1 S2 S3* S4 S5 S6
N1 N2 N3 N4* N5 N6 N7* N8
Z1 Z2 Z3 Z4 Z5* Z6*
Y1* Y2* Y3*`;

export const required: readonly { readonly id: string; readonly extended: boolean }[] = list
  .trim()
  .split(/\s+/u)
  .map((entry) => ({ id: entry.replace("*", ""), extended: entry.endsWith("*") }));

/** Why there is nothing to show. */
export const notApplicable: Readonly<Record<string, string>> = {
  A7: "there is no mode in which a handler acknowledges by hand: its return does",
};

/** What is asked for, where no test says it yet. */
export const asked: Readonly<Record<string, string>> = {
  A7: "a handler that acknowledges by hand and does not is warned of, and its message comes again",
  C1: "a consumer killed before its handler ran: the message comes again",
  C2: "a consumer killed in its handler, before the commit: no effect, and then one",
  C3: "a consumer killed between commit and acknowledgement: the message is recognised",
  C4: "a consumer killed between the retry's copy and the acknowledgement: one end",
  C5: "a consumer killed between dead letter and acknowledgement: one dead letter",
  C6: "a relay killed between publishing a row and deleting it: sent at least once",
  C7: "the broker killed under load: nothing is lost",
  C8: "a consumer stopped past its lease wakes up after another took over: one effect",
  G6: "a rebalance while handlers run: nothing is lost, no effect twice",
  G7: "an acknowledgement after the partition was lost is stale and disturbs nobody",
  I4: "after fifty kills around the commit, effects and inbox agree one to one",
  N4: "a broker that is absent at the start is waited for, or the start fails with its reason",
  N5: "a refused login or certificate is final, not tried for ever",
  N6: "topology that is deleted while in use is told of and made again",
  N7: "two hundred messages cross a slow line that gives one byte at a time",
  N8: "a consumer cannot be dead without health saying so",
  O2: "a key whose message fails for good can stay blocked while others go on",
  O5: "the order of a key outlives the producer's reconnect",
  P2: "a long backlog behind a slow handler takes no memory",
  P3: "a producer faster than its broker waits, or is refused at a limit",
  P4: "a broker that blocks its senders makes sends wait, and then go on by themselves",
  X6: "a redrive that is killed and run again loses nothing, and has no effect twice",
  Y1: "spans have their names, kinds, attributes and links",
  Z3: "a password appears in no error, log or span",
  Z4: "certificates that are wrong are refused before anything is sent",
};
