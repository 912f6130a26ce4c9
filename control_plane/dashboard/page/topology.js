// What stands below an object, as it changes: the ReplicaSets and pods of a workload, and the pods a service leads to.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { json, lines, persistently, Refused } from "./api.js";
import { link, listPath, then } from "./kinds.js";

const BELOW = {
  "deployments.apps": ["replicasets.apps", "pods"],
  "replicasets.apps": ["pods"],
  "statefulsets.apps": ["pods"],
  "daemonsets.apps": ["pods"],
  "jobs.batch": ["pods"],
  "cronjobs.batch": ["jobs.batch", "pods"],
  replicationcontrollers: ["pods"],
  services: ["pods"],
};
const OF_JOBS = "batch.kubernetes.io/job-name";
const EACH_MAX = 200; // objects drawn below one

export const hasTopology = (kind) => kind.name in BELOW;

export async function open(tab, { all, kind, namespace, object, past }, signal) {
  const selector = selectorOf(kind, object.spec);
  if (!selector) return render(html`<p>It selects no pods.</p>`, tab);
  const state = { kind, object, past, known: new Map(), error: "" };
  let waiting;
  const soon = () => (waiting ??= requestAnimationFrame(() => ((waiting = undefined), signal.aborted || render(view(state), tab))));
  soon();
  const failed = (error) => ((state.error = error.message), soon());
  const follows = BELOW[kind.name].map((name) => all.get(name)).filter(Boolean).map((below) => {
    const query = new URLSearchParams({ ...(past.at ? then(past) : { watch: "true" }), ...(below.name === "jobs.batch" ? {} : { labelSelector: selector }) });
    if (past.at) return read(state.known, below, `${listPath(below, namespace)}?${query}`, signal).then(soon);
    return persistently(signal, failed, (seen) => follow(state.known, below, `${listPath(below, namespace)}?${query}`, seen, soon));
  });
  await Promise.all(follows);
}

// What there was then.
async function read(known, kind, path, signal) {
  for (const object of (await json(path, { signal })).items) known.set(object.metadata.uid, { kind, object });
}

// A watch begins with all that is there.
async function follow(known, kind, path, signal, changed) {
  for (const [uid, one] of known) if (one.kind === kind) known.delete(uid);
  for await (const { type, object } of lines(path, { signal })) {
    if (type === "ERROR") throw new Refused(object.code, object);
    if (type === "DELETED") known.delete(object.metadata.uid);
    else known.set(object.metadata.uid, { kind, object });
    changed();
  }
}

// As the API's labelSelector takes it; "" where nothing is selected.
export function selectorOf(kind, spec) {
  if (kind.name === "cronjobs.batch") return OF_JOBS;
  const plain = kind.name === "services" || kind.name === "replicationcontrollers";
  const { matchLabels, matchExpressions } = plain ? { matchLabels: spec.selector } : spec.selector || {};
  const words = { In: (key, all) => `${key} in (${all})`, NotIn: (key, all) => `${key} notin (${all})`, Exists: (key) => key, DoesNotExist: (key) => `!${key}` };
  const equal = Object.entries(matchLabels || {}).map(([key, value]) => `${key}=${value}`);
  return [...equal, ...(matchExpressions || []).map(({ key, operator, values }) => words[operator](key, values))].join(",");
}

function view({ kind, object, past, known, error }) {
  const owned = new Map();
  for (const one of known.values()) {
    const owners = kind.name === "services" ? [object] : one.object.metadata.ownerReferences || [];
    for (const owner of owners) {
      const uid = owner.uid ?? owner.metadata.uid;
      if (!owned.has(uid)) owned.set(uid, []);
      owned.get(uid).push(one);
    }
  }
  const tree = below(owned, object.metadata.uid, past);
  return html`${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}${tree === nothing ? html`<p>Nothing is below it.</p>` : tree}`;
}

// Each is drawn once: owners are what clients write, so what is below may be an owner of what is above.
function below(owned, uid, past, drawn = new Set([uid])) {
  const fresh = ({ object }) => !drawn.has(object.metadata.uid) && drawn.add(object.metadata.uid);
  const all = (owned.get(uid) || []).filter(fresh);
  if (!all.length) return nothing;
  all.sort((a, b) => (a.object.metadata.name < b.object.metadata.name ? -1 : 1));
  const row = ({ kind, object }) => html`<li>${kind.kind} <a href=${link(kind, object.metadata.namespace, object.metadata.name, past)}>${object.metadata.name}</a>
    ${standing(kind, object, past)} ${below(owned, object.metadata.uid, past, drawn)}</li>`;
  return html`<ul class="topology">${all.slice(0, EACH_MAX).map(row)}
    ${all.length > EACH_MAX ? html`<li>and ${all.length - EACH_MAX} more</li>` : nothing}</ul>`;
}

function standing({ kind }, { spec = {}, status = {} }, past) {
  if (kind === "Pod") {
    const ready = status.conditions?.some((one) => one.type === "Ready" && one.status === "True");
    const node = spec.nodeName ? html`on <a href=${link("nodes", "", spec.nodeName, past)}>${spec.nodeName}</a>` : "on no node";
    return html`<span class=${ready || status.phase === "Succeeded" ? "" : "bad"}>${ready ? "Ready" : status.phase}</span> ${node}`;
  }
  if (kind === "Job") return html`${status.succeeded || 0} of ${spec.completions ?? 1} done`;
  return html`${status.readyReplicas || 0} of ${spec.replicas ?? 1} ready`;
}
