// Requests to whoever serves the page, each with the bearer token; nothing is asked from anywhere else.

const KEPT = "rayplane-token";
const PROTOCOL = "base64url.bearer.authorization.k8s.io.";
// Relative to the page, so that it may be served below any path.
const BASE = new URL(".", document.baseURI);
// API servers serve it as well, at this path.
export const OF_API_SERVER = BASE.pathname.endsWith("/ui/");
// A recording that is played is at this one: nothing of it is of now.
export const OF_RECORDING = BASE.pathname.endsWith("/recording/");
const API = OF_API_SERVER || OF_RECORDING ? new URL("..", BASE) : BASE;

export class Refused extends Error {
  // `status`: HTTP's; `body`: the Status object of the API, where it was one.
  constructor(status, body, text) {
    super(body?.message || text || `HTTP ${status}`);
    this.status = status;
    this.body = body;
  }
}

export const token = {
  // Of this tab alone: other pages, and other servers of this machine, never see it.
  get: () => sessionStorage.getItem(KEPT) || "",
  set: (value) => sessionStorage.setItem(KEPT, value),
  forget: () => sessionStorage.removeItem(KEPT),
  // The address that `rayplane dashboard` prints has the key behind its `#`; it does not stay in the history.
  takeFromAddress() {
    const found = /^#key=(.+)$/.exec(location.hash);
    if (!found) return;
    token.set(decodeURIComponent(found[1]));
    history.replaceState(null, "", location.pathname);
  },
};

export async function ask(path, { method = "GET", body, accept = "application/json", type = "application/json", signal } = {}) {
  const headers = { Accept: accept, Authorization: `Bearer ${token.get()}` };
  if (body !== undefined) headers["Content-Type"] = type;
  const sent = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  const answer = await fetch(new URL(path, API), { method, headers, body: sent, signal });
  if (answer.ok) return answer;
  const text = await answer.text();
  let status;
  try {
    status = JSON.parse(text);
  } catch {
    status = undefined;
  }
  throw new Refused(answer.status, status, text.slice(0, 300));
}

export const json = async (path, options) => (await ask(path, options)).json();
export const text = async (path, options) => (await ask(path, options)).text();

// The pieces of text that an answer brings, as they come.
export async function* pieces(path, options) {
  const answer = await ask(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// The JSON values of an answer that has one a line.
export async function* lines(path, options) {
  let rest = "";
  for await (const piece of pieces(path, options)) {
    const parts = (rest + piece).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line) yield JSON.parse(line);
  }
}

export function socket(path, protocols) {
  const url = new URL(path, API);
  url.protocol = url.protocol.replace("http", "ws");
  const encoded = btoa(String.fromCharCode(...new TextEncoder().encode(token.get())));
  const shown = PROTOCOL + encoded.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return new WebSocket(url, [...protocols, shown]);
}

// A signal that comes when the tab is hidden: browsers have six connections to a server for all tabs together.
function hidden(signal) {
  const away = new AbortController();
  document.addEventListener("visibilitychange", () => document.hidden && away.abort(), { signal: AbortSignal.any([signal, away.signal]) });
  return away.signal;
}

const seen = (signal) =>
  new Promise((done) => {
    if (!document.hidden || signal.aborted) return done();
    document.addEventListener("visibilitychange", done, { once: true, signal });
    signal.addEventListener("abort", done, { once: true });
  });

// `work(signal)` again and again while the tab is seen, with a growing pause after an end, until the signal; `failed` is
// told why it ended.
export async function persistently(signal, failed, work) {
  for (let pause = 500; !signal.aborted; pause = Math.min(pause * 2, 8000)) {
    await seen(signal);
    if (signal.aborted) return;
    const since = performance.now();
    const away = hidden(signal);
    try {
      await work(AbortSignal.any([signal, away]));
    } catch (error) {
      if (signal.aborted) return;
      if (!away.aborted) failed(error);
      if (error.status === 401 || error.status === 403) return;
    }
    if (away.aborted) continue;
    if (performance.now() - since > 10000) pause = 500;
    await new Promise((done) => setTimeout(done, pause));
  }
}
