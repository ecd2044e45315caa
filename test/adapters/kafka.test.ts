/** What is particular to the Kafka adapter, on a real broker. What it has in common with the others: ../conformance. */
import { afterAll, beforeAll, describe } from "vitest";
import { server, startServer, stopServer } from "./kafka/bench.ts";
import { consuming } from "./kafka/consume.ts";
import { deadLetters } from "./kafka/dead-letters.ts";
import { delaying } from "./kafka/delay.ts";
import { grouping } from "./kafka/groups.ts";
import { publishing } from "./kafka/publish.ts";
import { security } from "./security.ts";

beforeAll(startServer, 120_000);
afterAll(stopServer, 60_000);

describe("publishing", publishing);
describe("consuming", consuming);
describe("groups", grouping);
describe("delaying", delaying);
describe("dead letters", deadLetters);
describe("TLS and logins", () => security("kafka", server));
