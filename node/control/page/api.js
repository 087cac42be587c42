// Asks `/api/v1`, and does what it offers. Nothing else of this page sends requests.

/** The node that is shown, if it is another one than that which serves the page: `?node=beta`. */
export const SHOWN = new URLSearchParams(location.search).get("node");
/** The API of the node that serves the page. */
export const HERE = "/api/v1";
const PREFIX = SHOWN === null ? HERE : `${HERE}/nodes/${encodeURIComponent(SHOWN)}`;

/**
 * Why a request was declined, as a sentence for people, and for another node the page where it may be granted. Its status is 0 if
 * the node was not reached.
 */
export class Problem extends Error {
  constructor(status, sentence, page = null) {
    super(sentence);
    this.status = status;
    this.page = page;
  }
}

/** A path with its query. Parameters that are null or undefined are left out. */
export function withQuery(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The path of a task. */
export const ofTask = (id, action = "") => `/tasks/${encodeURIComponent(id)}${action && `/${action}`}`;

/** Sends one request to the node that is shown, or to this one, and returns the answer. Throws a Problem. */
export async function ask(path, method = "GET", prefix = PREFIX) {
  let response;
  try {
    response = await fetch(prefix + path, { method, headers: { Accept: "application/json" } });
  } catch {
    throw new Problem(0, "the node does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer.detail || response.statusText, answer.page);
  return answer;
}

/** What happens on this node from now on. */
export const events = () => new EventSource(`${HERE}/events`);
