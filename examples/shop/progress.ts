/** One line that says where things are: rewritten in place on a terminal, now and then elsewhere. */
export interface Progress {
  show(text: string): void;
  /** Ends the line with something worth keeping. */
  done(text: string): void;
}

export function createProgress(out: NodeJS.WriteStream = process.stderr): Progress {
  const intervalMs = out.isTTY ? 100 : 2_000;
  let shownAt = -Infinity;
  const write = (text: string, end: string): void => {
    out.write(out.isTTY ? `\r\u001b[2K${text}${end === "\n" ? "\n" : ""}` : `${text}\n`);
  };
  return {
    show(text) {
      if (performance.now() - shownAt < intervalMs) return;
      shownAt = performance.now();
      write(text, "");
    },
    done(text) {
      shownAt = -Infinity;
      write(text, "\n");
    },
  };
}
