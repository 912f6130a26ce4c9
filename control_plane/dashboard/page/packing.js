// Nodes as bars that their pods fill, coloured by workload; what waits for a node, and why.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { repeat } from "./lib/lit-html/directives/repeat.js";
import { styleMap } from "./lib/lit-html/directives/style-map.js";
import { json, lines, persistently } from "./api.js";
import { link, pastOf } from "./kinds.js";
import { viewport } from "./viewport.js";
import { colour } from "./colours.js";

const RESOURCES = ["pods", "cpu", "memory"];
const ROW_PX = 26;
const LEGEND_MAX = 24;
const byName = new Intl.Collator(undefined, { numeric: true }).compare;

export async function show(place, parameters, signal) {
  const past = pastOf(parameters);
  const state = { past, nodes: new Map(), names: undefined, news: undefined, error: "", order: "name" };
  const draw = () => signal.aborted || render(view(state, choose), place);
  const window = viewport(signal, ROW_PX, draw);
  state.window = window;
  const choose = (order) => ((state.order = order), arrange(state), draw());
  if (past.at) {
    take(state, await json(`rayplane/v1/packing?${new URLSearchParams({ at: past.at })}`, { signal }));
    arrange(state);
    return draw();
  }
  draw();
  await persistently(signal, (error) => ((state.error = error.message), draw()), async (seen) => {
    for await (const news of lines("rayplane/v1/packing", { signal: seen })) {
      state.error = news.error || "";
      if (news.nodes) {
        take(state, news);
        arrange(state);
      }
      draw();
    }
  });
}

// Puts what changed to what was known.
export function take(state, news) {
  if (news.whole) {
    state.nodes.clear();
    state.names = undefined;
  }
  for (const [name, node] of Object.entries(news.nodes)) {
    if (state.nodes.has(name) !== !!node) state.names = undefined;
    if (node) state.nodes.set(name, node);
    else state.nodes.delete(name);
  }
  state.news = news;
}

// What is shown of all nodes together is made when they change, not whenever the window moves.
function arrange(state) {
  state.names ??= [...state.nodes.keys()].sort(byName);
  state.sorted = state.names;
  if (state.order === "fullest") {
    const full = new Map([...state.nodes].map(([name, node]) => [name, fullness(node)]));
    state.sorted = [...state.names].sort((a, b) => full.get(b) - full.get(a));
  }
  state.sums = sums(state.nodes, state.news);
  state.legend = legend(state.nodes);
}

export const used = (node, i) => Object.values(node.held).reduce((sum, need) => sum + need[i], 0);

// How full a node is of its scarcest resource, as a share.
export const fullness = (node) => Math.max(0, ...RESOURCES.map((_, i) => (node.room[i] ? used(node, i) / node.room[i] : 0)));

const short = (workload) => workload.split("/").slice(1).join("/");

function view({ past, nodes, news, error, sorted, sums, legend, window, order }, choose) {
  if (!news) return html`<h1>Packing</h1>${error ? html`<p class="bad" role="alert">${error}</p>` : html`<p>Looking …</p>`}`;
  const { from, to } = window.shown(sorted.length);
  return html`<h1>Packing</h1>
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    ${sums}
    <label>Order <select @change=${(event) => choose(event.target.value)}><option value="name" ?selected=${order === "name"}>by name</option><option value="fullest" ?selected=${order === "fullest"}>fullest first</option></select></label>
    ${legend}
    <div class="bars" role="table" aria-label="Nodes" aria-rowcount=${sorted.length + 1}>
      <div role="row" class="bar-row head"><b role="columnheader">node</b>${RESOURCES.map((name) => html`<b role="columnheader">${name}</b>`)}</div>
      <div class="window" ${window.place} style=${styleMap({ height: `${sorted.length * ROW_PX}px` })}>
        <div style=${styleMap({ transform: `translateY(${from * ROW_PX}px)` })}>
          ${repeat(sorted.slice(from, to), (name) => name, (name) => bars(name, nodes.get(name), past))}
        </div>
      </div>
    </div>
    ${pending(news, past)}`;
}

function sums(nodes, news) {
  const all = [...nodes.values()];
  const share = RESOURCES.map((_, i) => {
    const room = all.reduce((sum, node) => sum + node.room[i], 0);
    return room ? (100 * all.reduce((sum, node) => sum + used(node, i), 0)) / room : 0;
  });
  const ready = all.filter((node) => node.ready).length;
  return html`<dl class="facts">
    <div><dt>nodes ready</dt><dd>${ready} of ${all.length}</dd></div>
    <div><dt>nodes with pods</dt><dd>${news.used}</dd></div>
    <div><dt>fewest that could hold them</dt><dd>${news.lowerBound}</dd></div>
    <div><dt>waiting pods</dt><dd>${news.pendingCount}</dd></div>
    ${RESOURCES.map((name, i) => html`<div><dt>${name} asked for</dt><dd>${share[i].toFixed(1)} %</dd></div>`)}
  </dl>`;
}

function legend(nodes) {
  const pods = new Map();
  for (const node of nodes.values()) for (const [name, need] of Object.entries(node.held)) pods.set(name, (pods.get(name) || 0) + need[0]);
  const most = [...pods].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const entry = ([name, count]) => html`<li><i style=${styleMap({ background: colour(name) })}></i>${short(name)} ${count}</li>`;
  return html`<ul class="legend" aria-label="Workloads">${most.slice(0, LEGEND_MAX).map(entry)}
    ${most.length > LEGEND_MAX ? html`<li>and ${most.length - LEGEND_MAX} more</li>` : nothing}</ul>`;
}

function bars(name, node, past) {
  const state = !node.registered ? "gone" : !node.ready ? "not ready" : node.cordoned ? "cordoned" : "";
  return html`<div role="row" class="bar-row"><span role="rowheader"><a href=${link("nodes", "", name, past)}>${name}</a>
    ${state ? html`<em class="bad">${state}</em>` : nothing}</span>${RESOURCES.map((resource, i) => bar(node, resource, i))}</div>`;
}

function bar(node, resource, i) {
  const room = node.room[i] || used(node, i) || 1;
  const part = ([workload, need]) => html`<i title="${short(workload)}: ${need[0]} pods, ${amount(resource, need[i])}"
    style=${styleMap({ width: `${(100 * need[i]) / room}%`, background: colour(workload) })}></i>`;
  const total = `${amount(resource, used(node, i))} of ${amount(resource, node.room[i])}`;
  return html`<span role="cell" class="bar" aria-label=${total} title=${total}>${Object.entries(node.held).map(part)}</span>`;
}

export function amount(resource, value) {
  if (resource === "cpu") return `${value / 1000}`;
  if (resource === "memory") return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
  return `${value}`;
}

function pending({ pending, pendingCount }, past) {
  if (!pendingCount) return nothing;
  const row = ([key, why]) => {
    const [namespace, name] = key.split("/");
    return html`<tr><th scope="row"><a href=${link("pods", namespace, name, past)}>${key}</a></th><td>${why}</td></tr>`;
  };
  return html`<h2>Waiting</h2><table><thead><tr><th>pod</th><th>why</th></tr></thead><tbody>${pending.map(row)}</tbody></table>
    ${pendingCount > pending.length ? html`<p>and ${pendingCount - pending.length} more</p>` : nothing}`;
}
