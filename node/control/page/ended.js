// The tasks that have ended while the page was open. The node keeps no list of them; the story of each is found by its id.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { listen } from "./live.js";
import { Empty, State, Table } from "./parts.js";
import * as words from "./words.js";

const ENDS = new Set(["done", "dead", "removed", "merged", "forwarded"]);
const KEPT = 200;
const COLUMNS = [["Id", "id"], ["Function", "function"], ["End", "mid"], ["When", "num"], ["Took", "num wide"], ["Reason", "text"]];

/** The last tasks that have ended, the newest first. */
export function useEnded() {
  const [ended, setEnded] = useState([]);
  useEffect(() => {
    let fresh = [];
    let timer = null;
    const forget = listen((event) => {
      if (event === null || !ENDS.has(event.event)) return;
      fresh = [event, ...fresh].slice(0, KEPT);
      timer ??= setTimeout(() => {
        const news = fresh;
        [fresh, timer] = [[], null];
        setEnded((before) => [...news, ...before].slice(0, KEPT));
      }, 300); // thousands may end each second
    });
    return () => {
      clearTimeout(timer);
      forget();
    };
  }, []);
  return ended;
}

/** The table. */
export function Ended({ ended, text }) {
  const rows = ended.filter((event) => `${event.id}\n${event.function}\n${event.reason}`.toLowerCase().includes(text.toLowerCase()));
  if (rows.length === 0) {
    return html`<div class="list"><${Empty}>No task has ended since you opened this page. Search finds older ones by their id.<//></div>`;
  }
  return html`
    <div class="list">
      <${Table} name="Tasks that have ended" columns=${COLUMNS}>
        ${rows.map((event) => html`
          <tr key=${`${event.id} ${event.at}`}>
            <td class="id"><a href=${`#/task/${encodeURIComponent(event.id)}`} data-row title=${event.id}>${words.shortId(event.id)}</a></td>
            <td class="function">${event.function}</td>
            <td class="mid"><${State} of=${event.event} /></td>
            <td class="num">${words.ago(event.at)}</td>
            <td class="num wide">${words.length(event.seconds)}</td>
            <td class="text" title=${event.reason}>${event.reason?.split("\n")[0]}</td>
          </tr>`)}
      <//>
    </div>`;
}
