// Numbers, lengths of time and sizes as people read them. Pure, but for the clock of the node.

const UNKNOWN = "–";
let ahead = 0;

/** Takes the node's clock over from its answer: that of the browser may be wrong. */
export function setClock(toldAt) {
  ahead = toldAt - Date.now() / 1000;
}

/** Seconds since then. */
export const since = (at) => Math.max(0, Date.now() / 1000 + ahead - at);

/** Seconds until then; negative if it has passed. */
export const until = (at) => at - Date.now() / 1000 - ahead;

/** 12,345 */
export const count = (number) => (number === null || number === undefined ? UNKNOWN : number.toLocaleString("en"));

/** "1 task", "2 tasks" */
export const tasks = (number) => `${count(number)} ${number === 1 ? "task" : "tasks"}`;

/** 8.1; 120 */
export function rate(number) {
  if (number === null || number === undefined) return UNKNOWN;
  return number >= 100 ? count(Math.round(number)) : number.toFixed(1);
}

const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

/** 0.4 s; 12 s; 4 min; 3 h; 2 d */
export function length(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds > 0 && seconds < 0.01) return "< 10 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const [unit, size] = UNITS.find(([, each]) => seconds >= 2 * each);
  return `${Math.round(seconds / size)} ${unit}`;
}

/** How long ago that was. */
export const ago = (at) => (at ? `${length(since(at))} ago` : UNKNOWN);

/** "in 4 min", or "now" */
export function due(at) {
  if (!at) return UNKNOWN;
  return until(at) > 0 ? `in ${length(until(at))}` : "now";
}

/** 98 B; 1.2 K; 61 G */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  const power = Math.min(5, Math.max(0, Math.floor(Math.log2(Math.max(bytes, 1)) / 10)));
  const number = bytes / 1024 ** power;
  return `${power && number < 10 ? number.toFixed(1) : Math.round(number)} ${"BKMGTP"[power]}`;
}

const DAY = { dateStyle: "medium", timeStyle: "medium" };

/** A moment, to the second. */
export const moment = (at) => (at ? new Date(at * 1000).toLocaleString(undefined, DAY) : UNKNOWN);

/** The time of day of a moment, to the millisecond. */
export const clock = (at) =>
  new Date(at * 1000).toLocaleTimeString("en-GB", { hour12: false }) + `.${String(Math.floor((at % 1) * 1000)).padStart(3, "0")}`;

/** An id without the node where the task began: the part that tells it from its neighbours. */
export const shortId = (id) => id.replace(/^[0-9a-f]{12}_/, "");
