// Small parts that several places of the page share.

import { html } from "./vendor/htm-preact.js";
import { shortId } from "./words.js";

/** A table with a name for those who do not see it. `columns` are [heading, class]; it scrolls by itself where it is too wide. */
export const Table = ({ name, columns, children }) => html`
  <div class="scroll" role="region" aria-label=${name} tabindex="0">
    <table>
      <thead>
        <tr>${columns.map(([heading, kind]) => html`<th scope="col" class=${kind}>${heading || html`<span class="unseen">Actions</span>`}</th>`)}</tr>
      </thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;

/** Says that there is nothing, or why. */
export const Empty = ({ problem, children }) => html`<p class=${problem ? "empty bad" : "empty"}>${problem ? problem.message : children}</p>`;

const TAIL = 7;

/** The id of a task, which leads to it. A narrow screen shows its end only: the beginning is the same for many. */
export function TaskLink({ id }) {
  const short = shortId(id);
  return html`
    <a href=${`#/task/${encodeURIComponent(id)}`} data-row title=${id}><span class="head">${short.slice(0, -TAIL)}</span>${short.slice(-TAIL)}</a>`;
}

/** A word for a state, with its colour. */
export const State = ({ of }) => html`<span class=${`state ${of}`}>${of}</span>`;

/** A button in a row. `hint` tells which task or kind it is about. */
export const Act = ({ onClick, hint, shortcut, kind = "", children }) => html`
  <button type="button" class=${kind} data-key=${shortcut} aria-label=${hint} title=${shortcut && `key ${shortcut}`} onClick=${onClick}>
    ${children}
  </button>`;

const WIDE = 120;
const HIGH = 18;

/** Numbers as small bars; null where none is known. */
export function Spark({ numbers, name }) {
  const most = Math.max(...numbers, 0.001);
  const step = WIDE / Math.max(1, numbers.length);
  const bar = (number, index) => `M${((index + 0.5) * step).toFixed(1)} ${HIGH}v${-Math.max(1, (number / most) * HIGH).toFixed(1)}`;
  const bars = numbers.map((number, index) => (number === null ? "" : bar(number, index)));
  return html`
    <svg class="spark" viewBox=${`0 0 ${WIDE} ${HIGH}`} width=${WIDE} height=${HIGH} role="img" aria-label=${name}>
      <path d=${bars.join("")} />
    </svg>`;
}
