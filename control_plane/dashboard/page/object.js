// One object: what it is, what happened to it, and what can be done with it.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { structuredPatch } from "./lib/diff/patch/create.js";
import { ask, json, lines, persistently, pieces, Refused, text } from "./api.js";
import * as forwards from "./forwards.js";
import { kinds, link, listPath, objectPath, pastOf, then } from "./kinds.js";
import { rights } from "./rights.js";
import { attempt } from "./said.js";
import { hasTopology, open as topology } from "./topology.js";

const YAML = "application/yaml";
const MERGE = "application/strategic-merge-patch+json";
const RESTARTED = "kubectl.kubernetes.io/restartedAt";
const APPLIED = "kubectl.kubernetes.io/last-applied-configuration";
const LOG_CHARS_MAX = 400_000;
const DIFF_MS_MAX = 2000;
const RESTARTABLE = new Set(["deployments.apps", "statefulsets.apps", "daemonsets.apps"]);
const TABS = { facts: "Facts", topology: "Topology", events: "Events", yaml: "YAML", logs: "Logs", terminal: "Terminal", explain: "Placement", why: "Story" };
const OF_PODS = new Set(["logs", "terminal", "explain"]);
const PAST_TABS = new Set(["facts", "topology", "yaml"]);

export async function show(place, parameters, signal) {
  const [all, may] = await Promise.all([kinds(), rights()]);
  const kind = all.get(parameters.get("kind"));
  if (!kind) throw new Refused(404, undefined, `the cluster serves no ${parameters.get("kind")}`);
  const namespace = parameters.get("namespace") || "";
  const name = parameters.get("name") || "";
  const path = objectPath(kind, namespace, name);
  const past = pastOf(parameters);
  const asked = parameters.get("tab");
  const state = { all, may, kind, namespace, name, path, past, tab: Object.hasOwn(TABS, asked) ? asked : "facts", object: undefined, error: "", gone: false };
  const draw = () => signal.aborted || render(view(state), place);
  if (!past.at) draw();
  state.object = past.at ? await objectThen(state, signal) : await json(path, { signal });
  draw();
  const tab = place.querySelector("#tab");
  const open = past.at ? { topology, yaml: written }[state.tab] || facts : { facts, topology, events, yaml, logs, terminal, explain, why }[state.tab];
  const opened = open(tab, state, signal).catch((error) => signal.aborted || render(problem(error.message), tab));
  await (past.at ? opened : Promise.all([opened, persistently(signal, () => undefined, (seen) => follow(state, seen, draw))]));
}

// What it was. Items of a list do not say what they are.
async function objectThen({ kind, namespace, name, past }, signal) {
  const query = new URLSearchParams({ fieldSelector: `metadata.name=${name}`, ...then(past) });
  const { apiVersion, items } = await json(`${listPath(kind, namespace)}?${query}`, { signal });
  if (!items.length) throw new Refused(404, undefined, `there was no ${kind.kind} ${name} then`);
  return { apiVersion, kind: kind.kind, ...items[0] };
}

// Keeps the object as it is now.
async function follow(state, signal, changed) {
  state.object = await json(state.path, { signal }).catch((error) => {
    if (error.status === 404) state.gone = true;
    else throw error;
    changed();
    return state.object;
  });
  const query = new URLSearchParams({ watch: "true", fieldSelector: `metadata.name=${state.name}` });
  for await (const { type, object } of lines(`${listPath(state.kind, state.namespace)}?${query}`, { signal })) {
    if (type === "ERROR") throw new Refused(object.code, object);
    state.gone = type === "DELETED";
    state.object = object;
    changed();
    state.onChange?.();
  }
}

const problem = (message) => html`<p class="bad" role="alert">${message}</p>`;

