// Objects of a kind, in the columns that kubectl prints, as they change.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { repeat } from "./lib/lit-html/directives/repeat.js";
import { styleMap } from "./lib/lit-html/directives/style-map.js";
import { json, lines, persistently, Refused } from "./api.js";
import { kinds, link, listPath, pastOf, then } from "./kinds.js";
import { rarely, unchanged, viewport } from "./viewport.js";

const TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PAGE = 500;
const ROW_PX = 28;

export async function show(place, parameters, signal) {
  const all = await kinds();
  const kind = all.get(parameters.get("kind") || "pods");
  if (!kind) throw new Refused(404, undefined, `the cluster serves no ${parameters.get("kind")}`);
  const namespace = parameters.get("namespace") || "";
  // An instant of the past, at which the table stays.
  const past = pastOf(parameters);
  const state = { all, kind, namespace, past, namespaces: [], columns: [], rows: new Map(), order: [], filter: "", error: "", loaded: false };
  const draw = () => signal.aborted || (past.at && !state.loaded && !state.error) || render(view(state, change), place);
  const change = (filter) => ((state.filter = filter), draw());
  state.window = viewport(signal, ROW_PX, draw);
  const soon = rarely(signal, draw);
  draw();
  namespaces(signal).then((names) => ((state.namespaces = names), draw()));
  await persistently(signal, (error) => ((state.error = error.message), draw()), (seen) => follow(state, seen, soon));
}

async function namespaces(signal) {
  try {
    return (await json("api/v1/namespaces", { signal })).items.map((one) => one.metadata.name);
  } catch {
    return []; // who may not list them writes theirs into the address
  }
}

// Lists page by page, then watches; returns when the watch ends, and the list is read anew.
async function follow(state, signal, changed) {
  const path = listPath(state.kind, state.namespace);
  const rows = new Map();
  let version = "";
  let next = "";
  do {
    const query = new URLSearchParams({ limit: PAGE, ...(next ? { continue: next } : then(state.past)) });
    const page = await json(`${path}?${query}`, { accept: TABLE, signal });
    if (page.columnDefinitions) state.columns = page.columnDefinitions;
    for (const row of page.rows || []) rows.set(row.object.metadata.uid, kept(row));
    version = page.metadata.resourceVersion;
    next = page.metadata.continue || "";
    if (!state.loaded || !next) replace(state, rows);
    state.loaded ||= !next;
    state.error = "";
    changed();
  } while (next);
  if (state.past.at || !state.kind.verbs.includes("watch")) return new Promise((done) => signal.addEventListener("abort", done));
  const query = new URLSearchParams({ watch: "true", resourceVersion: version, allowWatchBookmarks: "true" });
  for await (const { type, object } of lines(`${path}?${query}`, { accept: TABLE, signal })) {
    if (type === "ERROR") throw new Refused(object.code, object);
    if (type === "BOOKMARK") continue;
    for (const row of object.rows || []) {
      const { uid } = row.object.metadata;
      // The order is of names, which do not change.
      if (state.rows.has(uid) === (type === "DELETED")) state.order = undefined;
      if (type === "DELETED") state.rows.delete(uid);
      else state.rows.set(uid, kept(row));
      state.fitting = undefined;
    }
    changed();
  }
}

// Of an object only what a row shows of it: there may be very many.
const kept = ({ cells, object: { metadata: { uid, namespace, name } } }) => ({
  cells,
  object: { metadata: { uid, namespace, name } },
  words: [`${namespace || ""}/${name}`, ...cells].join(" ").toLowerCase(),
});

function replace(state, rows) {
  state.rows = rows;
  state.order = undefined;
  state.fitting = undefined;
}

function ordered(state) {
  const key = ({ object: { metadata } }) => `${metadata.namespace || ""}/${metadata.name}`;
  state.order ??= [...state.rows].map(([uid, row]) => [key(row), uid]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return state.order;
  if (state.fitting?.filter !== state.filter) {
    state.fitting = { filter: state.filter, rows: state.order.filter(([, uid]) => words.every((word) => state.rows.get(uid).words.includes(word))) };
  }
  return state.fitting.rows;
}

function view(state, change) {
  const { kind, namespace, error, window } = state;
  const columns = state.columns.map((column, i) => ({ ...column, i })).filter(({ priority }) => !priority);
  const spread = kind.namespaced && !namespace;
  const rows = ordered(state);
  const { from, to } = window.shown(rows.length);
  return html`<h1>${kind.kind} <small>${rows.length}${state.loaded ? "" : " …"}</small></h1>
    ${chooser(state, change)}
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    <div class="grid" role="table" aria-label=${kind.plural} aria-rowcount=${rows.length + 1}>
      <div role="row" class="grid-row head" style=${columnsOf(columns, spread)}>
        ${spread ? html`<b role="columnheader">Namespace</b>` : nothing}${columns.map(({ name }) => html`<b role="columnheader">${name}</b>`)}
      </div>
      <div class="window" ${window.place} style=${styleMap({ height: `${rows.length * ROW_PX}px` })}>
        <div style=${styleMap({ transform: `translateY(${from * ROW_PX}px)` })}>
          ${repeat(rows.slice(from, to), ([, uid]) => uid, ([, uid]) => unchanged(state.rows.get(uid), state.columns, () => line(state.rows.get(uid), state, columns, spread)))}
        </div>
      </div>
    </div>
    ${state.loaded && !rows.length ? html`<p>None.</p>` : nothing}`;
}

const columnsOf = (columns, spread) =>
  styleMap({ gridTemplateColumns: [...(spread ? ["minmax(7em, 1fr)"] : []), ...columns.map((_, i) => (i ? "minmax(4em, 1fr)" : "minmax(12em, 2fr)"))].join(" ") });

function line({ cells, object: { metadata } }, { kind, past }, columns, spread) {
  const cell = ({ i }) => {
    const text = String(cells[i] ?? "");
    return i === 0
      ? html`<span role="rowheader"><a href=${link(kind, metadata.namespace, metadata.name, past)}>${text}</a></span>`
      : html`<span role="cell" title=${text}>${text}</span>`;
  };
  return html`<div role="row" class="grid-row" style=${columnsOf(columns, spread)}>
    ${spread ? html`<span role="cell">${metadata.namespace}</span>` : nothing}${columns.map(cell)}</div>`;
}

function chooser({ all, kind, namespace, namespaces, filter, past }, change) {
  const go = (kind, namespace) => (location.hash = past.at ? `#/history?${new URLSearchParams({ kind, namespace, at: past.at })}` : `#/objects?${new URLSearchParams({ kind, namespace })}`);
  const listed = [...all.values()].filter((one) => one.verbs.includes("list"));
  const option = (value, text, chosen) => html`<option value=${value} ?selected=${value === chosen}>${text}</option>`;
  const names = namespace && !namespaces.includes(namespace) ? [namespace, ...namespaces] : namespaces;
  return html`<form class="chooser" @submit=${(event) => event.preventDefault()}>
    <label>Kind <select @change=${(event) => go(event.target.value, namespace)}>${listed.map((one) => option(one.name, one.name, kind.name))}</select></label>
    ${kind.namespaced
      ? html`<label>Namespace <select @change=${(event) => go(kind.name, event.target.value)}>
          ${option("", "all", namespace)}${names.map((name) => option(name, name, namespace))}</select></label>`
      : nothing}
    <label>Filter <input type="search" .value=${filter} @input=${(event) => change(event.target.value)}></label>
  </form>`;
}
