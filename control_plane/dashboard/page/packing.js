// Nodes as bars that their pods fill, coloured by workload; what waits for a node, and why.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { repeat } from "./lib/lit-html/directives/repeat.js";
import { styleMap } from "./lib/lit-html/directives/style-map.js";
import { json, lines, persistently } from "./api.js";
import { link, pastOf } from "./kinds.js";
import { rarely, unchanged, viewport } from "./viewport.js";
import { colour } from "./colours.js";

const USUAL = ["pods", "cpu", "memory"];
const SIZES_MAX = 40;
const ROW_PX = 26;
const LEGEND_MAX = 24;
const byName = new Intl.Collator(undefined, { numeric: true }).compare;

export async function show(place, parameters, signal) {
  const past = pastOf(parameters);
  const state = { past, nodes: new Map(), workloads: new Map(), names: undefined, news: undefined, error: "", order: "name" };
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
  const arranged = rarely(signal, () => (arrange(state), draw()));
  await persistently(signal, (error) => ((state.error = error.message), draw()), async (seen) => {
    for await (const news of lines("rayplane/v1/packing", { signal: seen })) {
      state.error = news.error || "";
      if (!news.nodes) draw();
      else {
        take(state, news);
        arranged();
      }
    }
  });
}

// Puts what changed to what was known.
export function take(state, news) {
  if (news.whole) {
    state.nodes.clear();
    state.workloads.clear();
    state.names = undefined;
  }
  for (const [name, node] of Object.entries(news.nodes)) {
    const old = state.nodes.get(name);
    if (!old !== !node) state.names = undefined;
    if (old) count(state.workloads, old, -1);
    if (!node) {
      state.nodes.delete(name);
      continue;
    }
    const known = byResource(node);
    state.nodes.set(name, known);
    count(state.workloads, known, 1);
  }
  state.news = news;
}

// Puts what the pods of a node ask for to the sums of their workloads, or takes it away.
function count(workloads, { held }, sign) {
  for (const workload in held) {
    const need = held[workload];
    let sum = workloads.get(workload);
    if (!sum) workloads.set(workload, (sum = {}));
    for (const name in need) sum[name] = (sum[name] || 0) + sign * need[name];
    if (!sum.pods) workloads.delete(workload);
  }
}

const named = ([pods, cpu, memory], others) => ({ pods, cpu, memory, ...others });

// A node with its amounts by the names of resources, and what is used of each.
export function byResource({ room, held, others = { room: {}, held: {} }, ...node }) {
  const all = Object.fromEntries(Object.entries(held).map(([workload, need]) => [workload, named(need, others.held[workload])]));
  const used = {};
  for (const need of Object.values(all)) for (const [name, amount] of Object.entries(need)) used[name] = (used[name] || 0) + amount;
  return { ...node, room: named(room, others.room), held: all, used };
}

// Those that every node has, those of devices, and what else pods ask for.
function resourcesOf(nodes) {
  const found = new Set(USUAL);
  for (const { room, used } of nodes.values()) {
    for (const name in room) if (name.includes("/")) found.add(name);
    for (const name in used) found.add(name);
  }
  return [...found];
}

// By resource, the share of what is free that a pod could not take, drawn from those that run: on nodes where it does not fit.
export function fragmentation(nodes, workloads, resources) {
  const most = [...workloads.values()].sort((a, b) => b.pods - a.pods).slice(0, SIZES_MAX);
  const pods = most.reduce((sum, one) => sum + one.pods, 0);
  // By their places among the resources, and without a list or an object a node: thousands of nodes times all sizes are asked.
  const sizes = most.map((one) => ({ share: one.pods / pods, need: resources.map((name) => (one[name] || 0) / one.pods) }));
  const [left, free, lost] = [0, 0, 0].map((none) => resources.map(() => none));
  const fits = ({ need }) => {
    for (let i = 0; i < need.length; i++) if (need[i] > left[i]) return false;
    return true;
  };
  for (const { room, used, ready, cordoned } of nodes.values()) {
    if (!ready || cordoned) continue;
    for (let i = 0; i < left.length; i++) left[i] = Math.max(0, (room[resources[i]] || 0) - (used[resources[i]] || 0));
    let shut = 0;
    for (const size of sizes) if (!fits(size)) shut += size.share;
    for (let i = 0; i < left.length; i++) {
      free[i] += left[i];
      lost[i] += shut * left[i];
    }
  }
  return Object.fromEntries(resources.map((name, i) => [name, free[i] ? lost[i] / free[i] : 0]));
}

// What is shown of all nodes together is made when they change, not whenever the window moves.
function arrange(state) {
  state.names ??= [...state.nodes.keys()].sort(byName);
  state.sorted = state.names;
  if (state.order === "fullest") {
    const full = new Map([...state.nodes].map(([name, node]) => [name, fullness(node)]));
    state.sorted = [...state.names].sort((a, b) => full.get(b) - full.get(a));
  }
  const resources = resourcesOf(state.nodes);
  if (String(resources) !== String(state.resources)) state.resources = resources;
  state.sums = sums(state);
  state.legend = legend(state.workloads);
}

