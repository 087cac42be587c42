// Dead letters by kind: a function and what its tasks died of. A whole kind is retried or removed at once.

import { html, useContext } from "./vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { Doing } from "./doing.js";
import { useAsked } from "./live.js";
import { Act, Empty, Table } from "./parts.js";
import { Tasks } from "./tasks.js";
import * as words from "./words.js";

const COLUMNS = [
  ["Function", "function"], ["Error", "text"], ["Dead", "num"], ["Last", "num wide"], ["First", "num wide"], ["", "acts"],
];

/** The address of the list of one kind. */
const pathOf = (kind) => `#${withQuery("/dead", kind && { function: kind.function, error: kind.error })}`;

/** The kinds, and the tasks of the one that is chosen, or all. `kind` has `function` and `error`, or is empty. */
export function Dead({ kind, text }) {
  const { data, problem } = useAsked("/dead", 3);
  if (data === null) return html`<div class="list">${problem && html`<${Empty} problem=${problem} />`}</div>`;
  if (data.items.length === 0) return html`<${Tasks} state="dead" text=${text} />`;
  const note = data.missing || (data.more_in_store ? "The common store has many dead tasks, of which the first 10,000 are counted here." : "");
  const isChosen = (row) => kind.function === row.function && kind.error === row.error;
  return html`
    ${note && html`<p class="bad">${note}</p>`}
    <${Table} name="Dead tasks by kind" columns=${COLUMNS}>
      ${data.items.map((row) => html`<${Kind} key=${`${row.function}\n${row.error}`} kind=${row} isChosen=${isChosen(row)} />`)}
    <//>
    <h2>
      ${kind.error === undefined ? "All dead tasks" : `${kind.function || "no function"}, ${kind.error || "other reasons"}`}
      ${kind.error !== undefined && html` <a href=${pathOf(null)}>show all</a>`}
    </h2>
    <${Tasks} state="dead" chosen=${kind} text=${text} />`;
}

function Kind({ kind, isChosen }) {
  const act = useContext(Doing);
  const name = `${kind.function || "no function"}, ${kind.error || "other reasons"}`;
  const chosen = { function: kind.function, error: kind.error };
  const retry = () => act({
    method: "POST", path: withQuery("/dead/retry", chosen), told: ({ ready }) => `${words.tasks(ready)} of ${name}: ready again`,
    question: {
      title: `Retry ${words.tasks(kind.tasks)}?`, yes: `Retry ${words.count(kind.tasks)}`,
      text: `All dead tasks of ${name} become ready again. The other dead tasks stay as they are.`,
    },
  });
  const remove = () => act({
    method: "DELETE", path: withQuery("/dead", chosen), told: ({ removed }) => `${words.tasks(removed)} of ${name}: removed`,
    question: {
      title: `Remove ${words.tasks(kind.tasks)}?`, yes: `Remove ${words.count(kind.tasks)}`, isHard: true,
      text: `All dead tasks of ${name} will be gone for good. The other dead tasks stay as they are.`,
    },
  });
  return html`
    <tr class=${isChosen ? "chosen" : ""}>
      <td class="function"><a href=${pathOf(kind)} data-row>${kind.function || "no function"}</a></td>
      <td class="text" title=${kind.error}>${kind.error || html`<span class="faint">other reasons</span>`}</td>
      <td class="num bad">${words.count(kind.tasks)}</td>
      <td class="num wide">${words.ago(kind.newest_at)}</td>
      <td class="num wide">${words.ago(kind.oldest_at)}</td>
      <td class="acts">
        <${Act} onClick=${retry} shortcut="r" hint=${`Retry all of ${name}`}>Retry<span class="wide"> all</span><//>
        <${Act} onClick=${remove} hint=${`Remove all of ${name}`}>Remove<span class="wide"> all</span><//>
      </td>
    </tr>`;
}
