// The page: asks what all of it shows, and puts its parts together. The address says what is open: `#/dead?function=...`.

import { html, render, useEffect, useMemo, useState } from "./vendor/htm-preact.js";
import { Alarms } from "./alarms.js";
import { HERE, SHOWN } from "./api.js";
import { Dead } from "./dead.js";
import { Doing, useDoing } from "./doing.js";
import { Functions } from "./functions.js";
import { Header } from "./header.js";
import { Help, useKeys } from "./keys.js";
import { useAsked, useEvents } from "./live.js";
import { Nodes } from "./nodes.js";
import { TABS, Tabs } from "./tabs.js";
import { Task } from "./task.js";
import { Tasks } from "./tasks.js";
import { Timers } from "./timers.js";
import { setClock } from "./words.js";

const ID = /^\S*[0-9a-f]{12}_\d+_\d+\S*$/;
const LISTS = ["running", "waiting", "later", "retrying", "outbox", "ended"];

/** What the address says: the tab, the id of a task, the kind of dead tasks. */
function whereOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [tab, id] = path.split("/");
  const kind = Object.fromEntries(new URLSearchParams(query));
  if (tab === "task" && id) return { tab, id: decodeURIComponent(id), kind: {} };
  return { tab: TABS.some(([name]) => name === tab) ? tab : "running", id: null, kind };
}

function useWhere() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const go = () => setHash(location.hash);
    addEventListener("hashchange", go);
    go(); // it may have changed before this was heard
    return () => removeEventListener("hashchange", go);
  }, []);
  return useMemo(() => whereOf(hash), [hash]);
}

function App() {
  const where = useWhere();
  const [text, setText] = useState("");
  const [isHelping, setHelping] = useState(false);
  const node = useAsked("/node", 2);
  const cluster = useAsked("/cluster", 2, true, HERE);
  const warnings = useAsked("/warnings", 5, false);
  const timers = useAsked("/timers", 15, false);
  const access = useAsked("/tasks?state=running&limit=1", 30, false); // 401 without a session
  const hasSession = access.data !== null && access.problem?.status !== 401;
  const isLive = useEvents(hasSession && SHOWN === null); // a node passes on no events
  const told = [node, cluster, warnings, timers];
  const isShown = told.every((answer) => answer.data !== null) && (access.data !== null || access.problem !== null);
  const functions = useAsked(isShown ? "/functions" : null, 3); // it may read every dead task: nothing waits for it
  const [act, shown] = useDoing();
  useKeys(useMemo(() => ({
    "/": () => document.getElementById("search").focus(),
    "?": () => setHelping(true),
    Escape: () => {
      setText("");
      if (document.activeElement?.id === "search") document.activeElement.blur();
      else if (location.hash.startsWith("#/task/")) history.back();
    },
  }), []));

  if (!isShown) {
    return html`<${First} problem=${told.find((answer) => answer.problem)?.problem} />`;
  }
  setClock(node.data.told_at);
  document.title = `${node.data.dead ? `(${node.data.dead}) ` : ""}${node.data.name} – spoolnode`;
  const rows = functions.data?.items;
  const names = (rows || []).map((row) => row.name);
  const nodes = hasSession ? cluster.data.items : cluster.data.items.map((row) => ({ ...row, open: row.here }));
  const search = () => {
    if (ID.test(text.trim())) {
      location.hash = `#/task/${encodeURIComponent(text.trim())}`;
      setText("");
    }
  };
  const counts = { node: node.data, timers: timers.data.items.length, functions: rows?.length };
  return html`
    <${Doing.Provider} value=${act}>
      <${Header}
        node=${node.data} live=${liveWord(node.problem, hasSession, isLive)} text=${text} onText=${setText} onSearch=${search}
        functions=${names} nodes=${nodes} onHelp=${() => setHelping(true)}
      />
      <main>
        <${Alarms} warnings=${warnings.data.items} here=${node.data.name} />
        <${Nodes} nodes=${nodes} own=${node.data} hasSession=${hasSession} />
        <${Tabs} open=${where.tab} counts=${counts} />
        <section class="panel" aria-label="What is open">
          ${where.tab === "timers" ? html`<${Timers} timers=${timers.data.items} />`
            : where.tab === "functions" ? html`<${Functions} functions=${rows} problem=${functions.problem} text=${text} hasSession=${hasSession} />`
            : !hasSession ? html`<${NoSession} />`
            : where.id !== null ? html`<${Task} key=${where.id} id=${where.id} />`
            : where.tab === "dead" ? html`<${Dead} kind=${where.kind} text=${text} />`
            : LISTS.includes(where.tab) && html`<${List} key=${where.tab} state=${where.tab} text=${text} names=${names} />`}
        </section>
      </main>
      <footer>spoolnode ${node.data.version} · <span class="wide">${node.data.spool} · </span>press <kbd>?</kbd> for keys</footer>
      ${isHelping && html`<${Help} onClose=${() => setHelping(false)} />`}
      ${shown}
    <//>`;
}

/** A list of tasks. The name of a function chooses among all of them; any other text among those that are shown. */
const List = ({ state, text, names }) =>
  names.includes(text) ? html`<${Tasks} state=${state} chosen=${{ function: text }} text="" />` : html`<${Tasks} state=${state} text=${text} />`;

function liveWord(problem, hasSession, isLive) {
  if (problem) return "no answer";
  if (!hasSession) return "numbers only";
  if (SHOWN !== null) return "every 2 s";
  return isLive ? "live" : "connecting";
}

/** As long as something was not told yet: why, and where else to look. */
const First = ({ problem }) => html`
  <p class="first" role="status">
    ${problem?.message}
    ${problem?.page && html` <a href=${problem.page}>The page of ${SHOWN}</a>`}
    ${SHOWN !== null && html` <a href="/">Back</a>`}
  </p>`;

const NoSession = () => html`
  <div class="list no-session">
    <h2>Numbers only</h2>
    <p>To see tasks and to act on them, open a session: run this on the node's machine, and open the link that it prints.</p>
    <pre>spoolnode web</pre>
    <p class="faint">The link works once, within five minutes. The session lasts twelve hours.</p>
  </div>`;

render(html`<${App} />`, document.getElementById("app"));
