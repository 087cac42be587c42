// Keeps what is on the page up to date: asks again when an event says that something has changed, and now and then without one.

import { useEffect, useState } from "./vendor/htm-preact.js";
import { ask, events } from "./api.js";

const NAMES = [
  "accepted", "found", "merged", "started", "progress", "attempt", "interrupted", "done", "dead", "removed", "retried",
  "forwarded", "peer", "lost",
];
const SOONEST = 300; // ms between two questions, however many events come
const AGAIN = 3000; // ms until a lost connection is tried again

const listeners = new Set();

/** Calls `listener` with each event, until the function that it returns is called. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Says that something has changed that no event tells, such as a pause. */
export const changed = () => listeners.forEach((listener) => listener(null));

/** Whether events arrive. They need a session. */
export function useEvents(hasSession) {
  const [isLive, setLive] = useState(false);
  useEffect(() => {
    if (!hasSession) return undefined;
    let source;
    let timer;
    const connect = () => {
      source = events();
      source.onopen = () => {
        setLive(true);
        changed(); // what happened while it was not connected
      };
      source.onerror = () => {
        setLive(false);
        source.close();
        timer = setTimeout(connect, AGAIN);
      };
      for (const name of NAMES) {
        source.addEventListener(name, (message) => {
          const event = JSON.parse(message.data);
          listeners.forEach((listener) => listener(event));
        });
      }
    };
    connect();
    return () => {
      clearTimeout(timer);
      source.close();
    };
  }, [hasSession]);
  return isLive;
}

const NOTHING = { data: null, problem: null };

/**
 * The latest answer to a question, as `data`, and the `problem` of the last time it was asked. Events that change nothing of the
 * answer need not lead to a question: `wakes` is false then. Without a path nothing is asked. `prefix`: as `ask` has it.
 */
export function useAsked(path, seconds = 5, wakes = true, prefix = undefined) {
  const [answer, setAnswer] = useState({ path: null, ...NOTHING });
  useEffect(() => {
    if (path === null) return undefined;
    return repeat(seconds * 1000, wakes, async (isWanted) => {
      try {
        const data = await ask(path, "GET", prefix);
        if (isWanted()) setAnswer({ path, data, problem: null });
      } catch (problem) {
        if (isWanted()) setAnswer((before) => ({ path, data: before.path === path ? before.data : null, problem }));
      }
    });
  }, [path, seconds, wakes, prefix]);
  return answer.path === path ? answer : NOTHING;
}

/** Does `look` now, every `pause` ms, and soon after each event if it wakes, never twice at once, and more rarely if it takes long. */
function repeat(pause, wakes, look) {
  let isOver = false;
  let timer;
  let isLooking = false;
  let isStale = false;
  let notBefore = 0;
  const run = async () => {
    if (document.hidden) return; // `wake` comes when it is looked at again
    isLooking = true;
    isStale = false;
    const began = performance.now();
    await look(() => !isOver);
    isLooking = false;
    if (isOver) return;
    const now = performance.now();
    notBefore = now + Math.max(SOONEST, 5 * (now - began));
    timer = setTimeout(run, isStale ? notBefore - now : Math.max(pause, notBefore - now));
  };
  const wake = () => {
    if (isStale) return;
    isStale = true;
    if (isLooking) return;
    clearTimeout(timer);
    timer = setTimeout(run, Math.max(0, notBefore - performance.now()));
  };
  const forget = listen((event) => (wakes || event === null) && wake());
  const seen = () => document.hidden || wake();
  document.addEventListener("visibilitychange", seen);
  run();
  return () => {
    isOver = true;
    clearTimeout(timer);
    forget();
    document.removeEventListener("visibilitychange", seen);
  };
}
