// The frame of the page: who is signed in, which view is shown.

import { html, render } from "./lib/lit-html/lit-html.js";
import { json, OF_API_SERVER, OF_RECORDING, token } from "./api.js";
import * as kinds from "./kinds.js";
import { said } from "./said.js";

const OWN_VIEWS = {
  "control-plane": { title: "Control plane", load: () => import("./control_plane.js") },
  packing: { title: "Packing", load: () => import("./packing.js") },
  history: { title: "Time travel", load: () => import("./history.js") },
};
const API_VIEWS = {
  objects: { title: "Workloads", load: () => import("./tables.js") },
  object: { load: () => import("./object.js") },
};
const VIEWS = OF_RECORDING ? { history: { ...OWN_VIEWS.history, title: "Recording" } } : { ...(OF_API_SERVER ? {} : OWN_VIEWS), ...API_VIEWS };
const [FIRST] = Object.keys(VIEWS);
const START = `#/${FIRST}`;

let leaving = new AbortController();

function route() {
  const [path, query] = (location.hash || START).slice(2).split("?");
  return { name: VIEWS[path] ? path : FIRST, parameters: new URLSearchParams(query) };
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { name, parameters } = route();
  frame(name);
  // A place of its own for each view: what an old one still draws is not seen.
  const place = document.createElement("div");
  document.getElementById("view").replaceChildren(place);
  if (!token.get()) return signIn(place);
  try {
    const view = await VIEWS[name].load();
    if (!signal.aborted) await view.show(place, parameters, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) signIn(place, error.message);
    else render(html`<p class="bad" role="alert">${error.message}</p>`, place);
  }
}

function frame(current) {
  const entry = ([name, { title }]) =>
    html`<a href="#/${name}" aria-current=${current === name ? "page" : "false"}>${title}</a>`;
  const links = Object.entries(VIEWS).filter(([, view]) => view.title);
  const out = html`<button @click=${signOut}>Sign out</button>`;
  render(html`<b>rayplane</b><nav aria-label="Views">${links.map(entry)}</nav>${token.get() ? out : ""}`, document.getElementById("top"));
  document.title = `${VIEWS[current].title || "Object"} · rayplane`;
}

function signIn(place, problem = "") {
  const submit = async (event) => {
    event.preventDefault();
    token.set(new FormData(event.target).get("token").trim());
    try {
      await json("version");
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
  location.hash = START;
  show();
}

window.addEventListener("hashchange", () => (token.takeFromAddress(), show()));
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") said(event.reason?.message || String(event.reason), true);
});
token.takeFromAddress();
show();
