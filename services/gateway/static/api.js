// Talking to the service: one fetch, one key, one error shape (RFC 9457).

const STORED_KEY = "lantern-key";

/** A refusal or a silence of the service, in words a person can read. */
export class Failure extends Error {
  constructor({ title = "", detail = "", status = 0, request_id = "", errors = [] }) {
    super(detail || title);
    Object.assign(this, { title, status, requestId: request_id, errors });
  }

  /** Whether asking again later may help. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** The bearer key of this browser tab, or "". */
export function key() {
  return sessionStorage.getItem(STORED_KEY) ?? "";
}

/** Keep a key until the tab closes; "" forgets it. */
export function keepKey(text) {
  if (text) sessionStorage.setItem(STORED_KEY, text);
  else sessionStorage.removeItem(STORED_KEY);
}

/** Send a request; return the response, or throw a Failure. */
export async function send(path, { accept = "application/json", headers = {}, ...options } = {}) {
  const access = key() ? { Authorization: `Bearer ${key()}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { Accept: accept, ...access, ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({
      title: "No answer",
      detail: "The service could not be reached. Check the connection, then try again.",
    });
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

/** Get a JSON document. */
export async function getJson(path, options) {
  return (await send(path, options)).json();
}

/** Get a picture as a blob; the way that also carries the key. */
export async function getPicture(path, options) {
  return (await send(path, { accept: "image/*", ...options })).blob();
}

async function failureOf(response) {
  const problem = await response.json().catch(() => null);
  const said = problem && typeof problem === "object" ? problem : {};
  const detail = sentence(said.detail || said.title || `The service answered ${response.status}`);
  const wait = Number(response.headers.get("Retry-After"));
  return new Failure({
    ...said,
    status: response.status,
    detail: wait > 0 ? `${detail} (Wait ${wait} s.)` : detail,
    request_id: said.request_id ?? response.headers.get("X-Request-Id") ?? "",
    errors: Array.isArray(said.errors) ? said.errors : [],
  });
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
