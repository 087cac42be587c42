// What is wrong with the cluster, and what to do about it, in the sentences of the node.

import { html } from "./vendor/htm-preact.js";

/** The warnings, the worst first. Their place is kept when there are none, so that nothing moves. `here` is the name of this node. */
export const Alarms = ({ warnings, here }) => html`
  <section class="alarms" aria-label="Warnings">
    ${warnings.length === 0
      ? html`<p class="calm">Nothing is wrong.</p>`
      : html`<ul>${warnings.map((warning) => html`<${Alarm} key=${warning.kind + warning.node + warning.function} warning=${warning} here=${here} />`)}</ul>`}
  </section>`;

const Alarm = ({ warning, here }) => html`
  <li class=${warning.severity}>
    <span>${warning.text}</span>
    ${["tasks_died", "tasks_undelivered"].includes(warning.kind) && warning.node === here && html` <a href="#/dead">Show them</a>`}
  </li>`;