// How full a node is of its scarcest resource, as a share.
export function fullness({ room, used }) {
  let most = 0;
  for (const name in room) if (room[name]) most = Math.max(most, (used[name] || 0) / room[name]);
  return most;
}

const short = (workload) => workload.split("/").slice(1).join("/");

function view({ past, nodes, news, error, sorted, resources, sums, legend, window, order }, choose) {
  if (!news || !sorted) return html`<h1>Packing</h1>${error ? html`<p class="bad" role="alert">${error}</p>` : html`<p>Looking …</p>`}`;
  const { from, to } = window.shown(sorted.length);
  // What was arranged last may have nodes that are gone since.
  const rows = sorted.slice(from, to).filter((name) => nodes.has(name));
  return html`<h1>Packing</h1>
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    ${sums}
    <label>Order <select @change=${(event) => choose(event.target.value)}><option value="name" ?selected=${order === "name"}>by name</option><option value="fullest" ?selected=${order === "fullest"}>fullest first</option></select></label>
    ${legend}
    <div class="bars" role="table" aria-label="Nodes" aria-rowcount=${sorted.length + 1} style=${styleMap({ "--resources": resources.length })}>
      <div role="row" class="bar-row head"><b role="columnheader">node</b>${resources.map((name) => html`<b role="columnheader" title=${name}>${name}</b>`)}</div>
      <div class="window" ${window.place} style=${styleMap({ height: `${sorted.length * ROW_PX}px` })}>
        <div style=${styleMap({ transform: `translateY(${from * ROW_PX}px)` })}>
          ${repeat(rows, (name) => name, (name) => unchanged(nodes.get(name), resources, () => bars(name, nodes.get(name), resources, past)))}
        </div>
      </div>
    </div>
    ${pending(news, past)}`;
}

function sums({ nodes, workloads, news, resources }) {
  const room = {}, used = {};
  let ready = 0;
  for (const node of nodes.values()) {
    ready += node.ready;
    for (const name of resources) {
      room[name] = (room[name] || 0) + (node.room[name] || 0);
      used[name] = (used[name] || 0) + (node.used[name] || 0);
    }
  }
  const share = (name) => (room[name] ? (100 * used[name]) / room[name] : 0);
  const lost = fragmentation(nodes, workloads, resources);
  const fragmented = resources.filter((name) => name !== "pods");
  return html`<dl class="facts">
    <div><dt>nodes ready</dt><dd>${ready} of ${nodes.size}</dd></div>
    <div><dt>nodes with pods</dt><dd>${news.used}</dd></div>
    <div><dt>fewest that could hold them</dt><dd>${news.lowerBound}</dd></div>
    <div><dt>waiting pods</dt><dd>${news.pendingCount}</dd></div>
    ${resources.map((name) => html`<div><dt>${name} asked for</dt><dd>${share(name).toFixed(1)} %</dd></div>`)}
    ${fragmented.map((name) => html`<div title="of what is free, on nodes where a pod such as those that run would not fit"><dt>free ${name} fragmented</dt><dd>${(100 * lost[name]).toFixed(1)} %</dd></div>`)}
  </dl>`;
}

function legend(workloads) {
  const most = [...workloads].map(([name, { pods }]) => [name, pods]).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const entry = ([name, count]) => html`<li><i style=${styleMap({ background: colour(name) })}></i>${short(name)} ${count}</li>`;
  return html`<ul class="legend" aria-label="Workloads">${most.slice(0, LEGEND_MAX).map(entry)}
    ${most.length > LEGEND_MAX ? html`<li>and ${most.length - LEGEND_MAX} more</li>` : nothing}</ul>`;
}

function bars(name, node, resources, past) {
  const state = !node.registered ? "gone" : !node.ready ? "not ready" : node.cordoned ? "cordoned" : "";
  return html`<div role="row" class="bar-row"><span role="rowheader"><a href=${link("nodes", "", name, past)}>${name}</a>
    ${state ? html`<em class="bad">${state}</em>` : nothing}</span>${resources.map((resource) => bar(node, resource))}</div>`;
}

function bar({ room, used, held }, resource) {
  const taken = used[resource] || 0;
  const all = room[resource] || taken || 1;
  const parts = Object.entries(held).filter(([, need]) => need[resource]);
  const part = ([workload, need]) => html`<i title="${short(workload)}: ${need.pods} pods, ${amount(resource, need[resource])}"
    style=${styleMap({ width: `${(100 * need[resource]) / all}%`, background: colour(workload) })}></i>`;
  const total = `${amount(resource, taken)} of ${amount(resource, room[resource] || 0)}`;
  return html`<span role="cell" class="bar" aria-label=${total} title=${total}>${parts.map(part)}</span>`;
}

export function amount(resource, value) {
  if (resource === "cpu") return `${value / 1000}`;
  if (resource === "memory" || resource === "ephemeral-storage" || resource.startsWith("hugepages-")) return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
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
