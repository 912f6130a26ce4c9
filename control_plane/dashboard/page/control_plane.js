// Members, API servers and the rest of the control plane as they stand, and faults to begin and end.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { json, lines, OF_RECORDING, persistently } from "./api.js";
import { elections, leaderOf, note } from "./elections.js";
import { leading, machines, noteRates, servers } from "./loads.js";
import { rights } from "./rights.js";
import { attempt } from "./said.js";

const STORY_MAX = 60;
const FOR = "10s";
const LEADING = ["scheduler", "controllers"];

export async function show(place, _, signal) {
  const lately = { strips: new Map(), rates: new Map() };
  const state = { now: undefined, known: undefined, story: [], faults: undefined, stood: undefined, may: (await rights()).faults, verbs: [], error: "" };
  const draw = () => signal.aborted || render(view(state, act), place);
  const tell = (texts) => (state.story = [...texts.map((text) => ({ at: new Date().toLocaleTimeString(), text })), ...state.story].slice(0, STORY_MAX));
  // What a button did, or why it did nothing, is part of what happened: a kill is seen nowhere else.
  const act = (work) =>
    attempt(async () => {
      try {
        const { text, lasts } = await work();
        if (!lasts) tell([text]);
        return text;
      } catch (error) {
        tell([error.message]);
        throw error;
      } finally {
        draw();
      }
    });
  const take = (faults) => {
    if (faults) {
      tell(faultChanges(state.stood, faults));
      state.stood = faults;
    }
    state.faults = faults;
  };
  const offer = async () => {
    const { verbs = [] } = await json("rayplane/v1/faults", { signal });
    state.verbs = verbs.filter((one) => !one.refused).map((one) => one.verb);
    draw();
  };
  draw();
  const failed = (error) => ((state.error = error.message), (state.faults = undefined), draw());
  await persistently(signal, failed, async (seen) => {
    for await (const now of lines("rayplane/v1/control-plane", { signal: seen })) {
      state.error = now.members && now.error ? `the supervisor does not answer: ${now.error}` : now.error;
      if (now.members) {
        const known = remembered(state.known, now);
        const at = performance.now() / 1000;
        tell(changes(state.known, known));
        state.known = known;
        state.now = { ...now, lately };
        take(now.faults);
        note(lately.strips, now, at);
        noteRates(lately.rates, now.loads);
      }
      // What can be struck is asked for once, from who can answer.
      if (state.may && !state.verbs.length && now.faults) offer().catch(() => undefined);
      draw();
    }
  });
}

// What is known of each by its name: what a look could not tell is as it was before.
export function remembered(before, now) {
  const unsure = (now.leases || []).some(({ error }) => error);
  const known = (one) => {
    const old = before?.get(one.name);
    const leader = one.leader === undefined || (one.role && unsure) ? old?.leader : one.leader;
    return { ...one, leader, term: one.term ?? old?.term, running: one.running ?? old?.running ?? null, starts: one.running === null && old ? old.starts : one.starts };
  };
  return new Map([...now.members, ...now.actors].map((one) => [one.name, known(one)]));
}

// What is otherwise than a moment ago, in words; nothing of a first look.
export function changes(before, now) {
  if (!before) return [];
  const was = new Map(before);
  const told = [];
  for (const one of now.values()) {
    const old = was.get(one.name);
    if (!old) told.push(`${one.name} is new`);
    else {
      if (one.leader && (old.leader !== one.leader || old.term !== one.term)) told.push(`${one.name} leads${one.term ? ` in term ${one.term}` : ""}`);
      if (old.running !== one.running && old.running !== null) told.push(`${one.name} ${one.running ? "runs" : "does not run"}`);
      else if (old.starts !== one.starts) told.push(`${one.name} was started again`);
      if (!old.error && one.error) told.push(`${one.name} does not answer: ${one.error}`);
      if (old.error && !one.error) told.push(`${one.name} answers again`);
    }
    was.delete(one.name);
  }
  for (const name of was.keys()) told.push(`${name} is gone`);
  return told;
}

