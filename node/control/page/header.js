// The top of the page: which node this is, whether the page is up to date, and the search.

import { html } from "./vendor/htm-preact.js";

/** `live` is "live", "numbers only" without a session, or what is wrong. */
export const Header = ({ node, live, text, onText, onSearch, functions, onHelp }) => html`
  <header>
    <h1><a href="#/running">spoolnode</a></h1>
    <p class="who"><b>${node.name}</b> <span class="wide">cluster ${node.cluster}</span></p>
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
