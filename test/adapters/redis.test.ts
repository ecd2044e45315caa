/** What is particular to the Redis adapter, on a real server. What it has in common with the others: ../conformance. */
import { afterAll, beforeAll, describe } from "vitest";
import { server, startServer, stopServer } from "./redis/bench.ts";
import { connecting } from "./redis/connect.ts";
import { consuming } from "./redis/consume.ts";
import { deadLetters } from "./redis/dead-letters.ts";
import { foreign } from "./redis/foreign.ts";
import { ordering } from "./redis/order.ts";
import { partitions } from "./redis/partitions.ts";
import { publishing } from "./redis/publish.ts";
import { settling } from "./redis/settle.ts";
import { overTls } from "./redis/tls.ts";
import { trimming } from "./redis/trim.ts";
import { security } from "./security.ts";

beforeAll(startServer, 120_000);
afterAll(stopServer, 60_000);

describe("connecting", connecting);
describe("over TLS", overTls);
describe("publishing", publishing);
describe("consuming", consuming);
describe("entries of others", foreign);
describe("settling", settling);
describe("dead letters", deadLetters);
describe("trimming", trimming);
describe("order over several instances", ordering);
describe("partitions of an ordered group", partitions);
describe("TLS and logins", () => security("redis", server));
