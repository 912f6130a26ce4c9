// What who is signed in may see and do, so that nothing is offered that would only be refused. The server has the word.

import { json, OF_RECORDING } from "./api.js";

const PATIENCE_MS = 3000;
const GROUP = "chaos.rayplane.io";
const OF_VIEWS = Object.fromEntries(
  ["control-plane", "packing", "history", "changes", "explain", "why"].map((view) => [view, { nonResourceAttributes: { verb: "get", path: `/rayplane/v1/${view}` } }]),
);
const ASKED = { ...OF_VIEWS, faults: { resourceAttributes: { verb: "create", group: GROUP, resource: "faults" } } };

let known;

// Maps the views, and `faults`, to whether they are allowed; all of them where nobody says so soon.
export async function rights() {
  known ??= read();
  return known;
}

export const forget = () => (known = undefined);

async function read() {
  const allowed = async ([name, spec]) => [name, OF_RECORDING || (await may(spec))];
  return Object.fromEntries(await Promise.all(Object.entries(ASKED).map(allowed)));
}

async function may(spec) {
  const body = { apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectAccessReview", spec };
  try {
    const { status } = await json("apis/authorization.k8s.io/v1/selfsubjectaccessreviews", { method: "POST", body, signal: AbortSignal.timeout(PATIENCE_MS) });
    return status.allowed;
  } catch (error) {
    if (error.status === 401) throw error;
    known = undefined;
    return true;
  }
}
