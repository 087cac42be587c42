// The top of the page: which node this is, whether the page is up to date, and the search.

import { html } from "./vendor/htm-preact.js";
import { isShown, pageOf } from "./nodes.js";

/** `live` is "live", "numbers only" without a session, or what is wrong. */
export const Header = ({ node, nodes, live, text, onText, onSearch, functions, onHelp }) => html`
  <header>
    <h1><a href="#/running">spoolnode</a></h1>
    <p class="who"><${Which} node=${node} nodes=${nodes.filter((each) => each.open)} /> <span class="wide">cluster ${node.cluster}</span></p>
    <p class=${`live ${live === "live" ? "on" : ""}`} title="live: events arrive as they happen"><i></i>${live}</p>
    <form role="search" onSubmit=${(event) => (event.preventDefault(), onSearch())}>
      <input
        id="search" type="search" placeholder="Search id, function, text" aria-label="Search id, function, text" autocomplete="off"
        list="functions" maxlength="400" value=${text} onInput=${(event) => onText(event.target.value)}
      />
      <datalist id="functions">${functions.map((name) => html`<option value=${name}></option>`)}</datalist>
    </form>
    <button type="button" class="help" aria-label="Keys" onClick=${onHelp}>?</button>
  </header>`;

/** The name of the node that is shown; to choose from, where others can be shown here. */
const Which = ({ node, nodes }) => nodes.length < 2 ? html`<b>${node.name}</b>` : html`
  <select aria-label="Node" onChange=${(event) => location.assign(event.target.value + location.hash)}>
    ${nodes.map((each) => html`<option value=${pageOf(each)} selected=${isShown(each)}>${each.name}</option>`)}
  </select>`;
