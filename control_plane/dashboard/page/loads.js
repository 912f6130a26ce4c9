// What API servers, schedulers, controller managers and machines carry, as their metrics and the cluster tell it.

import { html, nothing, svg } from "./lib/lit-html/lit-html.js";

const RATES_MAX = 120; // looks
const MIB = 2 ** 20;

// Notes the rate of each server for its line, with what was known before.
export function noteRates(rates, loads) {
  for (const [name, { requests_s }] of Object.entries(loads)) {
    if (requests_s === null) continue;
    rates.set(name, [...(rates.get(name) || []), requests_s].slice(-RATES_MAX));
  }
}

export function servers(all, loads, rates, deeds) {
  const row = (one) => {
    const load = loads[one.name];
    return html`<tr class=${one.running === false ? "bad" : ""}>
        <th scope="row">${one.name}</th><td>${one.machine}</td><td>${stateOf(one)}</td>
        <td class="number">${number(load?.requests_s)}</td><td>${line(one.name, rates.get(one.name) || [])}</td>
        ${latency(load)}<td class="number">${load?.in_flight ?? ""}</td>${own(load)}<td>${deeds(one.name)}</td>
      </tr>
      ${load?.verbs.length ? html`<tr class="detail"><td colspan="11"><details><summary>by verb</summary>${byVerb(load.verbs)}</details></td></tr>` : nothing}`;
  };
  return html`<h2>API servers</h2>
    <table><thead><tr><th>server</th><th>machine</th><th>state</th><th class="number">requests/s</th><th>of late</th>
      <th class="number">p50</th><th class="number">p99</th><th class="number">in flight</th>${OWN}<th></th></tr></thead>
    <tbody>${all.map(row)}</tbody></table>`;
}

export function leading(all, leases, loads, deeds) {
  const row = (one) => {
    const lease = leases.find((lease) => lease.holder.split("_")[0] === one.name);
    const load = loads[one.name];
    return html`<tr class=${one.running === false ? "bad" : ""}>
      <th scope="row">${one.name}</th><td>${one.machine}</td><td>${stateOf(one)}</td>
      <td>${lease ? html`<b>leads</b> (${lease.name}, renewed ${lease.age_s.toFixed(1)} s ago of ${lease.duration_s} s)` : "stands by"}</td>
      <td>${queues(load?.queues || {})}</td>${own(load)}<td>${deeds(one.name)}</td>
    </tr>`;
  };
  return html`<h2>Schedulers and controllers</h2>
    ${leases.filter((lease) => lease.error || !lease.holder).map((lease) => html`<p class="bad">${lease.name}: ${lease.error || "nobody leads"}</p>`)}
    <table><thead><tr><th>actor</th><th>machine</th><th>state</th><th>lease</th><th>queues</th>${OWN}<th></th></tr></thead>
    <tbody>${all.map(row)}</tbody></table>`;
}

export function machines(now) {
  const at = new Map(now.machines.map((one) => [one.address, { ...one, names: [] }]));
  const put = (address, one) => {
    if (!at.has(address)) at.set(address, { address, resources: {}, names: [], gone: now.machines.length > 0 });
    at.get(address).names.push({ name: one.name, bad: one.running === false || !!one.error });
  };
  for (const one of now.members) put(one.endpoint.slice(0, one.endpoint.lastIndexOf(":")), one);
  for (const one of now.actors) put(one.machine, one);
  const row = (one) => html`<tr class=${one.gone ? "bad" : ""}>
    <th scope="row">${one.address}</th>
    <td>${one.gone ? "gone" : one.drained ? "drained" : "used"}</td>
    <td class="number">${one.resources.CPU ?? ""}</td><td class="number">${size(one.resources.memory)}</td><td>${others(one.resources)}</td>
    <td class="chips">${one.names.map(({ name, bad }) => html`<span class=${bad ? "bad" : ""}>${name}</span>`)}</td>
  </tr>`;
  return html`<h2>Machines</h2>
    <table><thead><tr><th>machine</th><th>state</th><th class="number">CPUs</th><th class="number">memory</th><th>besides</th><th>actors</th></tr></thead>
    <tbody>${[...at.values()].map(row)}</tbody></table>`;
}

// A line of what was lately, as high as the most of it.
export function line(name, values) {
  if (values.length < 2) return nothing;
  const most = Math.max(...values, 1);
  const x = (i) => ((RATES_MAX - values.length + i) * 140) / (RATES_MAX - 1);
  const points = values.map((value, i) => `${x(i).toFixed(1)},${(21 - (20 * value) / most).toFixed(1)}`).join(" ");
  return html`<svg class="line" viewBox="0 0 140 22" role="img" aria-label="${name}: at most ${number(most)} requests a second of late">${svg`<polyline points=${points}></polyline>`}</svg>`;
}

const OWN = html`<th class="number" title="of its process">CPU</th><th class="number" title="of its process">memory</th>`;
const stateOf = (one) => (one.running ? "runs" : one.running === false ? "does not run" : "unknown");
const number = (value) => (value === null || value === undefined ? "" : value.toFixed(1));
const ms = (seconds) => (seconds === null || seconds === undefined ? "" : seconds < 1 ? `≤ ${Math.round(seconds * 1000)} ms` : `≤ ${seconds} s`);
const size = (bytes) => (!bytes ? "" : bytes >= 1024 * MIB ? `${(bytes / 1024 / MIB).toFixed(1)} GiB` : `${Math.round(bytes / MIB)} MiB`);
const latency = (load) => html`<td class="number">${ms(load?.p50_s)}</td><td class="number">${ms(load?.p99_s)}</td>`;

const own = (load) => html`<td class="number">${load && load.cpu !== null ? `${(load.cpu * 100).toFixed(0)} %` : ""}</td><td class="number">${size(load?.memory_bytes)}</td>`;

const others = (resources) =>
  Object.entries(resources)
    .filter(([name]) => name !== "CPU" && name !== "memory")
    .map(([name, amount]) => `${name} ${amount}`)
    .join(", ");

function byVerb(verbs) {
  const row = (one) => html`<tr><th scope="row">${one.verb}</th><td class="number">${one.count}</td><td class="number">${number(one.requests_s)}</td>${latency(one)}</tr>`;
  return html`<table class="small"><thead><tr><th>verb</th><th class="number">answered</th><th class="number">requests/s</th><th class="number">p50</th><th class="number">p99</th></tr></thead>
    <tbody>${verbs.map(row)}</tbody></table>`;
}

function queues(all) {
  const names = Object.keys(all);
  const full = names.filter((name) => all[name] > 0).sort((a, b) => all[b] - all[a]);
  if (!names.length) return nothing;
  return full.length ? html`<span class="chips">${full.map((name) => html`<span>${name} ${all[name]}</span>`)}</span>` : `${names.length}, all empty`;
}
