// Lists of tasks, page by page: a cursor leads to the next page, so a list of any length costs the same.

import { html, useContext, useEffect, useState } from "./vendor/htm-preact.js";
import { ofTask, withQuery } from "./api.js";
import { Doing } from "./doing.js";
import { useAsked } from "./live.js";
import { Act, Empty, State, Table, TaskLink } from "./parts.js";
import * as words from "./words.js";

const ROWS = 100;
const COLUMNS = {
  running: [
    ["Worker", "num wide", (task) => task.worker], ["For", "num", (task) => words.length(task.running_seconds)],
    ["Attempt", "num wide", (task) => task.attempts], ["Progress", "text", (task) => html`<${Progress} task=${task} />`],
  ],
  waiting: [
    ["Priority", "num wide", (task) => words.count(task.priority)], ["Attempts", "num wide", (task) => task.attempts],
    ["Accepted", "num", (task) => words.ago(task.accepted_at)], ["Size", "num wide", (task) => words.size(task.size_bytes)],
    ["", "text wide", (task) => task.paused && html`<span class="state paused">paused</span>`],
  ],
  later: [
    ["Attempts", "num", (task) => task.attempts], ["Due", "num", (task) => words.due(task.due_at)],
    ["Accepted", "num wide", (task) => words.ago(task.accepted_at)], ["Size", "num wide", (task) => words.size(task.size_bytes)],
    ["", "text wide", (task) => task.paused && html`<span class="state paused">paused</span>`],
  ],
  retrying: [
    ["Attempts", "num", (task) => task.attempts], ["Due", "num", (task) => words.due(task.due_at)],
    ["Last error", "text", (task) => html`<span title=${task.reason}>${task.reason}</span>`],
  ],
  dead: [
    ["Attempts", "num wide", (task) => task.attempts], ["Died", "num wide", (task) => words.ago(task.changed_at)],
    ["Reason", "text", (task) => html`<span title=${task.reason}>${task.reason}</span>`],
  ],
  outbox: [
    ["For", "text", (task) => task.destination], ["Sent", "mid wide", (task) => (task.attempts ? "perhaps" : "no")],
    ["Accepted", "num wide", (task) => words.ago(task.accepted_at)], ["Size", "num wide", (task) => words.size(task.size_bytes)],
  ],
  ended: [
    ["End", "mid", (task) => html`<${State} of=${task.end} />`], ["When", "num", (task) => words.ago(task.ended_at)],
    ["Took", "num wide", (task) => words.length(task.run_seconds)],
    ["Reason", "text", (task) => html`<span title=${task.reason}>${task.destination ? `to ${task.destination}` : task.reason}</span>`],
  ],
};
const EMPTY = {
  running: "No task runs now.",
  waiting: "No task waits for a worker.",
  later: "No task waits for its time or for another attempt.",
  retrying: "No task waits for another attempt.",
  dead: "No task is dead.",
  outbox: "No task waits for another node.",
  ended: "The history of this node knows no task that has ended.",
};

export const Progress = ({ task }) =>
  task.progress === undefined ? null : html`
    <progress max="1" value=${task.progress} aria-label="Progress"></progress>
    ${Math.round(task.progress * 100)} % <span class="faint">${task.progress_text}</span>`;

/** The tasks in a state: of one function, of one error, with a text in what is shown of them. */
export function Tasks({ state, chosen = {}, text }) {
  const [cursors, setCursors] = useState([null]);
  const first = withQuery("/tasks", { state, ...chosen, limit: ROWS });
  useEffect(() => setCursors([null]), [first]);
  const cursor = cursors[cursors.length - 1];
  const { data, problem } = useAsked(cursor === null ? first : `${first}&cursor=${encodeURIComponent(cursor)}`);
  if (data === null) return html`<div class="list">${problem && html`<${Empty} problem=${problem} />`}</div>`;
  const rows = data.items.filter((task) => has(task, text));
  return html`
    <div class="list">
      ${data.missing && html`<p class="bad">${data.missing}</p>`}
      ${rows.length === 0
        ? html`<${Empty}>${text ? "No task on this page of the list has that text." : EMPTY[state]}<//>`
        : html`
          <${Table} name=${`Tasks, ${state}`} columns=${[["Id", "id"], ["Function", "function"], ...COLUMNS[state], ["", "acts"]]}>
            ${rows.map((task) => html`<${Row} key=${`${task.id} ${task.ended_at}`} task=${task} state=${state} />`)}
          <//>`}
      ${(data.next || cursors.length > 1) && html`
        <div class="pages">
          <button type="button" disabled=${cursors.length === 1} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous</button>
          <span>${words.count((cursors.length - 1) * ROWS + 1)} – ${words.count((cursors.length - 1) * ROWS + data.items.length)}</span>
          <button type="button" disabled=${!data.next} onClick=${() => setCursors([...cursors, data.next])}>Next</button>
        </div>`}
    </div>`;
}

/** Whether a text is in what a row shows. */
function has(task, text) {
  const shown = [task.id, task.function, task.reason, task.destination, task.progress_text].join("\n");
  return shown.toLowerCase().includes(text.toLowerCase());
}

const Row = ({ task, state }) => html`
  <tr>
    <td class="id"><${TaskLink} id=${task.id} />${task.where === "store" && html` <span class="tag" title=${`in the common store, for ${task.destination}`}>store</span>`}</td>
    <td class="function" title=${task.function}>${task.function}</td>
    ${COLUMNS[state].map(([, kind, say]) => html`<td class=${kind}>${say(task)}</td>`)}
    <td class="acts"><${TaskActs} task=${state === "retrying" ? task : { ...task, state }} /></td>
  </tr>`;

/** The buttons of a task: what can be done in its state. */
export function TaskActs({ task }) {
  const act = useContext(Doing);
  const name = `${task.function || "the task"} ${words.shortId(task.id)}`;
  const retry = () => act({ method: "POST", path: ofTask(task.id, "retry"), told: () => `${name} is tried now` });
  const remove = () => act({
    method: "DELETE", path: ofTask(task.id), told: () => `${name} is removed`,
    question: { title: "Remove this task?", text: `${name} will be gone for good.`, yes: "Remove", isHard: true },
  });
  const cancel = () => act({
    method: "POST", path: ofTask(task.id, "cancel"), told: (answer) => `${name}: ${answer.outcome}`,
    question: { title: "Cancel this task?", text: `${name} ends now, and goes to the dead ones.`, yes: "Cancel the task", isHard: true },
  });
  return html`
    ${["later", "dead", "outbox"].includes(task.state) && html`
      <${Act} onClick=${retry} shortcut="r" hint=${`Retry ${name}`}>${task.state === "dead" ? "Retry" : "Try now"}<//>`}
    ${["running", "waiting", "later", "outbox"].includes(task.state) && html`<${Act} onClick=${cancel} hint=${`Cancel ${name}`}>Cancel<//>`}
    ${["waiting", "later", "dead", "outbox"].includes(task.state) && html`<${Act} onClick=${remove} kind="wide" hint=${`Remove ${name}`}>Remove<//>`}`;
}
