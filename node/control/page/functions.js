// The functions of this node: how they did in the last hour, what runs and is held back, and a pause for each.

import { html, useContext } from "./vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { Doing } from "./doing.js";
import { useAsked } from "./live.js";
import { Act, Empty, State, Table } from "./parts.js";
import { Plot } from "./plot.js";
import * as words from "./words.js";

const COLUMNS = [
  ["Function", "function"], ["State", "mid wide"], ["Running", "num"], ["Held back", "num wide"], ["Done/h", "num"], ["Failed/h", "num"],
  ["Last hour", "plots wide"], ["Run p50, p95", "plots wide"], ["Wait p50, p95", "plots wide"],
  ["Limit", "text wide"], ["", "acts"],
];

const SHORTEST = 0.001; // seconds: shorter ones are all the same

/** The table; `functions` is undefined until the node has told. Failed counts the attempts that failed, the last ones too. */
export function Functions({ functions, problem, text, hasSession }) {
  const { data: history } = useAsked("/history", 20, false);
  const series = Object.fromEntries((history?.functions || []).map((row) => [row.name, row]));
  if (functions === undefined) return html`<div class="list">${problem && html`<${Empty} problem=${problem} />`}</div>`;
  const rows = functions.filter((row) => row.name.toLowerCase().includes(text.toLowerCase()));
  if (rows.length === 0) {
    return html`<div class="list"><${Empty}>${text ? "No function has that text in its name." : "No function has run in the last hour, or has dead tasks."}<//></div>`;
  }
  return html`
    <div class="list">
      <${Table} name="Functions" columns=${COLUMNS}>
        ${rows.map((row) => html`
          <${Row} key=${row.name} row=${row} endsAt=${history?.ends_at} minutes=${series[row.name]} hasSession=${hasSession} />`)}
      <//>
    </div>`;
}

function limitOf({ limit }) {
  if (limit === null) return "";
  const parts = [limit.at_once !== null && `${limit.at_once} at once`, limit.starts_per_second !== null && `${words.rate(limit.starts_per_second)}/s`];
  return parts.filter(Boolean).join(", ");
}

/** Minute by minute the sum of all; null where none is known. */
const added = (first, ...others) => first.map((number, index) => (number === null ? null : others.reduce((sum, each) => sum + each[index], number)));

/** How long runs took, or tasks waited: half of them, and 95 % of them, in numbers and minute by minute. */
function Lengths({ name, what, hour, minutes, endsAt }) {
  const [half, most] = [`${what}_p50_seconds`, `${what}_p95_seconds`];
  const said = `${words.length(hour[half])}, ${words.length(hour[most])}`;
  return html`
    <td class="plots wide">
      ${minutes && html`
        <${Plot}
          name=${`${name} in the last hour: ${what} p50 and p95 ${said}`} endsAt=${endsAt} top=${SHORTEST}
          series=${[[minutes[most], "--pale"], [minutes[half], "--accent"]]}
        />`}
      <span class="lengths">${said}</span>
    </td>`;
}

function Row({ row, endsAt, minutes, hasSession }) {
  const act = useContext(Doing);
  const toggle = () => act({
    method: "POST", path: withQuery(row.paused ? "/resume" : "/pause", { function: row.name }),
    told: () => (row.paused ? `${row.name} starts again` : `${row.name}: none starts until you resume it`),
  });
  const hour = row.last_hour;
  const failed = hour.failed + hour.dead;
  const verb = row.paused ? "Resume" : "Pause";
  return html`
    <tr>
      <td class="function" title=${row.name}>${row.name}</td>
      <td class="mid wide">${row.paused && html`<${State} of="paused" />`}</td>
      <td class="num">${words.count(row.running)}</td>
      <td class="num wide">${words.count(row.held_back)}</td>
      <td class="num">${words.count(hour.done)}</td>
      <td class=${failed ? "num bad" : "num"}>${words.count(failed)}</td>
      <td class="plots wide">
        ${minutes && html`
          <${Plot}
            name=${`${row.name} in the last hour: ${hour.done} done, ${failed} failed`} endsAt=${endsAt}
            series=${[[added(minutes.done, minutes.failed, minutes.dead), "--accent"], [added(minutes.failed, minutes.dead), "--bad"]]}
          />`}
      </td>
      <${Lengths} name=${row.name} what="run" hour=${hour} minutes=${minutes} endsAt=${endsAt} />
      <${Lengths} name=${row.name} what="wait" hour=${hour} minutes=${minutes} endsAt=${endsAt} />
      <td class="text wide">${limitOf(row)}</td>
      <td class="acts">${hasSession && html`<${Act} onClick=${toggle} hint=${`${verb} ${row.name}`}>${verb}<//>`}</td>
    </tr>`;
}
