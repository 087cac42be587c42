// One task: where it stands, why, what it was given, and its story on all nodes.

import { html } from "./vendor/htm-preact.js";
import { ofTask } from "./api.js";
import { useAsked } from "./live.js";
import { Empty, State } from "./parts.js";
import { Progress, TaskActs } from "./tasks.js";
import * as words from "./words.js";

const SHOWN = new Set(["at", "event", "node", "id", "origin_id", "function", "reason", "peer", "error", "due"]);

/** The page of a task. */
export function Task({ id }) {
  const { data: task, problem } = useAsked(ofTask(id), 2);
  if (task === null) return html`<div class="list">${problem && html`<${Empty} problem=${problem} />`}</div>`;
  const variables = task.variables || {};
  const told = task.story.find((step) => step.function);
  const name = told ? told.function : variables.spool_func || "";
  const shown = { ...task, function: name };
  const reason = task.last_error || variables.spool_reason || task.story.findLast((step) => step.reason)?.reason;
  return html`
    <article>
      <div class="title">
        <h2>${name || "A task"}</h2><${State} of=${task.state} />
        <div class="acts"><${TaskActs} task=${shown} /></div>
      </div>
      <p class="whole-id">${task.id}</p>
      ${task.progress !== undefined && html`<p class="progress"><${Progress} task=${task} /></p>`}
      <div class="columns">
        <div>
          ${reason && html`<h3>Why it failed</h3><pre class="reason" tabindex="0">${reason.trimEnd()}</pre>`}
          <h3>Story</h3>
          <ol class="story">${task.story.map((step) => html`<${Step} step=${step} />`)}</ol>
          ${task.story.length === 0 && html`<p class="faint">Nothing is noted about it yet.</p>`}
        </div>
        <div>
          ${task.variables && html`<h3>Arguments</h3><${Facts} facts=${Object.entries(variables)} />`}
          ${task.body_bytes > 0 && html`<h3>Body <small>${words.size(task.body_bytes)}</small></h3><pre tabindex="0">${task.body_begins}</pre>`}
          <h3>Facts</h3>
          <${Facts} facts=${factsOf(task)} />
        </div>
      </div>
    </article>`;
}

const Facts = ({ facts }) => html`
  <dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd>`)}</dl>`;

/** What is known of a task apart from its arguments, without what is not. */
function factsOf(task) {
  const facts = [
    ["attempts", task.attempts], ["priority", task.priority], ["accepted", task.accepted_at && words.moment(task.accepted_at)],
    ["due", task.due_at && words.moment(task.due_at)], ["for", task.destination], ["worker", task.worker], ["pid", task.pid],
    ["runs for", task.running_seconds && words.length(task.running_seconds)], ["size", task.size_bytes && words.size(task.size_bytes)],
    ["file", task.where],
  ];
  return facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [name, String(value)]);
}

/** What a step says besides its event, its node and its reason. */
const detailsOf = (step) =>
  Object.entries(step)
    .filter(([name, value]) => !SHOWN.has(name) && value !== null && value !== "")
    .map(([name, value]) => (name === "seconds" ? `took ${words.length(value)}` : `${name} ${value}`))
    .join(", ");

/** Why: the first line, and the others for those who ask. */
function Reason({ text }) {
  const [first, ...others] = text.trimEnd().split("\n");
  if (others.length === 0) return html`<p class="why">${first}</p>`;
  return html`<details class="why"><summary>${first}</summary><pre tabindex="0">${others.join("\n")}</pre></details>`;
}

const Step = ({ step }) => html`
  <li class=${step.event}>
    <time datetime=${new Date(step.at * 1000).toISOString()} title=${words.moment(step.at)}>${words.clock(step.at)}</time>
    <b>${step.event}</b> ${step.node && html`<span class="tag">${step.node}</span>`} <span class="details">${detailsOf(step)}</span>
    ${step.reason && html`<${Reason} text=${step.reason} />`}
  </li>`;
