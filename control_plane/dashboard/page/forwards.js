// Ports of pods and Services: the command that leads to them, and, where `rayplane dashboard` serves the page, an address
// of their own each, at which they can do nothing in the name of this page.

import { html, nothing } from "./lib/lit-html/lit-html.js";
import { json, OF_API_SERVER, OF_RECORDING } from "./api.js";
import { attempt } from "./said.js";

const PATH = "rayplane/v1/forwards";

// The ports of an object of a kind that speak TCP: { port, name, scheme } of each.
export function portsOf(kind, spec) {
  const ports = kind === "services" ? spec.ports : kind === "pods" ? spec.containers.flatMap((one) => one.ports || []) : [];
  const secure = ({ name = "", appProtocol = "" }, port) => port === 443 || /^https\b/.test(name) || /^https$/i.test(appProtocol);
  return (ports || [])
    .filter((one) => (one.protocol || "TCP") === "TCP")
    .map((one) => ({ one, port: one.containerPort ?? one.port }))
    .map(({ one, port }) => ({ port, name: one.name || "", scheme: secure(one, port) ? "https" : "http" }));
}

// Those that are open; undefined where none can be, which is where the page is served by others, and for a token.
export async function opened(signal) {
  if (OF_API_SERVER || OF_RECORDING) return undefined;
  return json(PATH, { signal }).then((found) => found.forwards, () => undefined);
}

// `all`: the open ones; `changed` gets those that are open then.
export function rows(resource, { namespace, name }, spec, all, changed) {
  const again = (work) => attempt(async () => (await work(), changed(await opened())));
  const open = (port) => again(() => json(PATH, { method: "POST", body: { namespace, resource, name, port: port.port, scheme: port.scheme } }));
  const end = ({ url }) => again(() => json(`${PATH}?${new URLSearchParams({ url })}`, { method: "DELETE" }));
  const row = (port) => {
    const found = all?.find((one) => one.namespace === namespace && one.resource === resource && one.name === name && one.port === port.port && one.scheme === port.scheme);
    const there = found
      ? html`<a href=${found.url} target="_blank" rel="noopener noreferrer">${found.url}</a> <button aria-label="End port ${port.port}" @click=${() => end(found)}>End</button>`
      : html`<button aria-label="Open port ${port.port}" @click=${() => open(port)}>Open</button>`;
    return html`<div><dt>port ${port.port}${port.name ? ` (${port.name})` : ""}, from here</dt>
      <dd><code>kubectl port-forward -n ${namespace} ${resource}/${name} :${port.port}</code> ${all ? there : nothing}</dd></div>`;
  };
  return portsOf(resource, spec).map(row);
}
