/** Brokers are started by the test files that need them; what was not up before the run is down after it. */
import { broker, allBrokerNames } from "../../scripts/brokers/index.ts";

export function setup(): (() => Promise<void>) | undefined {
  // Of several runs side by side one would stop what another has started: whoever starts such runs stops the brokers.
  if (process.env["POSTRIDER_KEEP_BROKERS"]) return undefined;
  const upBefore = new Set(allBrokerNames.filter((name) => broker(name).pid() !== undefined));
  return async () => {
    const started = allBrokerNames.filter((name) => !upBefore.has(name) && broker(name).pid() !== undefined);
    await Promise.all(started.map((name) => broker(name).down()));
  };
}
