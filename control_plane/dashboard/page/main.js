// The frame of the page: who is signed in, which view is shown.

import { html, render } from "./lib/lit-html/lit-html.js";
import { json, OF_API_SERVER, OF_RECORDING, token } from "./api.js";
import * as kinds from "./kinds.js";
import * as rights from "./rights.js";
import { said } from "./said.js";

const HISTORY = { title: "Time travel", load: () => import("./history.js") };
const VIEWS = OF_RECORDING
  ? { history: { ...HISTORY, title: "Recording" } }
  : {
      "control-plane": { title: "Control plane", load: () => import("./control_plane.js") },
      packing: { title: "Packing", load: () => import("./packing.js") },
      history: HISTORY,
      objects: { title: "Workloads", load: () => import("./tables.js") },
      object: { below: "objects", load: () => import("./object.js") },
    };

let leaving = new AbortController();

function route(may) {
  const [path, query] = location.hash.slice(2).split("?");
  const first = Object.keys(VIEWS).find((name) => may[name] ?? true);
  return { name: Object.hasOwn(VIEWS, path) ? path : first, parameters: new URLSearchParams(query) };
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  // A place of its own for each view: what an old one still draws is not seen.
  const place = document.createElement("div");
  document.getElementById("view").replaceChildren(place);
  if (!token.get()) return frame(), signIn(place);
  try {
    const may = await rights.rights();
    if (signal.aborted) return;
    const { name, parameters } = route(may);
    frame(name, may);
    const view = await VIEWS[name].load();
    if (!signal.aborted) await view.show(place, parameters, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) frame(), signIn(place, error.message);
    else render(html`<p class="bad" role="alert">${error.message}</p>`, place);
  }
}

function frame(current, may = {}) {
  const entry = ([name, { title }]) =>
    html`<a href="#/${name}" aria-current=${current === name ? "page" : name === VIEWS[current]?.below}>${title}</a>`;
  const links = current ? Object.entries(VIEWS).filter(([name, view]) => view.title && (may[name] ?? true)) : [];
  const out = html`<button @click=${signOut}>Sign out</button>`;
  render(html`<b>rayplane</b><nav aria-label="Views">${links.map(entry)}</nav>${token.get() ? out : ""}`, document.getElementById("top"));
  document.title = current ? `${VIEWS[current].title || "Object"} · rayplane` : "rayplane";
}

function signIn(place, problem = "") {
  const submit = async (event) => {
    event.preventDefault();
    token.set(new FormData(event.target).get("token").trim());
    try {
      await json("version");
      rights.forget();
      show();
    } catch (error) {
      token.forget();
      signIn(place, error.message);
    }
  };
  render(
    html`<form class="sign-in" @submit=${submit}>
      <h1>Sign in</h1>
      <p>${OF_RECORDING ? html`Open the address that <code>rayplane dashboard --open</code> prints, or give its key.` : html`${OF_API_SERVER ? "Give" : html`Open the address that <code>rayplane dashboard</code> prints, or give`} a token of the cluster: <code>kubectl create token NAME</code>.`}</p>
      ${problem ? html`<p class="bad" role="alert">${problem}</p>` : ""}
      <label>Token <input name="token" type="password" autocomplete="off" required></label>
      <button>Sign in</button>
    </form>`,
    place,
  );
  place.querySelector("input").focus();
}

function signOut() {
  token.forget();
  kinds.forget();
  rights.forget();
  history.replaceState(null, "", location.pathname);
  show();
}

window.addEventListener("hashchange", () => (token.takeFromAddress(), show()));
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") said(event.reason?.message || String(event.reason), true);
});
token.takeFromAddress();
show();
