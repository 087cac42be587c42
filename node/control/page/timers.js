// The timers of the application.

import { html } from "./vendor/htm-preact.js";
import { Empty, Table } from "./parts.js";
import * as words from "./words.js";

const COLUMNS = [["Timer", "function"], ["When", "text"], ["Next", "num"], ["Last", "num"], ["Runs on", "mid wide"]];

/** The table. */
export const Timers = ({ timers }) => html`
  <div class="list">
    ${timers.length === 0 ? html`<${Empty}>The application has no timers.<//>` : html`
      <${Table} name="Timers" columns=${COLUMNS}>
        ${timers.map((timer) => html`
          <tr key=${timer.name}>
            <td class="function">${timer.name}</td>
            <td class="text">${timer.when}</td>
            <td class="num">${words.due(timer.next_at)}</td>
            <td class="num">${words.ago(timer.last_at)}</td>
            <td class="mid wide">${timer.cluster ? timer.by || "one node" : "each node"}</td>
          </tr>`)}
      <//>`}
  </div>`;
