// What an operator does: a question where it cannot be taken back, the request, and one line that says what came of it.

import { createContext, html, useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { ask } from "./api.js";
import { changed } from "./live.js";

/** Gives `act({method, path, question, told})` to all below it. */
export const Doing = createContext(null);

const SHOWN = 6000; // ms

/** Returns `act`, and what is to be shown of it. */
export function useDoing() {
  const [question, setQuestion] = useState(null);
  const [said, setSaid] = useState(null);
  const send = useCallback(async ({ method, path, told }) => {
    try {
      const answer = await ask(path, method);
      setSaid({ text: told(answer), isBad: false });
      changed();
      return answer;
    } catch (problem) {
      setSaid({ text: problem.message, isBad: true });
      return null;
    }
  }, []);
  const act = useCallback(
    (what) => (what.question ? new Promise((done) => setQuestion({ ...what, done })) : send(what)),
    [send],
  );
  const answered = async (isYes) => {
    setQuestion(null);
    question.done(isYes ? await send(question) : null);
  };
  useEffect(() => {
    if (!said || said.isBad) return undefined;
    const timer = setTimeout(() => setSaid(null), SHOWN);
    return () => clearTimeout(timer);
  }, [said]);
  const shown = html`
    ${question && html`<${Question} ...${question.question} onAnswer=${answered} />`}
    <div class="said" role="status" aria-live="polite">
      ${said && html`
        <p class=${said.isBad ? "bad" : ""}>
          ${said.text} <button type="button" aria-label="Close this message" onClick=${() => setSaid(null)}>×</button>
        </p>`}
    </div>`;
  return [act, shown];
}

/** A question that must be answered first. `yes` is the verb on the button, with the count. */
function Question({ title, text, yes, isHard, onAnswer }) {
  return html`
    <${Dialog} title=${title} onClose=${() => onAnswer(false)}>
      <p>${text}</p>
      <div class="answers">
        <button type="button" onClick=${() => onAnswer(false)}>Cancel</button>
        <button type="button" class=${isHard ? "hard" : "main"} onClick=${() => onAnswer(true)}>${yes}</button>
      </div>
    <//>`;
}

/** A dialog that takes the focus and gives it back. Escape closes it. */
export function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  return html`
    <dialog ref=${element} aria-labelledby="dialog-title" onCancel=${(event) => (event.preventDefault(), onClose())}>
      <h2 id="dialog-title">${title}</h2>
      ${children}
    </dialog>`;
}
