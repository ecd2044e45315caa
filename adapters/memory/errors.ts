import { TransportError } from "../../src/spi.ts";

/** What a cut connection looks like. */
export function connectionLost(): TransportError {
  return new TransportError("ERR_CONNECTION_LOST", "the connection to the memory broker was cut");
}
