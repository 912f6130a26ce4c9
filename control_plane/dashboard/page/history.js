// The past, of a cluster or of a recording: a slider over it, what there was at the instant that it is at, and what
// changed between two.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { styleMap } from "./lib/lit-html/directives/style-map.js";
import { json, OF_RECORDING } from "./api.js";

const STEPS = 60; // of playing from one end to the other
const STEP_MS = 1000;
const SETTLED_MS = 150; // while the slider is drawn, not every instant is asked for
const MARKS_MAX = 300;
const EVENTS_SHOWN = 12;
const VIEWS = {
  objects: { title: "Objects", load: async () => (await import("./tables.js")).show },
  packing: { title: "Packing", load: async () => (await import("./packing.js")).show },
  "control-plane": { title: "Control plane", load: async () => (await import("./control_plane.js")).showPast },
  object: { load: async () => (await import("./object.js")).show },
};

// Stays while one view of the past follows the other.
let mark;

// Where an instant is on the slider, and how it is asked for.
const placeOf = ({ position, revision }) => position ?? revision;

export async function show(place, parameters, signal) {
  const [span, recording] = await Promise.all([json("rayplane/v1/history", { signal }), OF_RECORDING ? json("rayplane/v1/recording", { signal }) : undefined]);
  const asked = parameters.get("view");
  const name = Object.hasOwn(VIEWS, asked) ? asked : "objects";
  const showThen = await VIEWS[name].load();
  const state = { ...span, name, recording, changes: undefined, error: "", playing: undefined };
  const draw = () => signal.aborted || render(view(state, parameters, deeds), place);
  let leaving = new AbortController();
  let waiting;
  signal.addEventListener("abort", () => (clearInterval(state.playing), clearTimeout(waiting), leaving.abort()));

  // Everything as it was then.
  async function go(at) {
    leaving.abort();
    leaving = new AbortController();
    const mine = leaving.signal;
    state.error = "";
    state.at = unknown(at);
    draw();
    try {
      const { at: found, oldest, newest } = await json(`rayplane/v1/history?${new URLSearchParams({ at })}`, { signal: mine });
      Object.assign(state, { at: found, oldest, newest });
      draw();
      const query = new URLSearchParams({ ...Object.fromEntries(parameters), at: placeOf(found), revision: found.revision });
      await showThen(place.querySelector("#then"), query, mine);
    } catch (error) {
      if (mine.aborted) return;
      stop();
      state.error = error.message;
      draw();
    }
  }

  const stop = () => (clearInterval(state.playing), (state.playing = undefined), draw());
  const deeds = {
    go,
    slide: (event) => {
      const at = Number(event.target.value);
      state.at = unknown(at);
      draw();
      clearTimeout(waiting);
      waiting = setTimeout(() => go(at), SETTLED_MS);
    },
    play: () => {
      if (state.playing) return stop();
      const { oldest, newest } = state;
      if (placeOf(state.at) >= placeOf(newest)) go(placeOf(oldest));
      const step = Math.max(1, Math.ceil((placeOf(newest) - placeOf(oldest)) / STEPS));
      state.playing = setInterval(() => {
        const next = Math.min(placeOf(state.at) + step, placeOf(state.newest));
        go(next);
        if (next === placeOf(state.newest)) stop();
      }, STEP_MS);
      draw();
    },
    set: () => ((mark = state.at), (state.changes = undefined), draw()),
    compare: async () => {
      const [from, to] = [placeOf(mark), placeOf(state.at)].sort((a, b) => a - b);
      const query = new URLSearchParams({ from, to, namespace: parameters.get("namespace") || "" });
      try {
        state.changes = await json(`rayplane/v1/changes?${query}`, { signal });
        state.error = "";
      } catch (error) {
        state.error = error.message;
      }
      draw();
    },
  };
  await go(Number(parameters.get("at")) || placeOf(OF_RECORDING ? span.oldest : span.newest));
}

// An instant of which no more is known yet than where it is.
const unknown = (at) => (OF_RECORDING ? { position: at } : { revision: at });

const seconds = (position) => `${(position / 1000).toFixed(3)} s`;
const told = ({ position, revision, time }) =>
  [position === undefined ? "" : seconds(position), revision === undefined ? "" : `revision ${revision}`, time ? new Date(time).toLocaleString() : ""].filter(Boolean).join(", ");
const brief = (one) => (one.position === undefined ? `revision ${one.revision}` : seconds(one.position));

