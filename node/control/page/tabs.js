// The tabs, each with its count.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { SHOWN } from "./api.js";
import * as words from "./words.js";

/** How many tasks of the common store are in a state, as they were counted last. */
const inStore = (counts, state) => counts.node.store?.tasks?.[state] ?? 0;

/** In the order in which they stand: name in the address, words, count; null where there is none, undefined if it is not known yet. */
export const TABS = [
  ["running", "Running", (counts) => counts.node.running],
  ["waiting", "Waiting", (counts) => counts.node.waiting + inStore(counts, "ready")],
  ["later", "Later", (counts) => counts.node.later + inStore(counts, "later")],
  ["retrying", "Retrying", (counts) => counts.node.retrying],
  ["dead", "Dead", (counts) => counts.node.dead + inStore(counts, "dead")],
  ["outbox", "For others", (counts) => counts.node.outbox_total],
  ["ended", "Ended", () => null],
  ["timers", "Timers", (counts) => counts.timers],
  ["functions", "Functions", (counts) => counts.functions],
].filter(([name]) => SHOWN === null || name !== "ended"); // only events tell these, and a node passes on none

/** The tabs. Where they are wider than the screen, the one that is open is scrolled into view. */
export function Tabs({ open, counts }) {
  const all = useRef(null);
  useEffect(() => {
    const shown = all.current.querySelector("[aria-current]");
    if (shown) all.current.scrollLeft = shown.offsetLeft - all.current.offsetLeft - 24;
  }, [open]);
  return html`
    <nav aria-label="Tasks" ref=${all}>
      ${TABS.map(([tab, title, number]) => html`
        <a href=${`#/${tab}`} aria-current=${tab === open ? "page" : undefined} class=${tab === "dead" && number(counts) ? "bad" : ""}>
          ${title}${number(counts) !== null && html` <b>${words.count(number(counts))}</b>`}
        </a>`)}
    </nav>`;
}
