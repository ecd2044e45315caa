/** What scenarios about dead letters share. */
import assert from "node:assert/strict";
import type { Bus } from "../../bus.ts";
import type { DeadLetter } from "../../dead-letters.ts";
import type { Topic } from "../../topic.ts";
import { eventually } from "../eventually.ts";

export const group = "g";

/** The dead letters of the group, once there are `count` of them. */
export function lettersOf<P>(bus: Bus, topic: Topic<P, P>, count: number): Promise<DeadLetter<P>[]> {
  return eventually(async () => {
    const letters = await Array.fromAsync(bus.deadLetters(topic, { group }).list());
    assert.equal(letters.length, count);
    return letters;
  });
}