const struck = ({ fault, hit }) => `${fault}${hit?.length ? ` → ${hit.join(", ")}` : ""}`;

// Which faults have begun since, and which are over; nothing of a first look.
export function faultChanges(before, now) {
  if (!before) return [];
  const others = (all) => (one) => !all.some(({ id }) => id === one.id);
  const over = before.filter(others(now)).map((one) => `over: ${struck(one)}`);
  return [...now.filter(others(before)).map((one) => `began: ${struck(one)}`), ...over];
}

// What was done, and whether it lasts: that it began and is over is seen then.
const begin = async (fault) => {
  const begun = await json("rayplane/v1/faults", { method: "POST", body: { fault } });
  return { text: struck(begun), lasts: !!begun.id };
};

const end = async ({ id, fault }) => {
  try {
    await json(`rayplane/v1/faults?id=${encodeURIComponent(id)}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) throw error; // by itself, meanwhile
  }
  return { text: `over: ${fault}`, lasts: true };
};

// As they stood at an instant of the past: as a recording has it, or as the supervisor saw it.
export async function showPast(place, parameters, signal) {
  const then = await json(`rayplane/v1/control-plane?${new URLSearchParams({ at: parameters.get("at") })}`, { signal });
  const recorded = () => html`<div class="actors">${members(then.members)} ${actors(then.actors)}</div>`;
  render(!then.members ? html`<p>Nobody had looked yet.</p>` : OF_RECORDING ? recorded() : seen(then), place);
}

function seen({ lately, ...then }) {
  const strips = new Map();
  for (const one of lately) note(strips, one, new Date(one.seen) / 1000);
  const when = new Date(then.seen).toLocaleTimeString();
  return html`<p>As the supervisor saw it at ${when}.</p>${parts({ ...then, loads: {}, lately: { strips, rates: new Map() } }, () => nothing)}`;
}

function view({ now, story, faults, may, verbs, error }, act) {
  return html`
    <h1>Control plane ${now ? html`of ${now.name}` : ""}</h1>
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    ${now ? parts(now, (name) => buttons(name, verbs, act, may && faults)) : html`<p>Looking …</p>`}
    ${standing(faults, may, verbs, act)}
    <h2>What happened</h2>
    <ol class="story" aria-live="polite">${story.map(({ at, text }) => html`<li><time>${at}</time> ${text}</li>`)}</ol>
  `;
}

function parts(now, deeds) {
  const { strips, rates } = now.lately;
  const of = (roles) => now.actors.filter((one) => roles.includes(one.role));
  const shown = ["apiserver", ...LEADING];
  return html`<div class="actors">${elections(strips)} ${members(now.members, deeds)} ${servers(of(["apiserver"]), now.loads, rates, deeds)}
    ${leading(of(LEADING), now.leases, now.loads, deeds)} ${machines(now)}
    ${actors(now.actors.filter((one) => !shown.includes(one.role)), deeds)}</div>`;
}

function members(all, deeds = () => nothing) {
  const leader = leaderOf(all);
  const named = new Map(all.map(({ id, name }) => [id, name]));
  const followed = ({ follows }) => (follows === undefined ? leader?.name : named.get(follows)) ?? "nobody";
  const row = (one) => html`<tr class=${one.error ? "bad" : ""}>
    <th scope="row">${one.name}</th>
    <td>${one.error ? "does not answer" : one.leader ? html`<b>leader</b>` : html`follows <span class="whole">${followed(one)}</span>`}</td>
    <td>${one.term ?? ""}</td><td>${one.raft_index ?? ""}</td><td>${one.raft_applied ?? ""}</td>
    <td>${leader?.raft_index && one.raft_index ? Math.max(0, leader.raft_index - one.raft_index) : ""}</td>
    <td>${one.revision ?? ""}</td><td class="whole">${one.db_bytes ? `${(one.db_bytes / 2 ** 20).toFixed(1)} MiB` : ""}</td>
    <td>${one.endpoint}</td><td>${deeds(one.name)}</td>
  </tr>`;
  return html`<h2>etcd</h2>
    <table><thead><tr><th>member</th><th>role</th><th>term</th><th title="index of the last entry of its log">log</th><th title="index up to which entries are committed and applied">committed</th>
      <th>behind</th><th>revision</th><th>data</th><th>address</th><th></th></tr></thead>
    <tbody>${all.map(row)}</tbody></table>`;
}

function actors(all, deeds = () => nothing) {
  const row = (one) => html`<tr class=${one.running === false ? "bad" : ""}>
    <th scope="row">${one.name}</th><td>${one.role}${one.leader ? html` <b>leads</b>` : ""}</td><td>${one.machine}</td>
    <td>${one.running ? "runs" : one.running === false ? "does not run" : "unknown"}</td><td>${one.starts}</td>
    <td>${one.reason}</td><td>${deeds(one.name)}</td>
  </tr>`;
  return html`<h2>Other actors</h2>
    <table><thead><tr><th>actor</th><th>role</th><th>machine</th><th>state</th><th>starts</th><th>last failure</th><th></th></tr></thead>
    <tbody>${all.map(row)}</tbody></table>`;
}

// What can be done to one actor, where the cluster can have it: the question asked before, and the fault.
const DEEDS = [
  ["kill", "Kill", (name) => [`Kill ${name}? The supervisor starts it again.`, `kill: {target: ${name}}`]],
  ["stop", "Stop", (name) => [`Stop ${name} for ${FOR}?`, `stop: {target: ${name}, for: ${FOR}}`]],
  ["partition", "Cut off", (name) => [`Cut ${name} off from all others for ${FOR}?`, `partition: {hosts: [[${name}]], for: ${FOR}}`]],
];

// What can be done to an actor, and undone of what lasts.
function buttons(name, verbs, act, faults) {
  const button = ([, title, fault]) => {
    const [question, text] = fault(name);
    return html`<button class="danger" aria-label="${title} ${name}" @click=${() => confirm(question) && act(() => begin(text))}>${title}</button> `;
  };
  const lasting = (faults || []).filter(({ hit }) => hit?.includes(name));
  const undo = (one) => html`<button aria-label="Undo ${one.fault}, which hit ${name}" title=${one.fault} @click=${() => act(() => end(one))}>Undo ${one.fault.split(":")[0]}</button> `;
  // Who lets others go on again cannot be stopped.
  const can = ([verb]) => verbs.includes(verb) && (verb !== "stop" || name !== "supervisor");
  return html`${DEEDS.filter(can).map(button)}${lasting.map(undo)}`;
}

function standing(faults, may, verbs, act) {
  const submit = (event) => {
    event.preventDefault();
    const form = event.target;
    act(() => begin(new FormData(form).get("fault"))).then((ok) => ok && form.reset());
  };
  const row = (one) => html`<li>${struck(one)}
    ${may ? html`<button @click=${() => act(() => end(one))}>End</button>` : nothing} ${one.failed ? html`<span class="bad">${one.failed}</span>` : ""}</li>`;
  return html`<h2>Faults</h2>
    ${faults?.length ? html`<ul>${faults.map(row)}</ul>` : html`<p>${faults ? "None lasts." : "Nobody says which last."}</p>`}
    ${may ? html`<form @submit=${submit}><label>Begin <input name="fault" size="50" required list="verbs" placeholder="slow_network: {delay: 50ms, for: 30s}"></label>
      <datalist id="verbs">${verbs.map((verb) => html`<option value="${verb}: {"></option>`)}</datalist>
      <button class="danger">Begin</button></form>` : nothing}`;
}