function view({ oldest, newest, at, name, recording, changes, error, playing }, parameters, { go, slide, play, set, compare }) {
  const to = (one) => `#/history?${new URLSearchParams({ view: one, namespace: parameters.get("namespace") || "", at: placeOf(at) })}`;
  const offered = Object.entries(VIEWS).filter(([, one]) => one.title);
  return html`<h1>${recording ? html`${recording.name}, seed ${recording.seed}` : "Time travel"} <small>${told(at)}</small></h1>
    ${recording ? verdict(recording) : nothing}
    <p class="deeds">
      <button @click=${play}>${playing ? "Pause" : "Play"}</button>
      <label class="slider">${recording ? "Time" : "Revision"} <span class="track"><input type="range" min=${placeOf(oldest)} max=${placeOf(newest)} .value=${String(placeOf(at))} aria-valuetext=${told(at)} @input=${slide}>
        ${recording ? marks(recording, newest, go) : nothing}</span></label>
      <button @click=${set}>Mark this instant</button>
      ${mark ? html`<button @click=${compare}>What changed since ${brief(mark)}</button>` : nothing}
    </p>
    ${recording ? happened(recording, at, go) : html`<p>Kept from ${told(oldest)} on.</p>`}
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    ${changes ? changed(changes) : nothing}
    <nav class="tabs" aria-label="Of this instant">${offered.map(([one, { title }]) => html`<a href=${to(one)} aria-current=${name === one ? "page" : "false"}>${title}</a>`)}</nav>
    <section id="then" aria-label="As it was"></section>`;
}

function verdict({ of, cluster, ok, full, invariants, failures }) {
  const row = ({ name, seen, wrong }) => html`<tr class=${wrong.length ? "bad" : ""}><th scope="row">${name}</th><td>${wrong.length ? wrong.map((text) => html`<div>${text}</div>`) : seen ? "held" : "not seen here"}</td></tr>`;
  const unseen = invariants.filter((one) => !one.seen && !one.wrong.length);
  const held = invariants.filter((one) => one.seen && !one.wrong.length);
  return html`<p>A ${of === "chaos" ? html`chaos run on ${cluster}` : "simulation"}: <b class=${ok ? "good" : "bad"}>${ok ? "ok" : "failed"}</b>.
      ${full === null ? nothing : html`<span class="bad">It was full at ${seconds(full)}: nothing later was recorded.</span>`}</p>
    ${failures.map((text) => html`<p class="bad">${text}</p>`)}
    <details><summary>What must hold: ${held.length} held, ${invariants.length - held.length - unseen.length} did not, ${unseen.length} not seen here</summary>
      <table><tbody>${invariants.map(row)}</tbody></table></details>`;
}

// Where faults are on the slider. For the eye and the mouse: the list below has them with their names.
const of = ({ invariant, text }) => (invariant ? `${invariant}: ${text}` : text);

function marks({ marks }, newest, go) {
  const end = Math.max(1, placeOf(newest));
  const bar = ({ kind, from, until, ...mark }) => html`<i class=${kind} title="${seconds(from)}: ${of(mark)}" @click=${(event) => (event.preventDefault(), go(from))}
    style=${styleMap({ left: `${(100 * from) / end}%`, width: `${(100 * Math.max(0, Math.min(until, end) - from)) / end}%` })}></i>`;
  return html`<span class="marks" aria-hidden="true">${marks.slice(0, MARKS_MAX).map(bar)}</span>`;
}

function happened({ marks, events }, at, go) {
  const now = placeOf(at);
  const row = ({ kind, from, until, ...mark }) => html`<tr class=${kind === "violation" ? "bad" : ""} aria-current=${from <= now && now <= until ? "true" : "false"}>
    <td><button aria-label="Go to ${seconds(from)}" @click=${() => go(from)}>${seconds(from)}</button></td><td>${until > from ? `until ${seconds(until)}` : ""}</td><th scope="row">${of(mark)}</th></tr>`;
  const before = events.filter(({ position }) => position <= now).slice(-EVENTS_SHOWN).reverse();
  return html`${marks.length
      ? html`<details open><summary>Faults and violations: ${marks.length}</summary><table class="happened"><tbody>${marks.slice(0, MARKS_MAX).map(row)}</tbody></table>
          ${marks.length > MARKS_MAX ? html`<p>and ${marks.length - MARKS_MAX} more</p>` : nothing}</details>`
      : html`<p>No fault struck.</p>`}
    <details><summary>What happened up to then</summary><ol class="story">${before.map(({ position, text }) => html`<li><time>${seconds(position)}</time> ${text}</li>`)}</ol></details>`;
}

const value = (one) => (one === null ? "–" : typeof one === "string" ? one : JSON.stringify(one));
const who = ({ manager, time }) => [manager, time].filter(Boolean).join(", ");

function changed({ from, to, changes, unread }) {
  const row = (one) => html`<tr><th scope="row">${one.kind} ${[one.namespace, one.name].filter(Boolean).join("/")}</th><td>${one.change}</td>
    <td><ul>${one.fields.map((field) => html`<li>${field.path}: <code class="less">${value(field.before)}</code> → <code class="more">${value(field.after)}</code> <small>${who(field)}</small></li>`)}</ul></td>
    <td>${who(one)}</td></tr>`;
  return html`<h2>From ${brief(from)} to ${brief(to)}</h2>
    ${unread.map((name) => html`<p>objects of ${name} cannot be read: its definition has been deleted since</p>`)}
    ${changes.length
      ? html`<table class="diff"><thead><tr><th>object</th><th>was</th><th>fields</th><th>by</th></tr></thead><tbody>${changes.map(row)}</tbody></table>`
      : html`<p>Nothing changed.</p>`}`;
}
