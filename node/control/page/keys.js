// The keyboard: moves between rows, and presses the buttons of the row that has the focus.

import { html, useEffect } from "./vendor/htm-preact.js";
import { Dialog } from "./doing.js";

const KEYS = [
  ["j  k", "the next row, the one before"],
  ["Enter", "open it"],
  ["r", "retry it: a task, or a kind of dead ones"],
  ["/", "search"],
  ["Esc", "leave the search; back from a task"],
  ["?", "these keys"],
];

/** `onKey` has functions for `/`, `?` and `Escape`. */
export function useKeys(onKey) {
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const isTyping = event.target.matches("input, textarea, select");
      if (isTyping && event.key !== "Escape") return;
      if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
      else if (event.key === "r") document.activeElement?.closest("tr, article")?.querySelector('[data-key="r"]')?.click();
      else if (event.key in onKey) onKey[event.key](event);
      else return;
      if (event.key !== "Escape") event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [onKey]);
}

/** Moves the focus to the next row, or to the first one. A row is where its `data-row` element is. */
function move(step) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  const own = document.activeElement?.closest("tr")?.querySelector("[data-row]");
  const at = rows.indexOf(own);
  const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

/** The list of keys. */
export const Help = ({ onClose }) => html`
  <${Dialog} title="Keys" onClose=${onClose}>
    <dl class="keys">${KEYS.map(([key, does]) => html`<dt><kbd>${key}</kbd></dt><dd>${does}</dd>`)}</dl>
    <div class="answers"><button type="button" class="main" onClick=${onClose}>Close</button></div>
  <//>`;
