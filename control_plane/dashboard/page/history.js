// The past: a slider over revisions, what there was at the one that it is at, and what changed between two.

import { html, nothing, render } from "./lib/lit-html/lit-html.js";
import { json } from "./api.js";
import { show as table } from "./tables.js";

const STEPS = 60; // of playing from one end to the other
const STEP_MS = 1000;
const SETTLED_MS = 150; // while the slider is drawn, not every revision is asked for

export async function show(place, parameters, signal) {
  const span = await json("rayplane/v1/history", { signal });
  const state = { ...span, mark: undefined, changes: undefined, error: "", playing: undefined };
  const draw = () => signal.aborted || render(view(state, parameters, deeds), place);
  let leaving = new AbortController();
  let waiting;
  signal.addEventListener("abort", () => (clearInterval(state.playing), clearTimeout(waiting), leaving.abort()));

  // Everything as it was then.
  async function go(revision) {
    leaving.abort();
    leaving = new AbortController();
    const mine = leaving.signal;
    state.error = "";
    state.at = { revision, time: "" };
    draw();
    try {
      const { at, oldest, newest } = await json(`rayplane/v1/history?${new URLSearchParams({ at: revision })}`, { signal: mine });
      Object.assign(state, { at, oldest, newest });
      draw();
      const query = new URLSearchParams({ kind: parameters.get("kind") || "pods", namespace: parameters.get("namespace") || "", at: at.revision });
      await table(place.querySelector("#then"), query, mine);
    } catch (error) {
      if (mine.aborted) return;
      stop();
      state.error = error.message;
      draw();
    }
  }

  const stop = () => (clearInterval(state.playing), (state.playing = undefined), draw());
  const deeds = {
    slide: (event) => {
      const revision = Number(event.target.value);
      state.at = { revision, time: "" };
      draw();
      clearTimeout(waiting);
      waiting = setTimeout(() => go(revision), SETTLED_MS);
    },
    play: () => {
      if (state.playing) return stop();
      const { oldest, newest } = state;
      if (state.at.revision >= newest.revision) go(oldest.revision);
      const step = Math.max(1, Math.ceil((newest.revision - oldest.revision) / STEPS));
      state.playing = setInterval(() => {
        const next = Math.min(state.at.revision + step, state.newest.revision);
        go(next);
        if (next === state.newest.revision) stop();
      }, STEP_MS);
      draw();
    },
    mark: () => ((state.mark = state.at), (state.changes = undefined), draw()),
    compare: async () => {
      const [from, to] = [state.mark.revision, state.at.revision].sort((a, b) => a - b);
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
  await go(Number(parameters.get("at")) || span.newest.revision);
}

const told = ({ revision, time }) => `revision ${revision}${time ? `, ${new Date(time).toLocaleString()}` : ""}`;

function view({ oldest, newest, at, mark, changes, error, playing }, parameters, { slide, play, mark: set, compare }) {
  return html`<h1>Time travel <small>${told(at)}</small></h1>
    <p class="deeds">
      <button @click=${play}>${playing ? "Pause" : "Play"}</button>
      <label class="slider">Revision <input type="range" min=${oldest.revision} max=${newest.revision} .value=${String(at.revision)} aria-valuetext=${told(at)} @input=${slide}></label>
      <button @click=${set}>Mark this instant</button>
      ${mark ? html`<button @click=${compare}>What changed since revision ${mark.revision}</button>` : nothing}
    </p>
    <p>Kept from ${told(oldest)} on.</p>
    ${error ? html`<p class="bad" role="alert">${error}</p>` : nothing}
    ${changes ? changed(changes) : nothing}
    <section id="then" aria-label="As it was"></section>`;
}

const value = (one) => (one === null ? "–" : typeof one === "string" ? one : JSON.stringify(one));
const who = ({ manager, time }) => [manager, time].filter(Boolean).join(", ");

function changed({ from, to, changes, unread }) {
  const row = (one) => html`<tr><th scope="row">${one.kind} ${[one.namespace, one.name].filter(Boolean).join("/")}</th><td>${one.change}</td>
    <td><ul>${one.fields.map((field) => html`<li>${field.path}: <code class="less">${value(field.before)}</code> → <code class="more">${value(field.after)}</code> <small>${who(field)}</small></li>`)}</ul></td>
    <td>${who(one)}</td></tr>`;
  return html`<h2>From revision ${from.revision} to ${to.revision}</h2>
    ${unread.map((name) => html`<p>objects of ${name} cannot be read: its definition has been deleted since</p>`)}
    ${changes.length
      ? html`<table class="diff"><thead><tr><th>object</th><th>was</th><th>fields</th><th>by</th></tr></thead><tbody>${changes.map(row)}</tbody></table>`
      : html`<p>Nothing changed.</p>`}`;
}
