/** What is particular to the RabbitMQ adapter, on a real server. What it has in common with the others: ../conformance. */
import { afterAll, beforeAll, describe } from "vitest";
import { server, startServer, stopServer } from "./rabbitmq/bench.ts";
import { connecting } from "./rabbitmq/connect.ts";
import { consuming } from "./rabbitmq/consume.ts";
import { deadLetters } from "./rabbitmq/dead-letters.ts";
import { delaying } from "./rabbitmq/delay.ts";
import { ordering } from "./rabbitmq/order.ts";
import { publishing } from "./rabbitmq/publish.ts";
import { sharing } from "./rabbitmq/sharing.ts";
import { declaring } from "./rabbitmq/topology.ts";
import { security } from "./security.ts";

beforeAll(startServer, 120_000);
afterAll(stopServer, 60_000);

describe("connecting", connecting);
describe("declaring", declaring);
describe("publishing", publishing);
describe("consuming", consuming);
describe("delaying", delaying);
describe("dead letters", deadLetters);
describe("order over several instances", ordering);
describe("TLS and logins", () => security("rabbitmq", server));
describe("sharing a group's partitions", sharing);