function view(state) {
  const { may, kind, namespace, name, object, past, tab, gone } = state;
  const href = (one) => `${link(kind, namespace, name, past)}&tab=${one}`;
  const list = new URLSearchParams({ kind: kind.name, namespace, ...past });
  const there = (one) => (kind.name === "pods" || !OF_PODS.has(one)) && (may[one] ?? true) && (!past.at || PAST_TABS.has(one)) && (one !== "topology" || hasTopology(kind));
  const tabs = Object.entries(TABS).filter(([one]) => there(one));
  return html`<p><a href=${`#/${past.at ? "history" : "objects"}?${list}`}>${kind.plural}</a> ${namespace ? html`in ${namespace}` : nothing}</p>
    <h1>${name} <small>${kind.kind}${gone ? html` <span class="bad">is deleted</span>` : nothing}</small></h1>
    ${past.at ? nothing : object ? deeds(state) : html`<p>Looking …</p>`}
    <nav class="tabs" aria-label="Of this object">${tabs.map(([one, title]) => html`<a href=${href(one)} aria-current=${tab === one ? "page" : "false"}>${title}</a>`)}</nav>
    <section id="tab"></section>`;
}

// --- what can be done ------------------------------------------------------------------------------

function deeds({ kind, path, name, object }) {
  const patch = (body, done) => attempt(async () => (await ask(path, { method: "PATCH", type: MERGE, body }), done));
  const remove = () => confirm(`Delete ${kind.kind} ${name}?`) && attempt(async () => (await ask(path, { method: "DELETE" }), `${name} is being deleted`));
  const restart = () => patch({ spec: { template: { metadata: { annotations: { [RESTARTED]: new Date().toISOString() } } } } }, "its pods are replaced");
  const pause = () => patch({ spec: { paused: !object.spec.paused } }, object.spec.paused ? "its rollout goes on" : "its rollout pauses");
  const cordon = () => patch({ spec: { unschedulable: !object.spec.unschedulable } }, object.spec.unschedulable ? "takes pods again" : "takes no new pods");
  return html`<p class="deeds">
    ${kind.subresources.has("scale") ? scaling(path, object) : nothing}
    ${RESTARTABLE.has(kind.name) ? html`<button @click=${restart}>Restart</button>` : nothing}
    ${kind.name === "deployments.apps" ? html`<button @click=${pause}>${object.spec.paused ? "Resume" : "Pause"}</button>
      <button @click=${() => attempt(() => undo(object))}>Undo</button>` : nothing}
    ${kind.name === "nodes" ? html`<button @click=${cordon}>${object.spec.unschedulable ? "Uncordon" : "Cordon"}</button>` : nothing}
    ${kind.verbs.includes("delete") ? html`<button class="danger" @click=${remove}>Delete</button>` : nothing}
  </p>`;
}

function scaling(path, object) {
  const submit = (event) => {
    event.preventDefault();
    const replicas = Number(new FormData(event.target).get("replicas"));
    const body = { spec: { replicas } };
    attempt(async () => (await ask(`${path}/scale`, { method: "PATCH", type: "application/merge-patch+json", body }), `${replicas} replicas are wanted`));
  };
  return html`<form @submit=${submit}><label>Replicas <input name="replicas" type="number" min="0" value=${object.spec?.replicas ?? 1}></label><button>Scale</button></form>`;
}

const revision = (one) => Number(one.metadata.annotations?.["deployment.kubernetes.io/revision"] || 0);

// Puts the template of the revision before in place, as `kubectl rollout undo` does.
async function undo(deployment) {
  const { namespace, name, uid } = deployment.metadata;
  const found = await json(`apis/apps/v1/namespaces/${namespace}/replicasets`);
  const own = found.items.filter((one) => one.metadata.ownerReferences?.some((owner) => owner.uid === uid)).sort((a, b) => revision(b) - revision(a));
  if (own.length < 2) throw new Error("there is no revision before this one");
  const { metadata, spec } = own[1].spec.template;
  const { "pod-template-hash": _, ...labels } = metadata.labels;
  const body = [{ op: "replace", path: "/spec/template", value: { metadata: { ...metadata, labels }, spec } }];
  await ask(`apis/apps/v1/namespaces/${namespace}/deployments/${name}`, { method: "PATCH", type: "application/json-patch+json", body });
  return `revision ${revision(own[1])} is rolled out again`;
}

// --- tabs ------------------------------------------------------------------------------------------

async function facts(tab, state, signal) {
  const open = (found) => ((state.open = found), state.onChange());
  state.onChange = () => signal.aborted || render(factsOf(state, open), tab);
  state.onChange();
  if (!state.past.at && forwards.portsOf(state.kind.name, state.object.spec).length) open(await forwards.opened(signal));
}

function factsOf({ kind: { name }, object: { metadata, spec, status }, all, past, open }, opened) {
  const { [APPLIED]: _, ...annotations } = metadata.annotations || {};
  const pairs = (title, map) =>
    map && Object.keys(map).length ? html`<div><dt>${title}</dt><dd>${Object.entries(map).map(([key, value]) => html`<code>${key}=${value}</code> `)}</dd></div>` : nothing;
  const owner = (one) => {
    const kind = kindOf(all, one);
    const text = `${one.kind} ${one.name}`;
    return kind ? html`<a href=${link(kind, kind.namespaced ? metadata.namespace : "", one.name, past)}>${text}</a> ` : html`${text} `;
  };
  const rows = (status?.conditions || []).map((one) => html`<tr><th scope="row">${one.type}</th><td>${one.status}</td><td>${one.reason}</td><td>${one.message}</td></tr>`);
  return html`<dl class="facts">
      <div><dt>since</dt><dd>${metadata.creationTimestamp}</dd></div>
      ${spec?.nodeName ? html`<div><dt>node</dt><dd><a href=${link("nodes", "", spec.nodeName, past)}>${spec.nodeName}</a></dd></div>` : nothing}
      ${status?.phase ? html`<div><dt>phase</dt><dd>${status.phase}</dd></div>` : nothing}
      ${status?.podIP ? html`<div><dt>address</dt><dd>${status.podIP}</dd></div>` : nothing}
      ${past.at ? nothing : forwards.rows(name, metadata, spec, open, opened)}
      ${metadata.ownerReferences ? html`<div><dt>owned by</dt><dd>${metadata.ownerReferences.map(owner)}</dd></div>` : nothing}
      ${pairs("labels", metadata.labels)} ${pairs("annotations", annotations)}
    </dl>
    ${rows.length ? html`<h2>Conditions</h2><table><thead><tr><th>type</th><th>status</th><th>reason</th><th>message</th></tr></thead><tbody>${rows}</tbody></table>` : nothing}`;
}

// Owners are told by their kind.
const kindOf = (all, { apiVersion, kind }) => {
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  return [...all.values()].find((one) => one.kind === kind && one.group === group);
};

async function events(tab, { namespace, object }, signal) {
  const path = namespace ? `api/v1/namespaces/${namespace}/events` : "api/v1/events";
  const known = new Map();
  const draw = () => signal.aborted || render(eventsOf([...known.values()]), tab);
  draw();
  await persistently(signal, (error) => render(problem(error.message), tab), async (seen) => {
    const query = new URLSearchParams({ watch: "true", fieldSelector: `involvedObject.uid=${object.metadata.uid}` });
    for await (const { type, object: event } of lines(`${path}?${query}`, { signal: seen })) {
      if (type === "ERROR") throw new Refused(event.code, event);
      if (type === "DELETED") known.delete(event.metadata.uid);
      else known.set(event.metadata.uid, event);
      draw();
    }
  });
}

function eventsOf(all) {
  if (!all.length) return html`<p>None.</p>`;
  const when = (one) => one.lastTimestamp || one.eventTime || one.metadata.creationTimestamp;
  const row = (one) => html`<tr class=${one.type === "Warning" ? "bad" : ""}><td class="time">${when(one)}</td><td>${one.type}</td><td>${one.reason}</td>
    <td>${one.count || one.series?.count || 1}</td><td>${one.source?.component || one.reportingComponent}</td><td>${one.message}</td></tr>`;
  all.sort((a, b) => (when(a) < when(b) ? -1 : 1));
  return html`<table><thead><tr><th>last</th><th>type</th><th>reason</th><th>times</th><th>from</th><th>message</th></tr></thead><tbody>${all.map(row)}</tbody></table>`;
}

// Of the past nothing is edited.
async function written(tab, { object: { metadata: { managedFields: _, ...metadata }, ...object } }) {
  render(html`<pre tabindex="0" aria-label="As it was">${JSON.stringify({ ...object, metadata }, undefined, 2)}</pre>`, tab);
}

// Who set which field is nothing to edit, and is kept by whoever leaves it out.
const editable = (yaml) => yaml.replace(/^  managedFields:\n(?: {2}(?:- | ).*\n)*/m, "");

async function yaml(tab, { path }, signal) {
  const state = { before: editable(await text(path, { accept: YAML, signal })), diff: undefined };
  const written = () => tab.querySelector("textarea").value;
  const put = async (query) => editable(await text(`${path}${query}`, { method: "PUT", accept: YAML, type: YAML, body: written() }));
  const check = () => attempt(async () => ((state.diff = await compared(state.before, await put("?dryRun=All&fieldValidation=Strict"))), draw()));
  const apply = () => attempt(async () => {
    state.before = await put("?fieldValidation=Strict");
    state.diff = undefined;
    tab.querySelector("textarea").value = state.before;
    draw();
    return "it is stored";
  });
  const draw = () => render(html`<label class="wide">As it was read <textarea spellcheck="false" rows="28" .defaultValue=${state.before}></textarea></label>
    <p><button @click=${check}>Check</button> <button @click=${apply}>Apply</button></p>
    ${state.diff ? html`<pre class="diff" aria-label="What would change">${state.diff.length ? state.diff.map((line) => html`<span class=${line[0] === "+" ? "more" : line[0] === "-" ? "less" : ""}>${line}\n</span>`) : "nothing would change"}</pre>` : nothing}`, tab);
  draw();
}

function compared(before, after) {
  const found = structuredPatch("", "", before, after, "", "", { context: 3, timeout: DIFF_MS_MAX });
  if (!found) throw new Error("these texts are too different to be compared line by line");
  return found.hunks.flatMap((hunk) => [`@@ -${hunk.oldStart} +${hunk.newStart} @@`, ...hunk.lines]);
}

async function logs(tab, { path, object }, signal) {
  const containers = [...(object.spec.initContainers || []), ...object.spec.containers].map((one) => one.name);
  let reading = new AbortController();
  signal.addEventListener("abort", () => reading.abort());
  const read = async (container, previous) => {
    reading.abort();
    reading = new AbortController();
    const out = tab.querySelector("pre");
    out.textContent = "";
    const query = new URLSearchParams({ container, tailLines: 1000, ...(previous ? { previous: true } : { follow: true }) });
    try {
      for await (const piece of pieces(`${path}/log?${query}`, { signal: reading.signal })) {
        const stays = out.scrollTop + out.clientHeight < out.scrollHeight - 4;
        out.textContent = (out.textContent + piece).slice(-LOG_CHARS_MAX);
        if (!stays) out.scrollTop = out.scrollHeight;
      }
    } catch (error) {
      if (error.name !== "AbortError") out.textContent += `\n${error.message}`;
    }
  };
  const again = () => read(tab.querySelector("select").value, tab.querySelector("input").checked);
  render(html`<label>Container <select @change=${again}>${containers.map((name) => html`<option ?selected=${name === object.spec.containers[0].name}>${name}</option>`)}</select></label>
    <label><input type="checkbox" @change=${again}> of the run before</label><pre class="log" tabindex="0" aria-label="Log"></pre>`, tab);
  await again();
}

async function terminal(tab, { path, object }, signal) {
  const { open } = await import("./terminal.js");
  await open(tab, path, object.spec.containers.map((one) => one.name), signal);
}

async function explain(tab, { namespace, name }, signal) {
  const found = await json(`rayplane/v1/explain?${new URLSearchParams({ namespace, name })}`, { signal });
  const decided = (one, title) => {
    const plugins = [...new Set(one.nodes.flatMap((node) => Object.keys(node.scores)))].sort();
    const best = [...one.nodes].sort((a, b) => !!a.plugin - !!b.plugin || b.total - a.total || a.node.localeCompare(b.node));
    const row = (node) => html`<tr class=${node.plugin ? "bad" : ""}><th scope="row">${node.node}</th><td>${node.plugin ? "" : node.total}</td>
      ${plugins.map((plugin) => html`<td>${node.plugin ? "" : (node.scores[plugin] ?? 0)}</td>`)}<td>${node.plugin}</td><td>${node.reasons.join(", ")}</td></tr>`;
    return html`<h2>${title}: ${one.node || one.message}</h2><table><thead><tr><th>node</th><th>total</th>${plugins.map((plugin) => html`<th>${plugin}</th>`)}
      <th>refused by</th><th>because</th></tr></thead><tbody>${best.map(row)}</tbody></table>`;
  };
  render(html`<p>${found.node ? html`It is on <b>${found.node}</b>.` : html`It has no node: ${found.queue || "not queued"}, ${found.attempts} attempts so far.`}</p>
    ${found.past.map((one) => decided(one, `Decided at ${one.time}`))}${found.now ? decided(found.now, "Now it would be") : nothing}`, tab);
}

async function why(tab, { kind, namespace, name }, signal) {
  const found = await json(`rayplane/v1/why?${new URLSearchParams({ resource: kind.name, namespace, name })}`, { signal });
  const looks = found.replicas.flatMap((one) => one.looks).sort((a, b) => (a.at < b.at ? -1 : 1));
  const changed = (one) => one.changes.map((change) => html`<li>${change.resource} ${change.object} ${change.kind.toLowerCase()}</li>`);
  const wrote = (one) => one.did.map((text, i) => html`<li class=${one.writes[i].error ? "bad" : ""}>${text}</li>`);
  const row = (one) => html`<tr class=${one.error ? "bad" : ""}><td title=${one.at}>${one.at.slice(11, 23)}</td><th scope="row">${one.controller}</th><td>${one.times}</td>
    <td><ul>${changed(one)}</ul></td><td>${one.error || (one.writes.length ? html`<ul>${wrote(one)}</ul>` : "nothing to do")}</td></tr>`;
  render(looks.length
    ? html`<table><thead><tr><th>at</th><th>controller</th><th>times</th><th>because of</th><th>did</th></tr></thead><tbody>${looks.map(row)}</tbody></table>`
    : html`<p>No controller looked at it, as far as is remembered.</p>`, tab);
}
