/** Progress goes to stderr: stdout is kept for results, so that a script can read them. */
export function say(who: string, text: string): void {
  process.stderr.write(`${who}: ${text}\n`);
}

export function secondsSince(start: number): string {
  return `${((performance.now() - start) / 1000).toFixed(1)} s`;
}
