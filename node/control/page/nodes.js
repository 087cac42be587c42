// The table of nodes: this one first, and the others as they told it in their pings.

import { html, useContext } from "./vendor/htm-preact.js";
import { HERE, SHOWN, withQuery } from "./api.js";
import { Doing } from "./doing.js";
import { useAsked } from "./live.js";
import { Act, Spark, State, Table } from "./parts.js";
import * as words from "./words.js";

const COLUMNS = [
  ["Node", "name"], ["State", "mid"], ["Run/workers", "num"], ["Waiting", "num"], ["Oldest", "num wide"], ["Retrying", "num wide"],
  ["Dead", "num"], ["In/s", "num wide"], ["Done/s", "num wide"], ["Last hour", "mid spark wide"], ["Free", "num wide"],
  ["Tags", "tags wide"], ["", "acts wide"],
];

/** Whether a row is of the node that is shown. */
export const isShown = (node) => (SHOWN === null ? node.here : node.name === SHOWN || node.id === SHOWN);

/** Where a node is shown: here, as far as it is open, or on its own page. */
export const pageOf = (node) => (node.here ? "/" : node.open ? withQuery("/", { node: node.name }) : node.page);

/** The table; on a narrow screen what can be done to a node has a row of its own. `own` is the node that is shown, in full; without a session there are no buttons. */
export function Nodes({ nodes, own, hasSession }) {
  const { data: history } = useAsked("/history", 20, false, HERE);
  const series = Object.fromEntries((history?.nodes || []).map((row) => [row.id, row.done_per_second]));
  return html`
    <${Table} name="Nodes" columns=${COLUMNS}>
      ${nodes.map((node) => html`
        <${Row} key=${node.id || node.address} node=${isShown(node) ? { ...node, state: stateOf(own) } : node} minutes=${series[node.id] || []}>
          ${isShown(node) ? hasSession && html`<${OwnActs} node=${own} />` : SHOWN === null && node.outbox > 0 && html`<${PeerActs} peer=${node} hasSession=${hasSession} />`}
        <//>`)}
      ${own.store && html`<${Store} store=${own.store} />`}
    <//>`;
}

/** The common store, in a row of its own: what nodes hold runs, or is about to. */
function Store({ store }) {
  const number = (state) => (store.estimated.includes(state) ? "~" : "") + words.count(store.tasks?.[state]);
  const counted = store.counted_at === null ? "not counted yet" : `counted ${words.ago(store.counted_at)}`;
  return html`
    <tr title=${counted}>
      <th scope="row" class="name" title=${store.engine}>store</th>
      <td class="mid" title=${store.reason}><${State} of=${store.there ? "up" : "down"} /></td>
      <td class="num">${number("held")}</td>
      <td class="num">${number("ready")}</td>
      <td class="num wide"></td>
      <td class="num wide"></td>
      <td class=${store.tasks?.dead ? "num bad" : "num"}>${number("dead")}</td>
      <td class="wide note" colspan="6">${number("later")} due later${store.there ? "" : `, ${counted}`}</td>
    </tr>`;
}

function stateOf(node) {
  if (node.state !== "running") return node.state;
  return node.pauses.everything ? "paused" : "up";
}

function Row({ node, minutes, children }) {
  const name = node.name || node.address;
  const page = isShown(node) ? null : pageOf(node);
  const isShort = node.free_bytes !== null && node.free_bytes < 2 * node.min_free_bytes;
  return html`
    <tr>
      <th scope="row" class="name" title=${node.address}>${page ? html`<a href=${page}>${name}</a>` : name}</th>
      <td class="mid" title=${node.reason}><${State} of=${node.state} /></td>
      <td class="num">${words.count(node.running)}<span class="faint">/${words.count(node.workers)}</span></td>
      <td class="num">${words.count(node.waiting)}</td>
      <td class="num wide">${words.length(node.oldest_waiting_seconds)}</td>
      <td class="num wide">${words.count(node.retrying)}</td>
      <td class=${node.dead ? "num bad" : "num"}>${words.count(node.dead)}</td>
      <td class="num wide">${words.rate(node.in_per_second)}</td>
      <td class="num wide">${words.rate(node.done_per_second)}</td>
      <td class="mid spark wide"><${Spark} numbers=${minutes} name=${`tasks done per second on ${name} in the last hour`} /></td>
      <td class=${isShort ? "num bad wide" : "num wide"}>${words.size(node.free_bytes)}</td>
      <td class="tags wide">${node.tags.map((tag) => html`<span class="tag">${tag}</span> `)}</td>
      <td class="acts wide">${children}</td>
    </tr>
    ${children && html`<tr class="narrow"><td class="acts" colspan="5">${children}</td></tr>`}`;
}

function OwnActs({ node }) {
  const act = useContext(Doing);
  const isPaused = node.pauses.everything;
  const pause = () => act({
    method: "POST", path: isPaused ? "/resume" : "/pause", told: () => (isPaused ? "tasks start again" : "no tasks start until you resume"),
  });
  const drain = () => act({
    method: "POST", path: "/drain", told: () => "the node hands its tasks over, and stops",
    question: {
      title: `Drain ${node.name}?`, yes: "Drain and stop", isHard: true,
      text: `${words.tasks(node.waiting + node.later)} that wait here go to other nodes. Then ${SHOWN === null ? "this node stops, and this page with it" : "it stops"}.`,
    },
  });
  return html`
    <${Act} onClick=${pause} hint=${`${isPaused ? "Resume" : "Pause"} ${node.name}`}>${isPaused ? "Resume" : "Pause"}<//>
    <${Act} onClick=${drain} hint=${`Drain ${node.name}`}>Drain<//>`;
}

function PeerActs({ peer, hasSession }) {
  const act = useContext(Doing);
  const flush = () => act({
    method: "POST", path: withQuery("/flush", { to: peer.name || peer.address }),
    told: ({ items: [row] }) => (row.tried ? `${row.destination} is tried now` : `${row.destination} is not tried: ${row.reason}`),
  });
  const next = peer.retry_in_seconds === null ? "" : `, next try in ${words.length(peer.retry_in_seconds)}`;
  return html`
    <span class="note">${words.count(peer.outbox)} here for it${next}</span>
    ${hasSession && html`<${Act} onClick=${flush} hint=${`Try ${peer.name || peer.address} now`}>Try now<//>`}`;
}
