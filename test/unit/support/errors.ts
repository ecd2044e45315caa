import assert from "node:assert/strict";
import { type ErrorCode, MessagingError } from "../../../src/errors.ts";

/** The error `act` throws or rejects with; fails when it does neither. */
export async function errorOf(act: () => unknown): Promise<unknown> {
  try {
    await act();
  } catch (error) {
    return error;
  }
  return assert.fail("nothing was thrown");
}

/** The library's error `act` throws or rejects with, which must have this code. */
export async function messagingErrorOf(code: ErrorCode, act: () => unknown): Promise<MessagingError> {
  const error = await errorOf(act);
  assert.ok(MessagingError.is(error), `not one of the library's errors: ${String(error)}`);
  assert.equal(error.code, code, error.message);
  return error;
}
