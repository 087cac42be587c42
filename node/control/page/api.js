// Asks `/api/v1`, and does what it offers. Nothing else of this page sends requests.

const PREFIX = "/api/v1";

/** Why a request was declined, as a sentence for people. Its status is 0 if the node was not reached. */
export class Problem extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** A path with its query. Parameters that are null or undefined are left out. */
export function withQuery(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The path of a task. */
export const ofTask = (id, action = "") => `/tasks/${encodeURIComponent(id)}${action && `/${action}`}`;

/** Sends one request, and returns the answer. Throws a Problem. */
export async function ask(path, method = "GET") {
  let response;
  try {
    response = await fetch(PREFIX + path, { method, headers: { Accept: "application/json" } });
  } catch {
    throw new Problem(0, "the node does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer.detail || response.statusText);
  return answer;
}

/** What happens on the node from now on. */
export const events = () => new EventSource(`${PREFIX}/events`);
