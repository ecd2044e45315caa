/**
 * Who runs when: at most `concurrency` tasks at once, tasks of one lane strictly one after another, different lanes in
 * parallel. A task that waits lends its place to others but keeps its lane.
 */

/** A task's place among the running ones. */
export interface Slot {
  /** Gives the place to others while `wait` is pending, and takes one again before it resolves or rejects. */
  lendWhile<T>(wait: () => Promise<T>): Promise<T>;
}

export interface Lanes {
  /** Runs `task` when its lane and a place are free. `lane` undefined: no lane to wait for. `task` must not reject. */
  run(lane: string | undefined, task: (slot: Slot) => Promise<void>): void;
  /** Whether something of this lane runs or waits. */
  isBusy(lane: string | undefined): boolean;
}

export function createLanes(concurrency: number): Lanes {
  const lanes = new Map<string, ((slot: Slot) => Promise<void>)[]>();
  const waiting: (() => void)[] = [];
  let running = 0;

  const take = (): Promise<void> | undefined => {
    if (running < concurrency) {
      running += 1;
      return undefined;
    }
    return new Promise((resolve) => waiting.push(resolve));
  };

  /** A freed place goes straight to who waits longest, so that nobody can slip in between. */
  const give = (): void => {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  };

  const slot: Slot = {
    async lendWhile(wait) {
      give();
      try {
        return await wait();
      } finally {
        await take();
      }
    },
  };

  const runTask = async (task: (slot: Slot) => Promise<void>): Promise<void> => {
    await take();
    try {
      await task(slot);
    } finally {
      give();
    }
  };

  const runLane = async (lane: string, tasks: ((slot: Slot) => Promise<void>)[]): Promise<void> => {
    for (let task = tasks[0]; task !== undefined; task = tasks[0]) {
      await runTask(task);
      tasks.shift();
    }
    lanes.delete(lane);
  };

  return {
    run(lane, task) {
      if (lane === undefined) return void runTask(task);
      const tasks = lanes.get(lane);
      if (tasks !== undefined) return void tasks.push(task);
      const fresh = [task];
      lanes.set(lane, fresh);
      void runLane(lane, fresh);
    },
    isBusy: (lane) => lane !== undefined && lanes.has(lane),
  };
}
