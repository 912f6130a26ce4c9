// The kinds that the cluster serves, and where their objects are.

import { json, OF_RECORDING } from "./api.js";

const AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

// What people look for first; all others follow by name.
const FIRST = [
  "pods", "deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch",
  "services", "ingresses.networking.k8s.io", "configmaps", "secrets", "persistentvolumeclaims", "persistentvolumes",
  "storageclasses.storage.k8s.io", "nodes", "namespaces", "events",
];

let known;

// Maps "deployments.apps" to { name, kind, plural, group, version, base, namespaced, verbs, subresources }.
export async function kinds() {
  known ??= read().catch((error) => {
    known = undefined;
    throw error;
  });
  return known;
}

export const forget = () => (known = undefined);

async function read() {
  const found = await Promise.all(["api", "apis"].map((path) => json(path, { accept: AGGREGATED })));
  const all = found.flatMap((list) => list.items.flatMap(ofGroup));
  const rank = (one) => (FIRST.includes(one.name) ? FIRST.indexOf(one.name) : FIRST.length);
  all.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
  return new Map(all.map((one) => [one.name, one]));
}

function ofGroup(item) {
  const group = item.metadata?.name || "";
  const seen = new Set();
  return (item.versions || []).flatMap(({ version, resources = [] }) =>
    resources
      .filter(({ resource }) => !seen.has(resource) && seen.add(resource))
      .map((one) => ({
        name: group ? `${one.resource}.${group}` : one.resource,
        kind: one.responseKind.kind,
        plural: one.resource,
        group,
        version,
        base: group ? `apis/${group}/${version}` : `api/${version}`,
        namespaced: one.scope === "Namespaced",
        verbs: one.verbs,
        subresources: new Set((one.subresources || []).map((sub) => sub.subresource)),
      })),
  );
}

// Where a list of the kind is; of one namespace, or of all.
export const listPath = (kind, namespace) =>
  namespace && kind.namespaced ? `${kind.base}/namespaces/${encodeURIComponent(namespace)}/${kind.plural}` : `${kind.base}/${kind.plural}`;

export const objectPath = (kind, namespace, name) => `${listPath(kind, namespace)}/${encodeURIComponent(name)}`;

// `past`: what says of which instant it is, empty for now.
export const link = (kind, namespace, name, past = {}) => {
  const query = { kind: kind.name ?? kind, namespace: namespace || "", name, ...past };
  return past.at ? `#/history?${new URLSearchParams({ view: "object", ...query })}` : `#/object?${new URLSearchParams(query)}`;
};

// What of a view's parameters says of which instant it is: its place on the slider, and the revision that it has.
export const pastOf = (parameters) => (parameters.get("at") ? { at: parameters.get("at"), revision: parameters.get("revision") } : {});

// What a list is asked with to be of then.
export const then = ({ at, revision }) => (!at ? {} : OF_RECORDING ? { at } : { resourceVersion: revision, resourceVersionMatch: "Exact" });
